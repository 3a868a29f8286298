"""Which number type a device computes in fastest: the one place that decides it.

On a processor without units for 16-bit numbers PyTorch emulates them: on an AVX2 CPU a matrix product in bf16
takes 130 times as long as in float32.  Networks that draw go round that (networks/narrow.py), and win memory
but no time; trainings do not.  So nothing is computed in 16 bits unless the device says that it can, or the
person asked for it by name.
"""

from __future__ import annotations

from typing import Literal

import torch

from calotype.errors import InputError
from calotype.networks import processor

Named = Literal["float32", "bf16", "fp16"]
DTYPES: dict[Named, torch.dtype] = {
    "float32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def reduced(device: torch.device | str) -> Named | None:
    """The 16-bit type that the device has units for, None where it has none.

    bf16 where there is a choice: it holds what float32 holds, so nothing overflows.  CUDA before Ampere and
    Apple's GPUs have fp16.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "mps":
        return "fp16"
    return "bf16" if device.type == "cpu" and processor.multiplies_bf16() else None


def for_training(device: torch.device | str) -> Literal["bf16", "float32"]:
    """What a training on the device computes in where nobody said: fp16 would need its losses scaled."""
    return "bf16" if reduced(device) == "bf16" else "float32"


def for_drawing(device: torch.device | str) -> Literal["bf16", "float32"]:
    """What pictures are drawn in where nobody said: bf16 on a GPU that has it, float32 elsewhere.

    On a CPU float32 keeps a picture the same to the bit whatever is drawn beside it; bf16 is for who asks.
    """
    return "float32" if torch.device(device).type == "cpu" else for_training(device)


def named(dtype: torch.dtype) -> str:
    """The name of a type, as records hold it; of one that `parse` does not know, torch's."""
    names = {known: name for name, known in DTYPES.items()}
    return names.get(dtype, str(dtype).removeprefix("torch."))


def chosen(name: str | None, device: torch.device | str) -> torch.dtype:
    """The type of that name; `for_drawing`'s for None and "auto".  Raises InputError as `parse` does."""
    return DTYPES[for_drawing(device) if name is None or name == "auto" else parse(name)]


def parse(name: str) -> Named:
    """A precision by its name; InputError where there is none of it."""
    for known in DTYPES:
        if name == known:
            return known
    raise InputError(f"precision is {name!r}; give auto, {', '.join(DTYPES)}.")
