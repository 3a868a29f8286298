"""Noise schedules: the ladder of noise levels a network was trained on, both ways.

Every level is a sigma of `x = x0 + sigma * noise`.  A variance-preserving schedule (DDPM, arXiv 2006.11239)
keeps `sqrt(a) x0 + sqrt(1 - a) noise` instead, with `a` its cumulative alpha; that is the same picture
multiplied by sqrt(a), at sigma = sqrt((1 - a) / a).
"""

import math
from collections.abc import Iterator
from typing import Protocol, Self, final

import torch
from torch import Tensor

from calotype.errors import InputError

SIGMA_LIMIT = 65536.0
"""What stands for sigma = infinity: flow's t = 1 and the last step of a zero-terminal-SNR schedule.

The only place that caps sigma.  A power of two, above every finite schedule in use (the cosine schedule
ends at 20,291) and far from the limits of float32 even when squared.
"""


SIGMA_FAR = 80.0
"""Above this a picture of unit scale is all noise (EDM's sigma_max, arXiv 2206.00364, table 1).

Not a cap: sigma-spaced grids begin no higher, and Heun's trapezoid does not span a leap from beyond.
"""


class Schedule(Protocol):
    """A ladder of trained noise levels, numbered from `first` to `last`, sigma rising with the step."""

    @property
    def first(self) -> float: ...
    @property
    def last(self) -> float: ...
    @property
    def sigma_min(self) -> float: ...
    @property
    def sigma_max(self) -> float: ...
    def sigma_at(self, step: Tensor) -> Tensor: ...
    def step_at(self, sigma: Tensor) -> Tensor: ...


@final
class NoiseSchedule:
    """A table of `steps` trained levels; between two of them, log sigma is linear in the step.

    The table is rounded to float32 once, so that a float32 sigma taken from it finds its own step exactly.

    Args:
        alphas_cumprod: (T), strictly falling within [0, 1); 0 (zero terminal SNR) only as its last entry.

    Raises:
        InputError: the table is not such a sequence.
    """

    def __init__(self, alphas_cumprod: Tensor) -> None:
        alphas = alphas_cumprod.detach().to("cpu", torch.float64)
        if alphas.ndim != 1 or len(alphas) < 2:
            raise InputError("alphas_cumprod must be a one-dimensional table of at least 2 noise levels.")
        sigmas = ((1 - alphas) / alphas).sqrt().clamp(max=SIGMA_LIMIT).to(torch.float32)
        if not (alphas[0] < 1 and alphas[-1] >= 0 and bool((sigmas.diff() > 0).all())):
            raise InputError("alphas_cumprod must fall strictly within [0, 1); check the schedule's betas.")
        self.alphas_cumprod = alphas
        self.sigmas = sigmas.to(torch.float64)  # (T), rising

    @classmethod
    def from_betas(cls, betas: Tensor) -> Self:
        """From per-step variances (T); the product is taken in the betas' own dtype, as DDPM's code does."""
        return cls(torch.cumprod(1 - betas, dim=0))

    @classmethod
    def from_sigmas(cls, sigmas: Tensor) -> Self:
        """From noise levels (T), positive and rising: the additive process' own table."""
        return cls(1 / (1 + sigmas.to(torch.float64) ** 2))

    @classmethod
    def linear(cls, steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Self:
        """DDPM (arXiv 2006.11239, section 4): betas linear in the step."""
        return cls.from_betas(torch.linspace(beta_start, beta_end, steps, dtype=torch.float32, device="cpu"))

    @classmethod
    def scaled_linear(cls, steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> Self:
        """Stable Diffusion (arXiv 2112.10752): the square root of beta linear in the step."""
        roots = torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float32, device="cpu")
        return cls.from_betas(roots**2)

    @classmethod
    def cosine(cls, steps: int = 1000) -> Self:
        """Improved DDPM (arXiv 2102.09672, eq. 17), beta at most 0.999: diffusers' `squaredcos_cap_v2`."""

        def bar(time: float) -> float:
            return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

        betas = [min(1 - bar((i + 1) / steps) / bar(i / steps), 0.999) for i in range(steps)]
        return cls.from_betas(torch.tensor(betas, dtype=torch.float32, device="cpu"))

    def zero_terminal_snr(self) -> Self:
        """This schedule with its last step pure noise (arXiv 2305.08891, algorithm 1)."""
        roots = self.alphas_cumprod.sqrt()
        first, last = roots[0], roots[-1]
        return type(self)(((roots - last) * first / (first - last)) ** 2)

    @property
    def steps(self) -> int:
        return len(self.sigmas)

    @property
    def first(self) -> float:
        return 0.0

    @property
    def last(self) -> float:
        return float(self.steps - 1)

    @property
    def sigma_min(self) -> float:
        return float(self.sigmas[0])

    @property
    def sigma_max(self) -> float:
        return float(self.sigmas[-1])

    def sigma_at(self, step: Tensor) -> Tensor:
        """Noise level of a step, whole or fractional: any shape, same shape back, in float64.

        Steps outside [0, steps - 1] are taken as the nearest end.
        """
        sigmas = self.sigmas.to(step.device)
        step = step.to(torch.float64).clamp(self.first, self.last)
        below = step.floor().clamp(max=self.last - 1).long()
        low, high = sigmas[below], sigmas[below + 1]
        between = low * (high / low) ** (step - below)
        # a whole step returns its own entry to the bit
        return torch.where(step == below, low, torch.where(step == below + 1, high, between))

    def step_at(self, sigma: Tensor) -> Tensor:
        """Step of a noise level, linear in log sigma: any shape, same shape and dtype back.

        Exactly k at sigmas[k]; levels beyond the table are taken as its nearest end.
        """
        sigmas = self.sigmas.to(sigma.device, sigma.dtype)
        sigma = sigma.clamp(sigmas[0], sigmas[-1])
        below = torch.searchsorted(sigmas, sigma.contiguous(), right=True).sub(1).clamp(max=self.steps - 2)
        low, high = sigmas[below], sigmas[below + 1]
        return below + (sigma / low).log() / (high / low).log()


@final
class FlowSchedule:
    """Rectified flow's ladder (arXiv 2403.03206): x_t = (1 - t) x0 + t noise, that is sigma = t / (1 - t).

    Shifting time by s, t -> s t / (1 + (s - 1) t) (eq. 23), multiplies sigma by s.  Steps run to `steps`
    (t = 1) and count unshifted time; the network's own noise label is `Flow`'s affair.

    Raises:
        InputError: shift is not positive or steps is below 2.
    """

    def __init__(self, shift: float = 1.0, steps: int = 1000) -> None:
        if not shift > 0 or steps < 2:
            raise InputError(f"A flow schedule needs shift > 0 and steps >= 2, not {shift} and {steps}.")
        self.shift = shift
        self.steps = steps

    @property
    def first(self) -> float:
        return 1.0

    @property
    def last(self) -> float:
        return float(self.steps)

    @property
    def sigma_min(self) -> float:
        return self.shift / (self.steps - 1)

    @property
    def sigma_max(self) -> float:
        return SIGMA_LIMIT

    def sigma_at(self, step: Tensor) -> Tensor:
        """Noise level of a step in [0, steps]: any shape, same shape back, in float64."""
        time = step.to(torch.float64).clamp(0, self.steps) / self.steps
        return (self.shift * time / (1 - time)).clamp(max=SIGMA_LIMIT)

    def step_at(self, sigma: Tensor) -> Tensor:
        """Step of a noise level: any shape, same shape and dtype back; exactly `steps` at sigma_max."""
        time = sigma / (sigma + self.shift)
        return torch.where(sigma >= SIGMA_LIMIT, 1.0, time) * self.steps


@final
class AdditiveProcess:
    """The plain process x_t = x_0 + xi_1 + ... + xi_t with independent xi_i ~ N(0, s_i^2 - s_{i-1}^2).

    Its marginal is x_0 + s_t * noise: the picture all of Calotype computes in.  Multiplied by
    1 / sqrt(1 + s_t^2) it is the variance-preserving process of DDPM, so one schedule serves both.

    Args:
        sigmas: (T), positive and rising.

    Raises:
        InputError: sigmas are not.
    """

    def __init__(self, sigmas: Tensor) -> None:
        self.sigmas = sigmas.detach().to("cpu", torch.float64)
        if self.sigmas.ndim != 1 or not bool((self.sigmas.diff(prepend=self.sigmas.new_zeros(1)) > 0).all()):
            raise InputError(
                "An additive process needs a one-dimensional, positive and rising row of sigmas."
            )

    @property
    def schedule(self) -> NoiseSchedule:
        """The same levels as a schedule."""
        return NoiseSchedule.from_sigmas(self.sigmas)

    @property
    def increments(self) -> Tensor:
        """(T) standard deviations of the xi_i."""
        low = torch.cat([self.sigmas.new_zeros(1), self.sigmas[:-1]])
        return ((self.sigmas - low) * (self.sigmas + low)).sqrt()

    def walk(self, x0: Tensor, noises: Iterator[Tensor]) -> Iterator[Tensor]:
        """x_1 ... x_T, one unit noise of x0's shape drawn for each step."""
        x = x0
        for deviation, noise in zip(self.increments.tolist(), noises, strict=False):
            x = x + deviation * noise
            yield x

    def back(self, x: Tensor, noises: Iterator[Tensor]) -> Iterator[Tensor]:
        """x_{T-1} ... x_0 from x_T, given the noises of `walk` from the last one on: what was added is taken
        away, to the float precision of the largest state.
        """
        for deviation, noise in zip(self.increments.tolist()[::-1], noises, strict=False):
            x = x - deviation * noise
            yield x
