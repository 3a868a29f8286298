"""Samplers that go by the slopes or the pictures of several steps; see samplers.py."""

import math
from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

from calotype.diffusion.noise import NoiseSource
from calotype.diffusion.step import Evaluate, Step, combine, leaps, pairs
from calotype.errors import InputError


def lms(
    evaluate: Evaluate,
    x: Tensor,
    levels: Sequence[float],
    noise: NoiseSource,  # noqa: ARG001
    *,
    order: int = 4,
) -> Iterator[Step]:
    """Linear multistep (Adams-Bashforth) in sigma over uneven levels."""
    slopes: deque[Tensor] = deque(maxlen=_whole(order))
    for i, s, t in pairs(levels):
        denoised = evaluate(x, s)
        slopes.appendleft((x - denoised) / s)
        weights = _adams_bashforth([levels[i - j] for j in range(len(slopes))], s, t)
        x = x + combine(weights, slopes)
        yield Step(i, len(levels) - 1, s, t, x, denoised)


def plms(evaluate: Evaluate, x: Tensor, levels: Sequence[float], noise: NoiseSource) -> Iterator[Step]:  # noqa: ARG001
    """Pseudo linear multistep (PNDM, arXiv 2202.09778, eq. 12), begun by one trapezoid: Stable Diffusion 1's
    own sampler.

    Adams-Bashforth's weights for even steps, whatever the levels, which makes the order in sigma 2.  The
    first step looks twice; in a leap from all but infinity it is Euler's, as Heun's is.
    """
    slopes: deque[Tensor] = deque(maxlen=len(_EVEN))
    for i, s, t in pairs(levels):
        denoised = evaluate(x, s)
        slopes.appendleft((x - denoised) / s)
        slope = combine(_EVEN[len(slopes) - 1], slopes)
        if i == 0 and len(levels) > 2 and not leaps(s, t):
            there = x + (t - s) * slope
            slope = (slope + (there - evaluate(there, t)) / t) / 2
        x = x + (t - s) * slope
        yield Step(i, len(levels) - 1, s, t, x, denoised)


_EVEN = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
"""Adams-Bashforth's weights for even steps, newest first."""


def unipc(
    evaluate: Evaluate,
    x: Tensor,
    levels: Sequence[float],
    noise: NoiseSource,  # noqa: ARG001
    *,
    order: int = 2,
) -> Iterator[Step]:
    """UniPC of D in log sigma, B(h) = exp(h) - 1 (arXiv 2302.04867, algorithms 1-4, "bh2").

    Every D serves twice: it corrects the step that led to it, then predicts the next.
    """
    past: deque[tuple[float, Tensor]] = deque(maxlen=_whole(order))  # newest first: level and D there
    before = x
    for i, s, t in pairs(levels):
        denoised = evaluate(x, s)
        if past:
            x = _unipc_step(before, past, [*list(past)[1:], (s, denoised)], s)
        past.appendleft((s, denoised))
        before = x
        x = _unipc_step(x, past, list(past)[1:], t) if t > 0 else denoised
        yield Step(i, len(levels) - 1, s, t, x, denoised)


def _whole(order: float) -> int:
    if order < 1 or order != int(order):
        raise InputError(f"A sampler's order must be a whole number of at least 1, not {order}.")
    return int(order)


def _weights(places: Sequence[float], moments: Sequence[float]) -> list[float]:
    """The weights w for which sum_j w_j places_j^k is moments_k: a quadrature rule on given places."""
    powers = np.array([[place**k for place in places] for k in range(len(places))])
    solution: list[float] = np.linalg.solve(powers, np.array(moments)).tolist()
    return solution


def _adams_bashforth(nodes: Sequence[float], s: float, t: float) -> list[float]:
    """Weights of the slopes at `nodes`, whose polynomial is integrated from s to t."""
    places = [(node - s) / (t - s) for node in nodes]
    return [(t - s) * weight for weight in _weights(places, [1 / (k + 1) for k in range(len(nodes))])]


def _unipc_step(
    x: Tensor, past: Sequence[tuple[float, Tensor]], others: Sequence[tuple[float, Tensor]], t: float
) -> Tensor:
    """From past[0]'s level to t, with D taken from the polynomial through past[0] and `others`."""
    s, denoised = past[0]
    h = math.log(s / t)
    places = [math.log(s / level) / h for level, _ in others]
    estimate = denoised
    if others:
        weights = [weight / place for weight, place in zip(_unipc_weights(places, h), places, strict=True)]
        estimate = denoised + combine(weights, [value - denoised for _, value in others])
    return estimate + (t / s) * (x - estimate)


def _unipc_weights(places: Sequence[float], h: float) -> list[float]:
    """The solution of arXiv 2302.04867, eq. 5 (a single unknown is 1/2, as its authors take it)."""
    if len(places) == 1:
        return [0.5]
    moments, phi, factorial = [], math.expm1(-h) / -h - 1, 1.0
    for k in range(1, len(places) + 1):
        moments.append(phi * factorial / math.expm1(-h))
        factorial *= k + 1
        phi = phi / -h - 1 / factorial
    return _weights(places, moments)
