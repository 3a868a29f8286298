"""How much memory a model will need to draw one picture: its weights, and an estimate of what it computes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from calotype.checkpoints.number_type import NumberType
from calotype.models.config import ModelConfig

if TYPE_CHECKING:
    import torch

    from calotype.networks.narrow import Widen

FLOAT = 4  # bytes, of the float32 in which Calotype computes unless told otherwise
HALVES = 2  # with and without the prompt, for guidance
LEAST_STAYING = 2**26
"""Bytes of a network's 16-bit weights below which widening them on load takes no time worth a word."""


class Tensor(Protocol):
    """What a file says of one."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> NumberType: ...


Stored = Mapping[str, Mapping[str, Tensor]]
"""The tensors of a model's parts, by part and by Calotype's own names in it."""


@dataclass(frozen=True)
class Memory:
    """Bytes.

    weights   of all networks
    drawing   the U-Net's maps besides, for one guided picture of the model's own size (an estimate)
    decoding  the same of the autoencoder's decoder, which runs after it
    least     of weights on a CPU in float32 where memory is short; None where nobody reckoned it
    """

    weights: int
    drawing: int
    decoding: int
    least: int | None = None

    @property
    def peak(self) -> int:
        """All that is held at once."""
        return self.weights + max(self.drawing, self.decoding)


def estimate(config: ModelConfig, weights: int, itemsize: int = FLOAT) -> Memory:
    """For a model of so many bytes that computes in numbers of `itemsize` bytes, at the size of picture that
    it was trained on.
    """
    return Memory(weights, _unet(config) * itemsize // FLOAT, _decoder(config) * itemsize // FLOAT)


def needed(config: ModelConfig, stored: Stored, itemsize: int = FLOAT, *, one_by_one: bool = False) -> Memory:
    """For a model as it is stored, all of its networks held at once or one at a time."""
    parts = held(stored, itemsize).values()
    return estimate(config, max(parts) if one_by_one else sum(parts), itemsize)


def held(stored: Stored, itemsize: int = FLOAT) -> dict[str, int]:
    """Bytes of each part's weights, in numbers of `itemsize` bytes."""
    return {
        part: itemsize * sum(prod(told.shape) for told in tensors.values())
        for part, tensors in stored.items()
    }


def narrow(stored: Stored) -> dict[str, int]:
    """Bytes of each part's weights, to draw in float32 on a CPU with layers that widen 16 bits each time."""
    return {part: _narrow(tensors) for part, tensors in stored.items()}


def _narrow(tensors: Mapping[str, Tensor]) -> int:
    sizes = {name: prod(told.shape) for name, told in tensors.items()}
    staying = sum(sizes[name] for name, told in tensors.items() if _may_stay(name, told))
    return FLOAT * sum(sizes.values()) - (2 * staying if 2 * staying >= LEAST_STAYING else 0)


def _may_stay(name: str, told: Tensor) -> bool:
    """Whether it is the weight of a layer that works from 16 bits (networks/narrow.py), as far as names tell
    without building the network: wrong for a hundredth of the weights.
    """
    return (
        told.dtype.name in ("float16", "bfloat16") and len(told.shape) in (2, 4) and "embedding" not in name
    )


def _unet(config: ModelConfig) -> int:
    """The maps kept for the way up, and what works beside them: a block of the way up, whose input is two
    maps beside each other, or a transformer's feed-forward layer, which is eight times as wide as its map;
    or, where pictures are small, the largest convolution's weights, which CPU kernels lay out anew.
    """
    unet, side = config.unet, config.size // config.factor
    kept = widest = 0
    for level, channels in enumerate(unet.block_channels):
        pixels = max(1, side >> level) ** 2
        kept += (unet.layers_per_block + 1) * channels * pixels
        widest = max(widest, (14 if unet.attention_levels[level] else 6) * channels * pixels)
    weights = 3 * 3 * 2 * unet.block_channels[-1] ** 2
    return FLOAT * (HALVES * kept + max(HALVES * widest, weights))


def _decoder(config: ModelConfig) -> int:
    return decoding(config, config.size**2)


def decoding(config: ModelConfig, pixels: int, itemsize: int = FLOAT) -> int:
    """The decoder's maps for a picture of so many pixels, in numbers of `itemsize` bytes: those of the finest
    level, which takes the maps of the next coarser one as they are enlarged.
    """
    if config.autoencoder is None:
        return 0
    channels = config.autoencoder.block_channels
    return itemsize * 3 * channels[min(1, len(channels) - 1)] * pixels


def itemsize(dtype: torch.dtype | None) -> int:
    """Bytes of a number of weights in `dtype`; None for as they are stored, reckoned as float32."""
    return FLOAT if dtype is None else dtype.itemsize


def peak() -> int:
    """The most bytes of memory that this process has held at once."""
    try:
        told = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
        return 1024 * next(int(line[1]) for line in told if line and line[0] == "VmHWM:")
    except (OSError, StopIteration):
        import resource  # not on every system

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else 1024 * most


def short(need: Memory, device: torch.device) -> bool:
    """Whether the device has no room for all networks of a model at once and what one of them computes."""
    room = free(device)
    return room is not None and need.peak > room


def way(need: Memory, device: torch.device) -> Widen:
    """How layers may widen their weights in the memory that is free."""
    return "always" if short(need, device) else "once"


def free(device: torch.device) -> int | None:
    """Bytes that can be taken on the device without harm, None where nobody says.

    On Linux within the limit of the container, if it has one.
    """
    if device.type == "cuda":
        import torch

        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + reserved
    if device.type == "mps":
        import torch

        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    try:
        told = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
        found = 1024 * next(int(line[1]) for line in told if line[0] == "MemAvailable:")
    except (OSError, StopIteration):
        return None
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        cached = (line.split() for line in (group / "memory.stat").read_text().splitlines())
        spare = sum(int(size) for name, size in cached if name in ("active_file", "inactive_file"))
        return found if limit == "max" else min(found, int(limit) - int(used) + spare)
    except OSError:
        return found
