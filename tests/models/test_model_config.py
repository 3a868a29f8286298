"""Model configs: presets, JSON there and back, errors that name the field."""

import dataclasses
import json

import pytest
import torch

from calotype.errors import CheckpointError
from calotype.models.config import ModelConfig, ScheduleConfig
from calotype.models.presets import PRESETS
from calotype.networks.autoencoder import Autoencoder
from calotype.networks.clip_text import ClipText
from calotype.networks.unet import UNet


@pytest.mark.parametrize("name", PRESETS)
def test_presets_round_trip(name: str) -> None:
    config = PRESETS[name]()
    assert config.name == name
    assert ModelConfig.from_json(config.to_json()) == config


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("name", "unet", "autoencoder", "text"),
    [
        ("sd1", 859_520_964, 83_653_863, (123_060_480,)),
        ("sd2", 865_910_724, 83_653_863, (340_387_840,)),
        ("sdxl", 2_567_463_684, 83_653_863, (123_060_480, 694_659_840)),
    ],
)
def test_published_sizes(name: str, unet: int, autoencoder: int, text: tuple[int, ...]) -> None:
    config = PRESETS[name]()
    assert config.autoencoder is not None
    with torch.device("meta"):
        assert count(UNet(config.unet)) == unet
        assert count(Autoencoder(config.autoencoder)) == autoencoder
        assert tuple(count(ClipText(tower.clip)) for tower in config.text) == text


def test_icons_fits_its_file() -> None:
    config = PRESETS["icons"]()
    assert config.autoencoder is not None
    with torch.device("meta"):
        total = count(UNet(config.unet)) + count(Autoencoder(config.autoencoder))
        total += sum(count(ClipText(tower.clip)) for tower in config.text)
    assert 2 * total < 35e6  # of 36 MB for all weights of the package


def change(whole: str, /, **changes: object) -> str:
    return json.dumps(json.loads(whole) | changes)


def test_errors_name_the_field() -> None:
    text = PRESETS["tiny"]().to_json()
    cases = {
        "config.size": change(text, size="big"),
        "config.parameterization": change(text, parameterization="w"),
        "config.autoencoder": change(text, autoencoder=3),
        r"config.text\[0\]": change(text, text=["clip"]),
        "config.schedule lacks the field kind": change(text, schedule={}),
        "unknown field 'colour'": change(text, colour=1),
        "not JSON": "{",
        "config is": "[]",
    }
    for message, damaged in cases.items():
        with pytest.raises(CheckpointError, match=message):
            ModelConfig.from_json(damaged)


def test_absent_fields_take_their_defaults_and_whole_numbers_serve_as_floats() -> None:
    config = PRESETS["tiny"]()
    stored = json.loads(config.to_json())
    del stored["sigma_data"]
    stored["defaults"]["guidance"] = 3
    assert ModelConfig.from_json(json.dumps(stored)) == config


def test_pixel_models_have_no_autoencoder_and_no_factor() -> None:
    config = dataclasses.replace(PRESETS["tiny"](), autoencoder=None, text=())
    assert config.factor == 1
    assert PRESETS["tiny"]().factor == 4
    assert ModelConfig.from_json(config.to_json()) == config


def test_schedules() -> None:
    assert ScheduleConfig("cosine").build().sigma_max > 10_000
    assert 14 < ScheduleConfig("scaled_linear").build().sigma_max < 15
    assert ScheduleConfig("linear", beta_start=1e-4, beta_end=0.02).build().steps == 1000
    terminal = ScheduleConfig("scaled_linear", zero_terminal_snr=True).build()
    assert terminal.sigma_max == ScheduleConfig("flow", shift=3.0).build().sigma_max
