"""How unlike two pictures look to a network that knows pictures (Zhang et al., LPIPS, arXiv 1801.03924)."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from calotype.checkpoints.effnet import effnet_lite0
from calotype.errors import InputError

Eye = Literal["effnet", "lpips"]
VGG = "vgg16-397923af.pth"
"""The file that torchvision's VGG-16 has its weights from."""


class EffNetDistance(nn.Module):
    """LPIPS's distance (its eq. 1, all weights 1) on EfficientNet-Lite0's maps, the last of every size.

    It comes with packages that anyone can install; it is not LPIPS, and its numbers are not LPIPS's.
    """

    def __init__(self) -> None:
        super().__init__()
        network: Any = effnet_lite0("Perceptual losses").requires_grad_(False)
        self.stem = nn.Sequential(network._conv_stem, network._bn0, network._swish)
        self.blocks = network._blocks

    def maps(self, pictures: Tensor) -> list[Tensor]:
        """pictures (B 3 H W) in [-1, 1] to maps (B C h w), each half as wide as the one before."""
        x = self.stem(((pictures + 1) * 127.5 - 127) / 128)
        found = [x]
        for block in self.blocks:
            x = block(x)
            if x.shape[-1] < found[-1].shape[-1]:
                found.append(x)
            else:
                found[-1] = x
        return found

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Pictures (B 3 H W) in [-1, 1]: (B), 0 for pictures alike."""
        distances = []
        for one, other in zip(self.maps(a), self.maps(b), strict=True):
            error = _unit(one) - _unit(other)  # (B C h w)
            distances.append(error.square().sum(1).flatten(1).mean(1))  # (B)
        return torch.stack(distances).mean(0)


def _unit(maps: Tensor) -> Tensor:
    return maps / (maps.square().sum(1, keepdim=True) + 1e-10).sqrt()


class Lpips(nn.Module):
    """The `lpips` package's own, with VGG-16, where a person has both; nothing is fetched."""

    def __init__(self) -> None:
        super().__init__()
        try:
            lpips: Any = import_module("lpips")
        except ImportError:
            raise InputError(
                "Training option perceptual=lpips needs the package lpips, which is not installed; "
                "run: pip install lpips torchvision, or set perceptual=effnet."
            ) from None
        weights = Path(torch.hub.get_dir()) / "checkpoints" / VGG
        if not weights.is_file():
            raise InputError(
                f"Training option perceptual=lpips needs VGG-16's weights at {weights}; put {VGG} of "
                "torchvision there, or set perceptual=effnet."
            )
        self.network = lpips.LPIPS(net="vgg", verbose=False).eval().requires_grad_(False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Pictures (B 3 H W) in [-1, 1]: (B), 0 for pictures alike."""
        found: Tensor = self.network(a, b)  # (B 1 1 1)
        return found.flatten()


def distance(eye: Eye) -> nn.Module:
    """The distance by its name; InputError where what it needs is not installed."""
    return EffNetDistance() if eye == "effnet" else Lpips()
