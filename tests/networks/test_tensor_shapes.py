"""What is told of a network's tensors without building it is what the built one has."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.checkpoints.families import CONFIGS
from torch import nn

from calotype.models.latent_diffusion import unfilled
from calotype.models.presets import PRESETS, sd1
from calotype.networks import shapes
from calotype.networks.autoencoder import Autoencoder
from calotype.networks.clip_text import ClipText
from calotype.networks.unet import UNet

MODELS = {name: make() for name, make in PRESETS.items()} | {f"small {k}": v for k, v in CONFIGS.items()}


def built(module: nn.Module) -> shapes.Shapes:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


@pytest.mark.parametrize("name", MODELS)
def test_every_family(name: str) -> None:
    config = MODELS[name]
    with unfilled():
        assert shapes.unet(config.unet) == built(UNet(config.unet))
        if config.autoencoder is not None:
            assert shapes.autoencoder(config.autoencoder) == built(Autoencoder(config.autoencoder))
        for tower in config.text:
            assert shapes.clip(tower.clip) == built(ClipText(tower.clip))


@pytest.mark.parametrize(
    "change",
    [
        {"layers_per_block": 3, "guidance_width": 256},
        {"transformer_depth": (1, 0, 2, 0)},  # no transformer in the middle
        {"context_only_levels": (True, False, True, False), "classes": 7, "vector_width": 9},
        {"context_width": 0, "attention_levels": (False, True, False, True)},
        {"outline_cells": 3, "outline_side": 5, "in_channels": 9},
        {"block_channels": (64, 32, 96, 32), "heads": (2, 4, 3, 1), "linear_projection": True},
    ],
    ids=str,
)
def test_every_switch_of_a_unet(change: dict[str, object]) -> None:
    config = replace(sd1().unet, **change)  # type: ignore[arg-type]
    with unfilled():
        assert shapes.unet(config) == built(UNet(config))
