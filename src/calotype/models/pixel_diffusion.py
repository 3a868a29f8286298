"""A denoiser of pictures themselves, without words: what restoration works with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from calotype.diffusion.denoiser import as_denoiser
from calotype.diffusion.parameterization import Edm
from calotype.models.latent_diffusion import seeded
from calotype.models.pixel_config import PixelConfig
from calotype.networks.config import PixelNetConfig
from calotype.networks.last_word import LastWord
from calotype.networks.pixel_net import PixelNet


class PixelDenoiser(nn.Module):
    """x = x0 + sigma * noise (B C H W), pictures in [-1, 1], and sigma (B) to E[x0 | x]: a `Denoiser`."""

    def __init__(self, config: PixelConfig) -> None:
        super().__init__()
        self.network = PixelNet(config.network)
        self.parameterization = Edm(config.sigma_data)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The network runs in its weights' own dtype; everything outside it stays in x's."""
        dtype = next(self.network.parameters()).dtype
        return as_denoiser(self.network, self.parameterization, dtype)(x, sigma)


@dataclass(frozen=True)
class PixelDiffusion:
    """A model ready for use.  `weights_hash` is the SHA-256 of its weights as stored, "" for unsaved ones;
    `last_word` weighs the denoiser's estimates where patches that look alike are restored together.
    """

    config: PixelConfig
    denoiser: PixelDenoiser
    weights_hash: str = ""
    last_word: LastWord | None = None

    def parts(self) -> dict[str, nn.Module]:
        """The modules, by the names under which a checkpoint keeps their tensors."""
        return {"denoiser": self.denoiser}

    def replace(self, **changes: Any) -> PixelDiffusion:
        """The same model with some fields exchanged."""
        return dataclasses.replace(self, **changes)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.denoiser.parameters()).device


def build_pixel(config: PixelConfig, seed: int = 0) -> PixelDiffusion:
    """A model with fresh float32 weights; the same config and seed give the same weights."""
    denoiser = seeded(seed, "denoiser", lambda: PixelDenoiser(config))
    return PixelDiffusion(config, denoiser.eval())


def photo() -> PixelConfig:
    """The model that restores photographs."""
    return PixelConfig(
        name="photo",
        about="nothing: it restores photographs (denoise, inpaint, upscale, deblur)",
        size=256,
        network=PixelNetConfig(widths=(40, 56, 72), blocks=(2, 2, 3)),
    )


def tiny_photo() -> PixelConfig:
    """For tests: the same in seconds on one core."""
    return PixelConfig(
        name="tiny-photo",
        about="a toy for tests",
        size=32,
        network=PixelNetConfig(widths=(8, 16), blocks=(1, 1), embedding=16),
    )


PIXEL_PRESETS: dict[str, Callable[[], PixelConfig]] = {"photo": photo, "tiny-photo": tiny_photo}
