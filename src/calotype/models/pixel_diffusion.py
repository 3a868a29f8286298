"""A denoiser of pictures themselves, without words: what restoration works with."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from calotype.diffusion.denoiser import as_denoiser
from calotype.diffusion.parameterization import Edm
from calotype.errors import CheckpointError
from calotype.models.config import decode
from calotype.models.latent_diffusion import seeded
from calotype.networks.pixel_net import PixelNet, PixelNetConfig


@dataclass(frozen=True)
class PixelConfig:
    """One pixel model whole.

    about       one line for `calotype models`
    size        pixels a side of the pictures it was trained on crops of
    sigma_data  EDM's standard deviation of the data, in [-1, 1]
    sigma_min   the least noise it was trained on, in [-1, 1] as everywhere: twice what it is in [0, 1]
    sigma_max   the most
    """

    name: str
    about: str
    size: int
    network: PixelNetConfig
    sigma_data: float = 0.5
    sigma_min: float = 0.004
    sigma_max: float = 20.0

    def to_json(self) -> str:
        """Every field, nested as the dataclasses are."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> PixelConfig:
        """The inverse of `to_json`; CheckpointError names what is missing, unknown or of the wrong type."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(
                f"The model's config is not JSON ({error}); the file is damaged or not Calotype's."
            ) from None
        decoded = decode(cls, value, "config")
        assert isinstance(decoded, PixelConfig)
        return decoded


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
    """A model ready for use.  `weights_hash` is the SHA-256 of its weights as stored, "" for unsaved ones."""

    config: PixelConfig
    denoiser: PixelDenoiser
    weights_hash: str = ""

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
