"""The engine of a run: devices and processes, by Accelerate."""

from __future__ import annotations

from typing import Any

import torch

from calotype.errors import TrainingError


def new_accelerator(device: str | None) -> Any:
    """Accelerate's engine for the device and the processes, its own launcher's or torchrun's.

    The precision is left to our autocast, as Accelerate's is fixed once for the whole process.
    """
    try:
        from accelerate import Accelerator
    except ImportError:
        raise TrainingError("Training needs the extra: pip install 'calotype[training]'.") from None
    return Accelerator(mixed_precision="no", cpu=device == "cpu" or not torch.cuda.is_available())
