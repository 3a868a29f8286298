"""Text to conditioning: layers, towers, the empty prompt, conditionings joined."""

import dataclasses

import pytest
import torch

from calotype.conditioning.conditioning import Conditioning
from calotype.conditioning.config import TextConfig
from calotype.conditioning.text import TextEncoder
from calotype.conditioning.tokenizer import Tokenizer
from calotype.errors import CheckpointError
from calotype.networks.config import ClipTextConfig

TOKENIZER = Tokenizer.train(["a red apple", "一个红苹果"], size=600, context_length=16)
CLIP = ClipTextConfig(
    vocabulary=len(TOKENIZER),
    width=16,
    layers=3,
    heads=2,
    context_length=16,
    mlp_width=32,
    activation="gelu",
    end_token=TOKENIZER.end,
)


def encoder(*configs: TextConfig) -> TextEncoder:
    torch.manual_seed(0)
    made = TextEncoder(configs, TOKENIZER).eval().requires_grad_(False)
    for parameter in made.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.2)
    return made


def test_texts_become_tokens_and_the_empty_text_too() -> None:
    found = encoder(TextConfig(CLIP))(["a red apple", "", "苹果"])
    assert found.tokens is not None
    assert found.tokens.shape == (3, 16, 16)
    assert found.vector is None
    assert found.tokens.isfinite().all()
    assert not torch.equal(found.tokens[0], found.tokens[1])


def test_a_text_alone_and_among_others_is_the_same_to_the_bit() -> None:
    text = encoder(TextConfig(CLIP))
    among = text(["a red apple", "", "苹果", "red red red"]).tokens
    assert among is not None
    for i, prompt in enumerate(["a red apple", "", "苹果", "red red red"]):
        alone = text([prompt]).tokens
        assert alone is not None
        assert torch.equal(among[i], alone[0])


def test_the_layer_is_chosen() -> None:
    last = encoder(TextConfig(CLIP))
    tower = last.towers[0]
    features = tower(last.tokenize(["red"])[0])
    early = encoder(TextConfig(CLIP, layer=-2, final_norm=False))(["red"]).tokens
    normed = encoder(TextConfig(CLIP, layer=-2))(["red"]).tokens
    assert early is not None
    assert normed is not None
    torch.testing.assert_close(early, features.hidden[-2])
    torch.testing.assert_close(last(["red"]).tokens, features.last)
    assert not torch.equal(early, normed)


def test_two_towers_stand_side_by_side_and_one_gives_the_vector() -> None:
    wide = dataclasses.replace(CLIP, width=32, projection_width=24)
    both = encoder(TextConfig(CLIP), TextConfig(wide, pooled=True, pad_token="!"))
    found = both(["a red apple", ""])
    assert found.tokens is not None
    assert found.vector is not None
    assert found.tokens.shape == (2, 16, 48)
    assert found.vector.shape == (2, 24)
    tokens = both.tokenize(["red"])
    assert tokens[0, 0, -1] == TOKENIZER.end
    assert tokens[1, 0, -1] == 0


def test_without_towers_there_is_no_text() -> None:
    none = TextEncoder((), None)
    assert none(["a red apple"]) == Conditioning()


def test_tokenizer_and_towers_must_fit() -> None:
    with pytest.raises(CheckpointError, match="end token"):
        TextEncoder([TextConfig(dataclasses.replace(CLIP, vocabulary=100))], TOKENIZER)
    with pytest.raises(CheckpointError, match="no tokenizer"):
        TextEncoder([TextConfig(CLIP)], None)


def test_conditionings_join_repeat_and_move() -> None:
    one = Conditioning(tokens=torch.ones(1, 2, 3), label=torch.tensor([4]))
    two = Conditioning(tokens=torch.zeros(1, 2, 3), label=torch.tensor([5]))
    both = Conditioning.cat([one, two])
    assert both.label is not None
    assert both.label.tolist() == [4, 5]
    repeated = both.repeat(2).label
    assert repeated is not None
    assert repeated.tolist() == [4, 4, 5, 5]
    chosen = both.rows([1, 0]).label
    assert chosen is not None
    assert chosen.tolist() == [5, 4]
    half = both.to(dtype=torch.float16)
    assert half.tokens is not None
    assert half.label is not None
    assert half.tokens.dtype == torch.float16
    assert half.label.dtype == torch.int64
    with pytest.raises(ValueError, match="label"):
        Conditioning.cat([one, Conditioning(tokens=torch.zeros(1, 2, 3))])
