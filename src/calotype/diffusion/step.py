"""One step of a sampler, and the little that all samplers are written with."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor

from calotype.diffusion.schedule import SIGMA_FAR

Evaluate = Callable[[Tensor, float], Tensor]
"""A denoiser as samplers see it: one level for the whole batch."""


@final
@dataclass(frozen=True)
class Step:
    """One step done: `x` (B C H W) is the state it led to, at sigma_next; `denoised` is D at its start."""

    index: int
    total: int
    sigma: float
    sigma_next: float
    x: Tensor
    denoised: Tensor


def pairs(levels: Sequence[float]) -> Iterator[tuple[int, float, float]]:
    for i in range(len(levels) - 1):
        yield i, levels[i], levels[i + 1]


def leaps(s: float, t: float) -> bool:
    """Whether a trapezoid must not span the step: see `heun`."""
    return s > SIGMA_FAR and s > 3 * t


def combine(weights: Sequence[float], values: Sequence[Tensor]) -> Tensor:
    total = weights[0] * values[0]
    for weight, value in zip(weights[1:], list(values)[1:], strict=True):
        total = total + weight * value
    return total
