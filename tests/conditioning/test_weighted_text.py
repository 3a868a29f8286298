"""Weighted prompts in chunks and clip skip, beside transformers' CLIPTextModel in float64."""

import dataclasses

import pytest
import torch
from tests.networks.reference import CLIP, CLIP_PROJECTED, relative_error, rename, transformers_clip
from torch import Tensor, nn

from calotype.conditioning.conditioning import Conditioning
from calotype.conditioning.config import TextConfig
from calotype.conditioning.prompt import parse
from calotype.conditioning.text import TextEncoder
from calotype.conditioning.tokenizer import Tokenizer
from calotype.networks.config import ClipTextConfig

WORDS = "a red cat dog in the tree word ,"
TOKENIZER = Tokenizer.train([WORDS] * 4, size=600, context_length=10)  # 8 tokens a chunk
OPENAI = ClipTextConfig(
    vocabulary=len(TOKENIZER),
    width=16,
    layers=4,
    heads=2,
    context_length=10,
    mlp_width=32,
    end_token=TOKENIZER.end,
)
OPENCLIP = dataclasses.replace(OPENAI, width=24, activation="gelu", projection_width=12)

PROMPTS: list[tuple[str, list[tuple[str, list[float]]]]] = [
    # a prompt, and its chunks written out: words, and the weights of all of them
    ("a red cat", [("a red cat", [1, 1, 1])]),
    ("", [("", [])]),
    ("a (red:1.5) [cat]", [("a red cat", [1, 1.5, 1 / 1.1])]),
    ("(a red cat:0)", [("a red cat", [0, 0, 0])]),
    (
        "a cat, the (red dog in the:1.3) tree",
        [("a cat ,", [1, 1, 1]), ("the red dog in the tree", [1, 1.3, 1.3, 1.3, 1.3, 1])],
    ),
    ("(a cat BREAK:1.4) in [the (tree)]", [("a cat", [1.4, 1.4]), ("in the tree", [1, 1 / 1.1, 1.1 / 1.1])]),
    (
        "word word word, (red:-1) red red red red dog",
        [("word word word ,", [1, 1, 1, 1]), ("red red red red red dog", [-1, 1, 1, 1, 1, 1])],
    ),
]


def encoder(*configs: TextConfig) -> tuple[TextEncoder, list[nn.Module]]:
    """Ours and transformers', with the same random weights in float64."""
    ours = TextEncoder(configs, TOKENIZER).double().eval().requires_grad_(False)
    theirs = []
    for number, config in enumerate(configs):
        theirs.append(transformers_clip(config.clip).requires_grad_(False))
        table = CLIP if config.clip.projection_width is None else CLIP_PROJECTED
        ours.towers[number].load_state_dict(rename(theirs[-1].state_dict(), table, to_ours=True))
    return ours, theirs


def straightforward(
    model: nn.Module, parts: list[tuple[str, list[float]]], pad: int, skip: int, norm: bool
) -> tuple[Tensor, Tensor]:
    """Chunk after chunk, token after token: the features and the first chunk's pooled vector."""
    done, pooled = [], []
    for words, weights in parts:
        ids = [TOKENIZER.start, *(TOKENIZER.vocab[word + "</w>"] for word in words.split()), TOKENIZER.end]
        ids += [pad] * (10 - len(ids))
        out = model(torch.tensor([ids]), output_hidden_states=True)
        features = out.hidden_states[-skip][0]
        if norm:
            features = getattr(model, "text_model", model).final_layer_norm(features)
        before = features.mean()
        features = torch.stack(
            [
                row * (weights[place - 1] if 1 <= place <= len(weights) else 1.0)
                for place, row in enumerate(features)
            ]
        )
        done.append(features * (before / features.mean()))
        pooled.append(out.text_embeds if "text_embeds" in out else out.pooler_output)
    return torch.cat(done)[None], pooled[0]


def close(found: Tensor | None, wanted: Tensor) -> None:
    assert found is not None
    assert relative_error(found, wanted) < 1e-10


@pytest.mark.parametrize(("text", "parts"), PROMPTS)
@pytest.mark.parametrize("skip", [None, 1, 2, 4])
def test_one_tower(text: str, parts: list[tuple[str, list[float]]], skip: int | None) -> None:
    ours, (theirs,) = encoder(TextConfig(OPENAI, pooled=True))
    found = ours.encode_prompt(parse(text), skip)
    tokens, pooled = straightforward(theirs, parts, TOKENIZER.end, skip or 1, norm=True)
    close(found.tokens, tokens)
    close(found.vector, pooled)


@pytest.mark.parametrize(("text", "parts"), PROMPTS)
def test_two_towers_as_sdxl_has_them(text: str, parts: list[tuple[str, list[float]]]) -> None:
    """Each tower is padded, weighted and scaled back by itself; a clip skip changes nothing."""
    early = {"layer": -2, "final_norm": False}
    ours, theirs = encoder(
        TextConfig(OPENAI, **early), TextConfig(OPENCLIP, **early, pooled=True, pad_token="!")
    )
    first, _ = straightforward(theirs[0], parts, TOKENIZER.end, 2, norm=False)
    second, pooled = straightforward(theirs[1], parts, 0, 2, norm=False)
    for skip in (None, 1, 2):
        found = ours.encode_prompt(parse(text), skip)
        close(found.tokens, torch.cat([first, second], dim=-1))
        close(found.vector, pooled)


def test_the_last_layer_is_transformers_last_hidden_state() -> None:
    ours, (theirs,) = encoder(TextConfig(OPENAI))
    ids = ours.tokenize(["a red cat"])
    close(ours(["a red cat"], 1).tokens, theirs(ids[0]).last_hidden_state)


def test_in_single_precision() -> None:
    ours, (theirs,) = encoder(TextConfig(OPENAI))
    text, parts = PROMPTS[4]
    wanted, _ = straightforward(theirs, parts, TOKENIZER.end, 2, norm=True)
    found = ours.float().encode_prompt(parse(text), 2).tokens
    assert found is not None
    assert found.dtype == torch.float32
    assert relative_error(found.double(), wanted) < 1e-6
    half = ours.bfloat16().encode_prompt(parse(text), 2).tokens
    assert half is not None
    assert half.dtype == torch.bfloat16


def test_a_short_prompt_without_weights_is_the_plain_text_to_the_bit() -> None:
    ours, _ = encoder(TextConfig(OPENAI, pooled=True), TextConfig(OPENCLIP, pad_token="!"))
    for text in ("a red cat", "", "a cat, the red dog in the"):
        plain, parsed = ours([text]), ours.encode_prompt(parse(text))
        assert plain.tokens is not None
        assert parsed.tokens is not None
        assert torch.equal(plain.tokens, parsed.tokens)
        assert plain.joins(parsed)


def test_plain_texts_keep_their_brackets_and_are_cut() -> None:
    ours, _ = encoder(TextConfig(OPENAI))
    literal, weighted = ours(["a (cat)"]), ours.encode_prompt(parse("a (cat)"))
    assert literal.tokens is not None
    assert weighted.tokens is not None
    assert not torch.equal(literal.tokens, weighted.tokens)
    long = "red " * 20
    assert ours([long]).sizes()[0] == (10, 16)
    assert ours.encode_prompt(parse(long)).sizes()[0] == (30, 16)
    assert not ours([long]).joins(ours.encode_prompt(parse(long)))


def test_without_towers_there_is_no_prompt() -> None:
    assert TextEncoder((), None).encode_prompt(parse("a (red) cat")) == Conditioning()
