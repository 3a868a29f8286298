"""What was done to a picture, as linear maps: masks, downscaling, blur.

An operator is any object with `forward` and `adjoint` (see `LinearOperator`); `measured` needs no more.  One
that can solve (gain A A^T + noise) u = right directly says so with a method `solve`, which is then used
instead of conjugate gradients; one that knows a better first guess than the smallest picture that gives y,
with a method `guess`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from calotype.errors import InputError

Matrix = NDArray[np.float64]


@final
@dataclass(frozen=True)
class Mask:
    """Pixels seen where `known` (1 1 H W) is 1; the measurement is 0 elsewhere."""

    known: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return self.known * x

    def adjoint(self, y: Tensor) -> Tensor:
        return self.known * y

    def solve(self, right: Tensor, gain: float, noise: float) -> Tensor:
        # A A^T is 1 on the known pixels; on the others right is 0, and so is the answer
        return right * self.known / (gain + noise)

    def guess(self, y: Tensor) -> Tensor:
        return filled(y, self.known)


EVENING = 8
"""Rounds in which neighbours even out, at each size."""


def filled(y: Tensor, known: Tensor) -> Tensor:
    """y (B C H W) with smooth colours where `known` (1 1 H W) is 0: about Laplace's equation, from coarse to
    fine (pull-push; Gortler et al. 1996).
    """
    height, width = y.shape[-2:]
    if bool(known.all()) or max(height, width) == 1:
        return y
    margin = (0, width % 2, 0, height % 2)
    share = F.avg_pool2d(F.pad(known, margin), 2)  # (1 1 h w)
    means = F.avg_pool2d(F.pad(y * known, margin), 2) / share.clamp_min(
        1e-9
    )  # (B C h w), 0 where none is known
    coarse = filled(means, (share > 0).to(y.dtype))
    fine = F.interpolate(coarse, scale_factor=2, mode="bilinear")[..., :height, :width]
    taps = y.new_tensor([[1, 2, 1], [2, 0, 2], [1, 2, 1]]) / 12
    kernel = taps.expand(y.shape[1], 1, 3, 3)
    x = torch.where(known > 0, y, fine)
    for _ in range(EVENING):
        around = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel, groups=y.shape[1])
        x = torch.where(known > 0, y, around)
    return x


@final
class Separable:
    """Rows by one matrix, columns by another: (B C H W) -> (B C h w), y = R x K^T.

    Solved exactly through the eigenvectors of R R^T and K K^T.
    """

    def __init__(self, rows: Matrix, columns: Matrix) -> None:
        """rows (h H), columns (w W)."""
        self._rows, self._columns = (torch.from_numpy(m).float() for m in (rows, columns))
        self._row_values, self._row_vectors = _eigen(rows)
        self._column_values, self._column_vectors = _eigen(columns)

    def forward(self, x: Tensor) -> Tensor:
        # (h H) (B C H W) (W w) -> (B C h w)
        return self._rows.to(x.device) @ x @ self._columns.mT.to(x.device)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._rows.mT.to(y.device) @ y @ self._columns.to(y.device)

    def solve(self, right: Tensor, gain: float, noise: float) -> Tensor:
        p, q = self._row_vectors.to(right.device), self._column_vectors.to(right.device)
        both = self._row_values[:, None] * self._column_values[None, :]  # (h) and (w) -> (h w)
        scale = gain * both + noise
        if noise == 0:  # what the operator as good as loses carries nothing but rounding
            scale = torch.where(both > LOST * float(both.max()), scale, torch.inf)
        return p @ ((p.mT @ right @ q) / scale.to(right.device)) @ q.mT


LOST = 1e-6
"""Eigenvalues of A A^T below this share of the largest count as 0."""


def _eigen(matrix: Matrix) -> tuple[Tensor, Tensor]:
    values, vectors = np.linalg.eigh(matrix @ matrix.T)
    return torch.from_numpy(values.clip(0)).float(), torch.from_numpy(vectors).float()


@final
@dataclass(frozen=True)
class Blur:
    """A convolution with a kernel (k l) of odd sides; beyond its edge the picture repeats its last pixels."""

    kernel: Tensor

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.kernel.shape
        channels = x.shape[1]
        padded = F.pad(x, (columns // 2, columns // 2, rows // 2, rows // 2), mode="replicate")
        weight = self.kernel.to(x).flip(0, 1).expand(channels, 1, rows, columns)  # (k l) -> (C 1 k l)
        return F.conv2d(padded, weight, groups=channels)

    def adjoint(self, y: Tensor) -> Tensor:
        with torch.enable_grad():  # the gradient of <forward(x), y> in x
            x = torch.zeros_like(y, requires_grad=True)
            (back,) = torch.autograd.grad(self.forward(x), x, y.detach())
        return back


def resampling(length: int, shorter: int, support: float = 2.0) -> Matrix:
    """(shorter length): Pillow's antialiased bicubic along one axis (Keys 1981 with a = -0.5)."""
    scale = length / shorter
    stretch = max(scale, 1.0)
    matrix = np.zeros((shorter, length))
    for i in range(shorter):
        centre = (i + 0.5) * scale
        first = max(0, int(centre - support * stretch + 0.5))
        last = min(length, int(centre + support * stretch + 0.5))
        places = (np.arange(first, last) + 0.5 - centre) / stretch
        weights = _keys(np.abs(places))
        matrix[i, first:last] = weights / weights.sum()
    return matrix


def _keys(x: Matrix, a: float = -0.5) -> Matrix:
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def gaussian(length: int, deviation: float) -> Matrix:
    """(length length): a Gaussian blur along one axis, the last pixels repeated beyond the edge."""
    reach = max(1, math.ceil(4 * deviation))
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    matrix = np.zeros((length, length))
    for offset, tap in zip(range(-reach, reach + 1), taps / taps.sum(), strict=True):
        rows = np.arange(length)
        np.add.at(matrix, (rows, (rows + offset).clip(0, length - 1)), tap)
    return matrix


def downscaling(height: int, width: int, scale: int) -> Separable:
    """From (height, width) pixels to a `scale`-th of each, as Pillow's bicubic filter shrinks pictures."""
    if height % scale or width % scale:
        raise InputError(f"{width}x{height} pixels cannot be shrunk {scale} times; give whole multiples.")
    return Separable(resampling(height, height // scale), resampling(width, width // scale))


def gaussian_blur(height: int, width: int, deviation: float) -> Separable:
    """A Gaussian blur of `deviation` pixels."""
    return Separable(gaussian(height, deviation), gaussian(width, deviation))
