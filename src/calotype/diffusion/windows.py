"""Overlapping windows over a map larger than a network sees at once, or whose ends meet.

Every window's answer is weighed by sin^2 across it, almost nothing at its border, and the weights are made
to sum to 1 everywhere: MultiDiffusion (arXiv 2302.08113, eq. 5) with soft edges.  Windows that go over the
end and come in again on the other side make pictures that tile.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from calotype.diffusion.denoiser import Denoiser

OVERLAP = 0.25
"""The part of a window that its neighbour sees too, at least."""


class Windows:
    """Where the windows of a map lie, and how their answers become one.

    Args:
        size: (H, W) of the map.
        window: (h, w) of a window; a map smaller than that is one window.
        wrap: whether the ends meet, along (H, W); then there are at least two windows that way.
    """

    def __init__(self, size: tuple[int, int], window: tuple[int, int], wrap: tuple[bool, bool]) -> None:
        self.size = size
        self._window = (min(window[0], size[0]), min(window[1], size[1]))
        tops, lefts = (_starts(*axis) for axis in zip(size, self._window, wrap, strict=True))
        self._places = [(top, left) for top in tops for left in lefts]
        self._starts = (tops, lefts)

    def __len__(self) -> int:
        return len(self._places)

    def take(self, x: Tensor, index: int, factor: int = 1) -> Tensor:
        """Window `index` of a map `factor` times as fine: (B C H*f W*f) -> (B C h*f w*f)."""
        rows, columns = self._indices(index, factor)
        return x[..., rows.to(x.device)[:, None], columns.to(x.device)]

    def blend(self, parts: Iterable[Tensor], factor: int = 1) -> Tensor:
        """All windows' answers (B C h*f w*f), in order, to one (B C H*f W*f)."""
        down, across = (self._weights(axis, factor) for axis in (0, 1))
        whole: Tensor | None = None
        for index, part in enumerate(parts):
            if whole is None:
                whole = part.new_zeros(*part.shape[:2], self.size[0] * factor, self.size[1] * factor)
            rows, columns = (found.to(part.device) for found in self._indices(index, factor))
            top, left = index // len(self._starts[1]), index % len(self._starts[1])
            weight = (down[top][:, None] * across[left]).to(part)  # (h 1), (w) -> (h w)
            whole[..., rows[:, None], columns] += weight * part
        assert whole is not None
        return whole

    def _indices(self, index: int, factor: int) -> tuple[Tensor, Tensor]:
        rows, columns = (
            (torch.arange(side * factor) + start * factor) % (length * factor)
            for start, side, length in zip(self._places[index], self._window, self.size, strict=True)
        )
        return rows, columns

    def _weights(self, axis: int, factor: int) -> list[Tensor]:
        """One row of weights (h*f) for each start along an axis, in float64; they sum to 1 at every place."""
        side, length = self._window[axis] * factor, self.size[axis] * factor
        shape = (math.pi * (torch.arange(side, dtype=torch.float64) + 0.5) / side).sin() ** 2
        places = [(torch.arange(side) + start * factor) % length for start in self._starts[axis]]
        total = torch.zeros(length, dtype=torch.float64)
        for place in places:
            total[place] += shape
        return [shape / total[place] for place in places]


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


def _starts(length: int, side: int, wrap: bool) -> list[int]:
    stride = max(1.0, side * (1 - OVERLAP))
    if wrap:
        count = max(2, math.ceil(length / stride))
        return [round(i * length / count) for i in range(count)] if length > 1 else [0]
    if length <= side:
        return [0]
    count = math.ceil((length - side) / stride) + 1
    return [round(i * (length - side) / (count - 1)) for i in range(count)]
