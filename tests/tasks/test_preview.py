"""What latents look like without the decoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import calotype
from calotype.networks.autoencoder import Autoencoder
from calotype.tasks.pixels import encode_pixels
from calotype.tasks.preview import LatentMap, latent_map


def test_a_linear_map_is_found_exactly() -> None:
    generator = torch.Generator().manual_seed(1)
    weight, bias, latents = (torch.randn(*size, generator=generator) for size in ((3, 4), (3,), (50, 4)))
    found = LatentMap.fitted(latents, latents @ weight.T + bias)
    assert torch.allclose(found.weight, weight, atol=1e-5)
    assert torch.allclose(found.bias, bias, atol=1e-5)
    z = torch.randn(4, 5, 6, generator=generator)
    wanted = torch.stack([weight @ z[:, y, x] + bias for y in range(5) for x in range(6)], dim=1)
    assert torch.allclose(found(z).flatten(1), wanted, atol=1e-4)  # (3 30)


def test_it_shows_what_the_decoder_would() -> None:
    """On the shipped model: a disc of one colour on white, unlike what it is fitted to."""
    model = calotype.load("icons").model
    y, x = torch.meshgrid(torch.linspace(-1, 1, 128), torch.linspace(-1, 1, 128), indexing="ij")
    inside = (x**2 + y**2 < 0.4).float()
    for colour in ((0.9, -0.8, -0.7), (-0.9, 0.5, -0.5), (-0.8, -0.6, 0.9)):
        pixels = torch.tensor(colour)[:, None, None] * inside + (1 - inside)  # (3 H W)
        seen = latent_map(model)(encode_pixels(model, pixels[None], None)[0])
        wanted = F.avg_pool2d(pixels, 8)
        assert float(torch.corrcoef(torch.stack([seen.flatten(), wanted.flatten()]))[0, 1]) > 0.95
        middle: Tensor = seen[:, 7:9, 7:9].mean(dim=(1, 2))
        assert float((middle - torch.tensor(colour)).abs().max()) < 0.4


def test_the_decoder_runs_only_where_latents_are_few(
    tiny_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio = calotype.load(str(tiny_file))
    calls = []
    own = Autoencoder.decode
    monkeypatch.setattr(Autoencoder, "decode", lambda self, z: calls.append(z.shape) or own(self, z))
    factor, channels = studio.model.config.factor, studio.model.config.unet.out_channels
    few, many = (torch.randn(channels, 32, side) for side in (31, 40))
    assert studio.preview(many).size == (40 * factor, 32 * factor)
    assert not calls
    assert studio.preview(few).tobytes() == studio.decode(few).tobytes()
