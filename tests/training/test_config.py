from __future__ import annotations

import itertools

import pytest

from calotype.errors import InputError
from calotype.training.config import DiffusionTraining, TrainConfig, differences, override, to_json
from calotype.training.loop import learning_rate
from calotype.training.recipes import AUTOENCODER_RECIPES, DIFFUSION_RECIPES


def test_overrides_take_the_type_of_their_field() -> None:
    config = override(
        DiffusionTraining(),
        [
            "steps=7",
            "learning_rate=2e-4",
            "decay=linear",
            "image_size=64",
            "balance.emoji=2",
            "balance.glyph=0.5",
            "train_text_encoder=false",
            "sample_prompts=a cat;a dog",
        ],
    )
    assert (config.steps, config.learning_rate, config.decay, config.image_size) == (7, 2e-4, "linear", 64)
    assert config.balance == {"emoji": 2.0, "glyph": 0.5}
    assert config.train_text_encoder is False
    assert config.sample_prompts == ("a cat", "a dog")
    assert override(config, ["image_size=none"]).image_size is None


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("learning_rat=1", "did you mean 'learning_rate'"),
        ("steps", "field=value"),
        ("steps=many", "a whole number"),
        ("steps=0", "above 0"),
        ("learning_rate=nan", "above 0"),
        ("decay=cubic", "constant, linear, cosine"),
        ("train_text_encoder=maybe", "true or false"),
        ("caption_dropout=1.5", "from 0 to 1"),
        ("noise_shift=0", "above 0"),
        ("balance.emoji=-1", "0 or more"),
        ("ema_length=0.5", "ema_length"),
        ("cooldown=2", "cooldown"),
    ],
)
def test_a_wrong_override_is_named(assignment: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        override(DiffusionTraining(), [assignment])


def test_differences_names_the_fields() -> None:
    assert differences(TrainConfig(steps=5), to_json(TrainConfig(steps=5))) == []
    assert differences(TrainConfig(steps=5, seed=1), to_json(TrainConfig())) == ["seed", "steps"]


def test_every_recipe_is_a_valid_config() -> None:
    for recipe in (*AUTOENCODER_RECIPES.values(), *DIFFUSION_RECIPES.values()):
        assert recipe().steps > 0


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_learning_rate_rises_stays_and_falls(decay: str) -> None:
    config = override(
        TrainConfig(), ["steps=100", "warmup=10", "cooldown=0.5", f"decay={decay}", "learning_rate=1"]
    )
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:50] == [1.0] * 41
    assert all(a > b for a, b in itertools.pairwise(rates[50:]))
    assert 0 < rates[-1] < 0.03
