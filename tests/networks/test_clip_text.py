"""The text transformer beside transformers', in float64 with every parameter random."""

import dataclasses

import pytest
import torch
from tests.networks.reference import (
    CLIP,
    CLIP_PROJECTED,
    randomise,
    relative_error,
    rename,
    transformers_clip,
)

from calotype.errors import InputError
from calotype.models.presets import CLIP_L, sd2, sdxl
from calotype.networks.clip_text import ClipText
from calotype.networks.config import ClipTextConfig

OPENAI = ClipTextConfig(
    vocabulary=50, width=16, layers=3, heads=2, context_length=9, mlp_width=40, end_token=49
)
OPENCLIP = dataclasses.replace(OPENAI, activation="gelu", projection_width=12)
TOKENS = torch.tensor([[48, 3, 1, 4, 49, 49, 49], [48, 7, 49, 0, 0, 0, 0], [48, 1, 2, 3, 4, 5, 49]])


@pytest.mark.parametrize("config", [OPENAI, OPENCLIP], ids=["openai", "openclip"])
@torch.no_grad()
def test_equals_transformers(config: ClipTextConfig) -> None:
    theirs = transformers_clip(config)
    ours = ClipText(config).double()
    table = CLIP if config.projection_width is None else CLIP_PROJECTED
    ours.load_state_dict(rename(theirs.state_dict(), table, to_ours=True))
    found, wanted = ours(TOKENS), theirs(TOKENS, output_hidden_states=True)
    assert len(found.hidden) == config.layers + 1
    for ours_hidden, theirs_hidden in zip(found.hidden, wanted.hidden_states, strict=True):
        assert relative_error(ours_hidden, theirs_hidden) <= 1e-9
    assert relative_error(found.last, wanted.last_hidden_state) <= 1e-9
    pooled = wanted.pooler_output if config.projection_width is None else wanted.text_embeds
    assert relative_error(found.pooled, pooled) <= 1e-9


@pytest.mark.parametrize("config", [OPENAI, OPENCLIP], ids=["openai", "openclip"])
def test_names_go_both_ways(config: ClipTextConfig) -> None:
    table = CLIP if config.projection_width is None else CLIP_PROJECTED
    weights = ClipText(config).state_dict()
    theirs = rename(weights, table, to_ours=False)
    assert rename(theirs, table, to_ours=True).keys() == weights.keys()


@pytest.mark.parametrize(
    ("config", "parameters"),
    [(CLIP_L, 123_060_480), (sd2().text[0].clip, 340_387_840), (sdxl().text[1].clip, 694_659_840)],
    ids=["CLIP ViT-L/14", "OpenCLIP ViT-H/14 less a layer", "OpenCLIP ViT-bigG/14"],
)
def test_parameter_counts(config: ClipTextConfig, parameters: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in ClipText(config).parameters()) == parameters


@torch.no_grad()
def test_rows_of_a_batch_know_nothing_of_each_other() -> None:
    net = ClipText(OPENCLIP).double()
    randomise(net)
    together = net(TOKENS)
    for row in range(3):
        alone = net(TOKENS[row : row + 1])
        assert relative_error(alone.last, together.last[row : row + 1]) <= 1e-12
        assert relative_error(alone.pooled, together.pooled[row : row + 1]) <= 1e-12


@torch.no_grad()
def test_a_token_sees_none_after_it() -> None:
    net = ClipText(OPENAI).double()
    randomise(net)
    assert relative_error(net(TOKENS[:, :4]).last, net(TOKENS).last[:, :4]) <= 1e-12


def test_trains_in_bfloat16() -> None:
    net = ClipText(OPENCLIP)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = net(TOKENS)
    (found.last.float().square().mean() + found.pooled.float().square().mean()).backward()
    for parameter in net.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


def test_a_text_too_long_is_refused() -> None:
    with pytest.raises(InputError, match=r"10 tokens is longer .* 9"):
        ClipText(OPENAI)(torch.zeros(1, 10, dtype=torch.int64))


def test_a_config_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="heads=3"):
        dataclasses.replace(OPENAI, heads=3)
