"""Overlapping windows over a map larger than a network sees at once, or whose ends meet.

Every window's answer is weighed by sin^2 across it, almost nothing at its border, and the weights are made
to sum to 1 everywhere: MultiDiffusion (arXiv 2302.08113, eq. 5) with soft edges.  Windows that go over the
end and come in again on the other side make pictures that tile.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from calotype.diffusion.denoiser import Denoiser

OVERLAP = 0.25
"""The part of a window that its neighbour sees too, at least."""


@dataclass(frozen=True)
class _Axis:
    """Windows of `side` along a line of `length`; one of them may go round and see its own ends again."""

    length: int
    side: int
    starts: tuple[int, ...]

    @classmethod
    def laid(cls, length: int, side: int, wrap: bool) -> "_Axis":
        if length <= side:
            around = math.ceil(length * OVERLAP) if wrap else 0
            return cls(length, length + 2 * around, (-around,))
        stride = max(1.0, side * (1 - OVERLAP))
        if wrap:
            count = math.ceil(length / stride)
            return cls(length, side, tuple(round(i * length / count) for i in range(count)))
        count = math.ceil((length - side) / stride) + 1
        return cls(length, side, tuple(round(i * (length - side) / (count - 1)) for i in range(count)))

    def places(self, index: int, factor: int) -> Tensor:
        """Where window `index` of a map `factor` times as fine lies: (side * factor)."""
        return (torch.arange(self.side * factor) + self.starts[index] * factor) % (self.length * factor)

    def weights(self, index: int, factor: int) -> Tensor:
        """(side * factor) of window `index`, float64; over all windows they sum to 1 at every place."""
        size = self.side * factor
        shape = (math.pi * (torch.arange(size, dtype=torch.float64) + 0.5) / size).sin() ** 2
        total = torch.zeros(self.length * factor, dtype=torch.float64)
        for i in range(len(self.starts)):
            total.index_add_(0, self.places(i, factor), shape)
        return shape / total[self.places(index, factor)]


class Windows:
    """Where the windows of a map lie, and how their answers become one.

    Args:
        size: (H, W) of the map.
        window: (h, w) of a window; a map smaller than that is one window.
        wrap: whether the ends meet, along (H, W); a single window then sees beyond them what is on the other
            side.
    """

    def __init__(self, size: tuple[int, int], window: tuple[int, int], wrap: tuple[bool, bool]) -> None:
        self.size, self.window = size, window
        self._down, self._across = (_Axis.laid(*axis) for axis in zip(size, window, wrap, strict=True))
        self._places = [
            (i, j) for i in range(len(self._down.starts)) for j in range(len(self._across.starts))
        ]

    def __len__(self) -> int:
        return len(self._places)

    def take(self, x: Tensor, index: int, factor: int = 1) -> Tensor:
        """Window `index` of a map `factor` times as fine: (B C H*f W*f) -> (B C h*f w*f)."""
        i, j = self._places[index]
        rows, columns = self._down.places(i, factor), self._across.places(j, factor)
        return x[..., rows.to(x.device)[:, None], columns.to(x.device)]

    def blend(self, parts: Iterable[Tensor], factor: int = 1) -> Tensor:
        """All windows' answers (B C h*f w*f), in order, to one (B C H*f W*f)."""
        whole: Tensor | None = None
        for (i, j), part in zip(self._places, parts, strict=True):
            if whole is None:
                whole = part.new_zeros(*part.shape[:2], self.size[0] * factor, self.size[1] * factor)
            down = self._down.weights(i, factor).to(part)[:, None]  # (h 1)
            part = part * (down * self._across.weights(j, factor).to(part))  # (h 1), (w) -> (h w)
            # a window may hold a place twice, so both its answers are added: (B C h w) -> (B C h W)
            columns = self._across.places(j, factor).to(part.device)
            wide = whole.new_zeros(*part.shape[:3], whole.shape[3]).index_add_(3, columns, part)
            whole.index_add_(2, self._down.places(i, factor).to(part.device), wide)
        assert whole is not None
        return whole


def windowed(windows: Windows, denoisers: Sequence[Denoiser]) -> Denoiser:
    """The denoiser of the whole map whose windows are each seen by their own denoiser."""

    def denoiser(x: Tensor, sigma: Tensor, /) -> Tensor:
        return windows.blend(own(windows.take(x, i), sigma) for i, own in enumerate(denoisers))

    return denoiser


def mapped(windows: Windows, change: Callable[[Tensor], Tensor], x: Tensor, into: int, out: int) -> Tensor:
    """A function of pictures, done window by window: an encoder or a decoder at bounded memory.

    x is `into` times as fine as the windows' map, the result `out` times.
    """
    return windows.blend((change(windows.take(x, i, into)) for i in range(len(windows))), out)
