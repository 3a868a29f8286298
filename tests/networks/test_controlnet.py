"""The ControlNet beside diffusers', in float64 with every parameter random, alone and beside a U-Net."""

import dataclasses
from typing import Any

import pytest
import torch
from test_unet import LIKE, SD1, inputs
from tests.networks.reference import (
    UNET,
    diffusers_controlnet,
    diffusers_unet,
    randomise,
    relative_error,
    rename,
)

from calotype.checkpoints import diffusers_names
from calotype.conditioning.conditioning import Conditioning
from calotype.errors import InputError
from calotype.models.controls import Controls
from calotype.models.presets import sd1, sd2, sdxl
from calotype.networks.config import ControlNetConfig, UNetConfig
from calotype.networks.controlnet import ControlNet
from calotype.networks.layers import sinusoids
from calotype.networks.unet import UNet

HINT = (4, 6, 8, 10)
XL = LIKE["sdxl"]
NETS = {
    "sd1": ControlNetConfig(SD1, hint_channels=HINT),
    "sd2": ControlNetConfig(LIKE["sd2"], hint_channels=HINT),
    "sdxl": ControlNetConfig(XL, hint_channels=HINT),
    "sdxl-mid": ControlNetConfig(dataclasses.replace(XL, transformer_depth=(0, 0, 1)), hint_channels=HINT),
    "sdxl-small": ControlNetConfig(
        dataclasses.replace(
            XL, attention_levels=(False,) * 3, transformer_depth=(1, 1, 0), linear_projection=False
        ),
        hint_channels=HINT,
        short_middle=True,
    ),
    "pooled": ControlNetConfig(SD1, hint_channels=HINT, pooled=True),
    "blue first": ControlNetConfig(SD1, hint_channels=(4, 6), bgr=True),
}


def pair(config: ControlNetConfig) -> tuple[ControlNet, Any]:
    """Ours and diffusers', with the same weights."""
    theirs = diffusers_controlnet(config)
    ours = ControlNet(config).double().eval()
    layout = diffusers_names.controlnet()
    stored = theirs.state_dict()
    sources, unknown = layout.find(stored)  # a tensor has shape and dtype, which is all that is looked at
    assert not unknown
    ours.load_state_dict({name: source.take(stored[source.name]) for name, source in sources.items()})
    written = layout.write(ours.state_dict())
    assert written.keys() == stored.keys()
    return ours, theirs


def picture(factor: int, size: tuple[int, int] = (16, 8)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(3, 3, factor * size[0], factor * size[1], generator=generator, dtype=torch.float64)


def told(given: dict[str, Any]) -> dict[str, Any]:
    """SDXL's vector as diffusers takes it."""
    return {} if given["vector"] is None else {"added_cond_kwargs": given["added"]}


def conditions(config: UNetConfig) -> dict[str, Any]:
    given = inputs(config)
    if config.vector_width is not None:
        sizes = torch.tensor([[512.0, 768.0, 0.0, 16.0, 1024.0, 1024.0]] * 3, dtype=torch.float64)
        text = given["vector"][:, :10]
        features = sinusoids(sizes.flatten(), 8).double().reshape(3, -1)  # (B*6) -> (B 6*8)
        given["vector"] = torch.cat([text, features], dim=1)
        given["added"] = {"text_embeds": text, "time_ids": sizes}
    return given


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("fading", [False, True])
@torch.no_grad()
def test_equals_diffusers(name: str, fading: bool) -> None:
    config = NETS[name]
    ours, theirs = pair(config)
    given = conditions(config.unet)
    seen = picture(config.factor)
    down, middle = theirs(
        given["x"],
        given["noise_label"],
        given["context"],
        seen,
        conditioning_scale=0.5,  # its guess mode rounds to float32
        guess_mode=fading,
        return_dict=False,
        **told(given),
    )
    context = given["context"] if config.unet.context_width else None
    added = ours(given["x"], ours.hinted(seen), given["noise_label"], context, given["vector"], fading=fading)
    for found, wanted in zip(added, [*down, middle], strict=True):
        assert relative_error(found * 0.5, wanted) <= 1e-9


@torch.no_grad()
def test_a_unet_takes_the_sum_of_two() -> None:
    """The second is silent for one row, as guess mode makes it for the unconditional half."""
    given = conditions(XL)
    first, their_first = pair(NETS["sdxl"])
    second, their_second = pair(NETS["sdxl-mid"])
    theirs = diffusers_unet(XL)
    unet = UNet(XL).double()
    unet.load_state_dict(rename(theirs.state_dict(), UNET, to_ours=True))
    seen = [picture(8), picture(8).flip(-1)]
    strength = torch.tensor([[0.7, 0.4], [0.7, 0.0], [0.7, 0.4]], dtype=torch.float64)
    asked = (given["x"], given["noise_label"], given["context"])
    down, middle = their_first(*asked, seen[0], 0.7, return_dict=False, **told(given))
    more, more_middle = their_second(*asked, seen[1], 0.4, return_dict=False, **told(given))
    for sum, map in zip([*down, middle], [*more, more_middle], strict=True):
        sum[[0, 2]] += map[[0, 2]]
    wanted = theirs(
        *asked,
        down_block_additional_residuals=down,
        mid_block_additional_residual=middle,
        **told(given),
    ).sample
    controls = Controls([first, second], [False, False])
    known = Conditioning(
        tokens=given["context"],
        vector=given["vector"],
        control=torch.cat([first.hinted(seen[0]), second.hinted(seen[1])], dim=1),
        strength=strength,
    )
    control = controls(given["x"], given["noise_label"], known)
    found = unet(*asked, vector=given["vector"], control=control)
    assert relative_error(found, wanted) <= 1e-9
    silent = dataclasses.replace(known, strength=torch.zeros_like(strength))
    assert controls(given["x"], given["noise_label"], silent) is None


def test_fresh_weights_add_nothing_yet() -> None:
    net = ControlNet(NETS["sd1"])
    given = {key: value.float() for key, value in inputs(SD1).items() if value is not None}
    with torch.no_grad():
        hinted = net.hinted(picture(8).float())
        added = net(given["x"], hinted, given["noise_label"], given["context"])
    assert hinted.abs().max() == 0
    assert all(map.abs().max() == 0 for map in added)


@torch.no_grad()
def test_a_missing_text_is_named() -> None:
    net = ControlNet(NETS["sd1"]).double()
    randomise(net)
    given = inputs(SD1)
    with pytest.raises(InputError, match="needs a context"):
        net(given["x"], net.hinted(picture(8)), given["noise_label"])


@pytest.mark.parametrize(
    ("config", "parameters"),
    [(sd1().unet, 361_279_120), (sd2().unet, 364_228_240), (sdxl().unet, 1_251_014_160)],
    ids=["sd1", "sd2", "sdxl"],
)
def test_parameter_counts(config: UNetConfig, parameters: int) -> None:
    """Those of diffusers' networks, built without memory."""
    counts = []
    with torch.device("meta"):
        for net in (ControlNet(ControlNetConfig(config)), diffusers_controlnet(ControlNetConfig(config))):
            counts.append(sum(p.numel() for p in net.parameters()))
    assert counts[0] == counts[1]
    assert counts[0] == parameters
