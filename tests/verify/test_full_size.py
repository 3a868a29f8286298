"""Stable Diffusion 1.5's three networks at their true sizes beside diffusers' and transformers', float32."""

from __future__ import annotations

import pytest
import torch
from tests.networks.reference import (
    AUTOENCODER,
    CLIP,
    UNET,
    diffusers_autoencoder,
    diffusers_unet,
    relative_error,
    rename,
    transformers_clip,
)

from calotype.models.latent_diffusion import unfilled
from calotype.models.presets import CLIP_L, sd1
from calotype.networks.autoencoder import Autoencoder
from calotype.networks.clip_text import ClipText
from calotype.networks.unet import UNet

pytestmark = [pytest.mark.verify, pytest.mark.timeout(900)]

ROUNDING = 2e-5
"""Of float32 through some hundred layers; the same comparison in float64 is in tests/networks."""


@torch.no_grad()
def test_unet() -> None:
    config = sd1().unet
    theirs = diffusers_unet(config).float()
    with unfilled():
        ours = UNet(config)
    ours.load_state_dict(rename(theirs.state_dict(), UNET, to_ours=True), assign=True)
    assert sum(p.numel() for p in ours.parameters()) == 859_520_964
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, 24, 16, generator=generator)
    context = torch.randn(1, 77, 768, generator=generator)
    label = torch.tensor([601.0])
    wanted = theirs(x, label, context).sample
    assert relative_error(ours(x, label, context), wanted) <= ROUNDING


@torch.no_grad()
def test_autoencoder() -> None:
    config = sd1().autoencoder
    assert config is not None
    theirs = diffusers_autoencoder(config).float()
    ours = Autoencoder(config)
    ours.load_state_dict(rename(theirs.state_dict(), AUTOENCODER, to_ours=True))
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, 3, 128, 64, generator=generator) * 2 - 1
    assert relative_error(ours.encode(images).raw_mean, theirs.encode(images).latent_dist.mean) <= ROUNDING
    latents = torch.randn(1, 4, 16, 8, generator=generator)
    wanted = theirs.decode(latents / config.scale).sample
    assert relative_error(ours.decode(latents), wanted) <= ROUNDING


@torch.no_grad()
def test_text_transformer() -> None:
    theirs = transformers_clip(CLIP_L).float()
    ours = ClipText(CLIP_L)
    ours.load_state_dict(rename(theirs.state_dict(), CLIP, to_ours=True))
    tokens = torch.randint(0, 49406, (2, 77), generator=torch.Generator().manual_seed(0))
    tokens[:, 0], tokens[:, 40:] = 49406, 49407
    found, wanted = ours(tokens), theirs(tokens, output_hidden_states=True)
    for ours_hidden, theirs_hidden in zip(found.hidden, wanted.hidden_states, strict=True):
        assert relative_error(ours_hidden, theirs_hidden) <= ROUNDING
    assert relative_error(found.pooled, wanted.pooler_output) <= ROUNDING
