"""Samplers: from noise to picture along a row of sigmas, one `Step` at a time.

All of them follow dx = (x - D(x, sigma)) / sigma dsigma (EDM, arXiv 2206.00364, eq. 3) or the stochastic
processes of the same marginals.  In these coordinates many known samplers are one: Euler is DDIM with
eta 0, and DDPM and Euler ancestral are DDIM with eta 1.

`SAMPLERS[name](denoiser, x, sigmas, noise, **options)` checks its input and returns the generator; the
functions below it see a state in float32 (or float64), noise levels as plain numbers, and a denoiser that
takes one level for the whole batch.  Additions and products are written apart (no lerp, no fused add): fused
kernels round the last few elements of a row of memory differently, and a picture must not depend on its
place in the batch.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from calotype.diffusion.denoiser import Denoiser
from calotype.diffusion.grids import SigmaGrid
from calotype.diffusion.multistep import lms, plms, unipc
from calotype.diffusion.noise import NoiseSource
from calotype.diffusion.step import Evaluate, leaps, pairs
from calotype.diffusion.step import Step as Step
from calotype.errors import InputError

Run = Callable[..., Iterator[Step]]


@final
@dataclass(frozen=True)
class Sampler:
    """A sampler and the facts about it.

    Attributes:
        order: of convergence; for a stochastic one, of the variance of what it draws.
        evaluations: denoiser calls a step (plms: one more in the first).
        stochastic: whether it draws noise with its default options.
        options: what may be passed by keyword, with the defaults.
    """

    run: Run
    order: int
    evaluations: int = 1
    stochastic: bool = False
    options: Mapping[str, float] = field(default_factory=dict)

    def __call__(
        self, denoiser: Denoiser, x: Tensor, sigmas: SigmaGrid, noise: NoiseSource, **options: float
    ) -> Iterator[Step]:
        """Follow the grid from x (B C H W) at sigmas[0]; 0 may only come last.

        Rising sigmas lead back to noise, for a sampler that draws none.

        Raises:
            InputError: an option the sampler does not take, or sigmas it cannot follow.
        """
        for name in options:
            if name not in self.options:
                taken = ", ".join(self.options) or "none"
                raise InputError(f"This sampler has no option {name!r}; its options are: {taken}.")
        levels = sigmas.tolist()
        if sigmas.ndim != 1 or len(levels) < 2 or not all(level > 0 for level in levels[:-1]):
            raise InputError("Sigmas must be a row of at least 2 levels, positive up to the last.")
        chosen = {**self.options, **options}
        if chosen.get("eta", self.stochastic) and sigmas[-1] > sigmas[0]:
            raise InputError("Only a sampler that draws no noise can follow rising sigmas; set eta to 0.")
        state = x.detach().to(torch.float64 if x.dtype == torch.float64 else torch.float32)

        def evaluate(x: Tensor, sigma: float) -> Tensor:
            with torch.no_grad():  # here and not around the loop: it must not be held across a yield
                return denoiser(x, x.new_full((len(x),), sigma)).to(x.dtype)

        return self.run(evaluate, state, levels, noise, **chosen)


def first_order(
    evaluate: Evaluate,
    x: Tensor,
    levels: Sequence[float],
    noise: NoiseSource,
    *,
    eta: float = 0.0,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """Euler, DDIM, Euler ancestral, DDPM: down to a lower level in one straight line, then noise on top.

    DDIM (arXiv 2010.02502, eq. 12 and 16) in these coordinates: the fresh part of the noise has variance
    eta^2 t^2 (s^2 - t^2) / s^2.  With eta 1 the step is DDPM's posterior (arXiv 2006.11239, eq. 7), the
    bridge of the additive process; with eta 0 it is Euler's.
    """
    for i, s, t in pairs(levels):
        denoised = evaluate(x, s)
        up = min(t, eta * t * math.sqrt(max(0.0, 1 - (t / s) ** 2)))
        down = math.sqrt(t**2 - up**2)
        x = denoised + (down / s) * (x - denoised)
        if up > 0:
            x = x + (s_noise * up) * noise(x)
        yield Step(i, len(levels) - 1, s, t, x, denoised)


def heun(evaluate: Evaluate, x: Tensor, levels: Sequence[float], noise: NoiseSource) -> Iterator[Step]:  # noqa: ARG001
    """EDM's second-order sampler (arXiv 2206.00364, algorithm 1): the trapezoid in sigma.

    It weighs D at the end by (s - t) / 2t; in a leap from all but infinity that is a number in the
    hundreds, so such a leap, like the last step to 0, is Euler's.
    """
    for i, s, t in pairs(levels):
        denoised = evaluate(x, s)
        straight = denoised + (t / s) * (x - denoised)
        if t == 0 or leaps(s, t):
            x = straight
        else:
            slope, slope_there = (x - denoised) / s, (straight - evaluate(straight, t)) / t
            x = x + ((t - s) / 2) * (slope + slope_there)
        yield Step(i, len(levels) - 1, s, t, x, denoised)


def dpmpp_2m(
    evaluate: Evaluate,
    x: Tensor,
    levels: Sequence[float],
    noise: NoiseSource,
    *,
    eta: float = 0.0,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """DPM-Solver++ 2M (arXiv 2211.01095, algorithm 2) and, with eta, its SDE form (midpoint).

    In log sigma the linear part of the equation is solved exactly, and D is carried on through its last
    two values.
    """
    last, h_last = None, 0.0
    for i, s, t in pairs(levels):
        denoised = estimate = evaluate(x, s)
        if t > 0:
            h = math.log(s / t)
            if last is not None:
                estimate = denoised + (h / (2 * h_last)) * (denoised - last)
            h_last = h
        x = estimate + (t / s) ** (1 + eta) * (x - estimate) + _fresh(x, noise, s, t, eta, s_noise)
        last = denoised
        yield Step(i, len(levels) - 1, s, t, x, denoised)


def dpmpp_3m_sde(
    evaluate: Evaluate,
    x: Tensor,
    levels: Sequence[float],
    noise: NoiseSource,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """DPM-Solver++ 3M SDE (k-diffusion's; arXiv 2211.01095): D carried on through its last three values.

    As published, the bend of D has half the weight of the exact integral, which makes the order 2, not 3.
    """
    past: deque[tuple[float, Tensor]] = deque(maxlen=2)  # newest first: level and D there
    for i, s, t in pairs(levels):
        denoised = evaluate(x, s)
        moved = denoised + (t / s) ** (1 + eta) * (x - denoised)
        if t > 0 and past:
            h = math.log(s / t)
            span = (1 + eta) * h
            phi_2 = math.expm1(-span) / span + 1
            r0 = math.log(past[0][0] / s) / h
            rise = (denoised - past[0][1]) / r0
            if len(past) == 2:
                r1 = math.log(past[1][0] / past[0][0]) / h
                bend = (rise - (past[0][1] - past[1][1]) / r1) / (r0 + r1)
                moved = moved + phi_2 * (rise + r0 * bend) - (phi_2 / span - 0.5) * bend
            else:
                moved = moved + phi_2 * rise
        past.appendleft((s, denoised))
        x = moved + _fresh(x, noise, s, t, eta, s_noise)
        yield Step(i, len(levels) - 1, s, t, x, denoised)


def dpmpp_sde(
    evaluate: Evaluate,
    x: Tensor,
    levels: Sequence[float],
    noise: NoiseSource,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """DPM-Solver++ SDE (k-diffusion's; arXiv 2211.01095): D taken halfway in log sigma.

    The noise of the whole step is that of its first half, carried on, plus a second draw: one Brownian
    path, as the equation has it.
    """
    for i, s, t in pairs(levels):
        estimate = denoised = evaluate(x, s)
        half_noise: Tensor | float = 0.0
        middle = math.sqrt(s * t)
        if t > 0:
            half_noise = _fresh(x, noise, s, middle, eta, s_noise)
            probe = denoised + (middle / s) ** (1 + eta) * (x - denoised) + half_noise
            estimate = evaluate(probe, middle)
            half_noise = (t / middle) ** (1 + eta) * half_noise
        moved = estimate + (t / s) ** (1 + eta) * (x - estimate)
        x = moved + half_noise + _fresh(x, noise, middle, t, eta, s_noise)
        yield Step(i, len(levels) - 1, s, t, x, denoised)


def lcm(evaluate: Evaluate, x: Tensor, levels: Sequence[float], noise: NoiseSource) -> Iterator[Step]:
    """Multistep consistency sampling (arXiv 2310.04378, algorithm 3): to the picture, and noise again.

    The denoiser is a consistency function: it answers with the end of x's own path.
    """
    for i, s, t in pairs(levels):
        denoised = evaluate(x, s)
        x = denoised + t * noise(x) if t > 0 else denoised
        yield Step(i, len(levels) - 1, s, t, x, denoised)


_ANCESTRAL = {"eta": 1.0, "s_noise": 1.0}

SAMPLERS: dict[str, Sampler] = {
    "ddpm": Sampler(first_order, order=1, stochastic=True, options=_ANCESTRAL),
    "ddim": Sampler(first_order, order=1, options={"eta": 0.0, "s_noise": 1.0}),
    "euler": Sampler(first_order, order=1),
    "euler_a": Sampler(first_order, order=1, stochastic=True, options=_ANCESTRAL),
    "heun": Sampler(heun, order=2, evaluations=2),
    "lms": Sampler(lms, order=4, options={"order": 4}),
    "plms": Sampler(plms, order=2),
    "dpmpp_2m": Sampler(dpmpp_2m, order=2),
    "dpmpp_2m_sde": Sampler(dpmpp_2m, order=2, stochastic=True, options=_ANCESTRAL),
    "dpmpp_3m_sde": Sampler(dpmpp_3m_sde, order=2, stochastic=True, options=_ANCESTRAL),
    "dpmpp_sde": Sampler(dpmpp_sde, order=2, evaluations=2, stochastic=True, options=_ANCESTRAL),
    "unipc": Sampler(unipc, order=3, options={"order": 2}),
    "lcm": Sampler(lcm, order=1, stochastic=True),
}


def _fresh(x: Tensor, noise: NoiseSource, s: float, t: float, eta: float, s_noise: float) -> Tensor | float:
    """What the SDE adds from s down to t: variance t^2 (1 - (t / s)^(2 eta)); no draw where that is 0."""
    deviation = s_noise * t * math.sqrt(max(0.0, -math.expm1(2 * eta * math.log(t / s)))) if t > 0 else 0.0
    return deviation * noise(x) if deviation > 0 else 0.0
