"""Guidance: denoisers made of a conditional model, its condition and what to steer away from.

Everything is said about D(x, sigma).  D is affine in the network's output, so classifier-free guidance of D
is that of the noise, of v or of the flow.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

from calotype.diffusion.denoiser import Denoiser
from calotype.diffusion.parameterization import expand
from calotype.errors import InputError


class Batchable(Protocol):
    """A condition for a batch, row by row."""

    def cat(self, parts: Sequence[Self], /) -> Self:
        """The rows of all parts, in order (a static or class method serves)."""
        ...

    def joins(self, other: Self, /) -> bool:
        """Whether `cat` can put both into one batch."""
        ...


C = TypeVar("C", bound=Batchable)

Model = Callable[[Tensor, Tensor, C], Tensor]
"""A conditional denoiser: (x (B C H W), sigma (B), condition) -> E[x0 | x, condition] (B C H W)."""


@dataclass(frozen=True)
class Apg:
    """Adaptive projected guidance (arXiv 2410.02416, algorithm 1).

    Attributes:
        parallel: what is kept of the part along the conditional picture, which oversaturates (eta).
        threshold: largest norm of the guidance direction over a whole picture (r); None for no limit.
        momentum: of its running sum over the steps, usually negative (beta).
    """

    parallel: float = 0.0
    threshold: float | None = None
    momentum: float = -0.5


def guided(
    model: Model[C],
    conditions: tuple[C, C | None],
    scale: float,
    *,
    rescale: float = 0.0,
    interval: tuple[float, float] | None = None,
    apg: Apg | None = None,
) -> Denoiser:
    """Classifier-free guidance (arXiv 2207.12598, eq. 6): D- + scale (D+ - D-), both halves in one batch.

    Conditions that do not join, as prompts of unequal length, are run one after the other: to fill up the
    shorter one would show the network more text than was written, and change the picture.

    Where there is nothing to steer (scale 1, or outside the interval) only the conditional half is run.
    With APG's momentum the denoiser remembers its calls: make a new one for every run.

    Args:
        conditions: the condition, and the one to steer away from, which scale 1 does without.
        rescale: how far the result takes back the conditional half's deviation, 0 to 1 (arXiv 2305.08891,
            eq. 15-16, on v as there).
        interval: guide only at low < sigma <= high (arXiv 2404.07724, eq. 4).
        apg: how the direction is projected.

    Raises:
        InputError: scale is not 1 and there is no second condition.
    """
    positive, negative = conditions
    if scale == 1:
        return lambda x, sigma, /: model(x, sigma, positive)
    if negative is None:
        raise InputError(f"Guidance at scale {scale:g} needs a second condition to steer away from.")
    halves = _halves(model, positive, negative)
    direct = _projected(apg) if apg else _difference

    def denoiser(x: Tensor, sigma: Tensor, /) -> Tensor:
        inside = torch.ones_like(sigma, dtype=torch.bool)
        if interval is not None:
            inside = (sigma > interval[0]) & (sigma <= interval[1])
            if not bool(inside.any()):
                return model(x, sigma, positive)
        toward, away = halves(x, sigma)
        result = toward + (scale - 1) * direct(toward, away)
        if rescale:
            result = _rescaled(result, toward, x, sigma, rescale)
        return torch.where(expand(inside, x), result, toward)

    return denoiser


def _halves(model: Model[C], positive: C, negative: C) -> Callable[[Tensor, Tensor], tuple[Tensor, ...]]:
    if not positive.joins(negative):
        return lambda x, sigma: (model(x, sigma, positive), model(x, sigma, negative))
    both = positive.cat([positive, negative])
    # (B C H W) twice -> (2B C H W) -> (B C H W) twice
    return lambda x, sigma: model(torch.cat([x, x]), torch.cat([sigma, sigma]), both).chunk(2)


def _difference(toward: Tensor, away: Tensor) -> Tensor:
    return toward - away


def _projected(apg: Apg) -> Callable[[Tensor, Tensor], Tensor]:
    running: Tensor | None = None

    def direct(toward: Tensor, away: Tensor) -> Tensor:
        nonlocal running
        direction = toward - away
        if apg.momentum:
            if running is not None:
                direction = direction + apg.momentum * running
            running = direction
        if apg.threshold is not None:
            norm = _by_row(lambda row: row.norm(), direction)
            direction = direction * (apg.threshold / norm).clamp(max=1.0)
        unit = toward / _by_row(lambda row: row.norm().clamp(min=1e-12), toward)
        along = _by_row(lambda row: row.sum(), direction * unit) * unit
        return direction - along + apg.parallel * along

    return direct


def _rescaled(result: Tensor, toward: Tensor, x: Tensor, sigma: Tensor, amount: float) -> Tensor:
    s = expand(sigma, x)
    # v of a denoised picture: (x / (1 + s^2) - D) sqrt(1 + s^2) / s; the factor cancels, the offset does not
    offset = x / (1 + s**2)
    v, v_toward = offset - result, offset - toward
    ratio = _by_row(lambda row: row.std(), v_toward) / _by_row(lambda row: row.std(), v).clamp(min=1e-12)
    return offset - (amount * ratio + (1 - amount)) * v


def _by_row(measure: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    # (B C H W) -> (B 1 1 1).  One row at a time: a reduction's rounding may depend on the batch it is in.
    return expand(torch.stack([measure(row) for row in x]), x)
