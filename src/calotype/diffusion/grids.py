"""Where a sampler stops on its way from noise to picture: rows of falling sigmas that end at 0.

A grid places n levels between sigma_min and sigma_max and adds the end.  Those that think in timesteps
(leading, trailing, linspace, lcm, beta) are built on a schedule.
"""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from calotype.diffusion.schedule import SIGMA_FAR, FlowSchedule, Schedule
from calotype.errors import InputError

SigmaGrid = Tensor
"""(n + 1) float64 on the CPU: falling, the last usually 0; n steps."""

Grid = Callable[[int, float, float], SigmaGrid]
"""(steps, sigma_min, sigma_max) -> SigmaGrid.  Raises InputError for what cannot be placed."""

# Sabour et al., "Align Your Steps" (arXiv 2404.14507), the noise levels its authors publish for 10 steps.
AYS_SIGMAS = {
    "sd1": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "svd": (700.00, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}


def karras(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> SigmaGrid:
    """Even in sigma^(1/rho) (EDM, arXiv 2206.00364, eq. 5)."""
    _check(steps, sigma_min, sigma_max)
    roots = np.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), steps)
    return _ending(torch.from_numpy(roots**rho))


def exponential(steps: int, sigma_min: float, sigma_max: float) -> SigmaGrid:
    """Even in log sigma (DPM-Solver, arXiv 2206.00927, section 3.4)."""
    _check(steps, sigma_min, sigma_max)
    return _ending(torch.from_numpy(np.geomspace(sigma_max, sigma_min, steps)))


def leading(schedule: Schedule, offset: int = 0, final_sigma: float = 0.0) -> Grid:
    """Every (T // n)-th step, counted from the first, plus `offset` (SD's own `steps_offset` is 1).

    It never reaches the last step (arXiv 2305.08891, table 2).  `final_sigma`: where the row ends; a model
    whose DDIM has `set_alpha_to_one` false ends at schedule.sigma_min.
    """

    def grid(steps: int, sigma_min: float, sigma_max: float) -> SigmaGrid:
        first, count = _span(schedule, steps, sigma_min, sigma_max)
        chosen = first + np.arange(steps)[::-1] * (count // steps) + offset
        return _ending(schedule.sigma_at(torch.from_numpy(chosen)), final_sigma)

    return grid


def trailing(schedule: Schedule, final_sigma: float = 0.0) -> Grid:
    """n even strides down from the last step (arXiv 2305.08891, table 2)."""

    def grid(steps: int, sigma_min: float, sigma_max: float) -> SigmaGrid:
        first, count = _span(schedule, steps, sigma_min, sigma_max)
        # arange and not a product, so that halves round as they do elsewhere
        chosen = first - 1 + np.round(np.arange(count, 0, -count / steps)[:steps])
        return _ending(schedule.sigma_at(torch.from_numpy(chosen)), final_sigma)

    return grid


def raised(schedule: Schedule, factor: float = 3.0) -> Grid:
    """Trailing's levels, the low ones `factor` times as high: more steps where words decide what is drawn.

    1/sigma' = 1/(factor sigma) + (1 - 1/factor)/sigma_max, so that sigma_max stays where it is.  A shift of
    the log signal-to-noise ratio, as larger pictures need one (arXiv 2301.11093, section 2.1).
    """
    even = trailing(schedule)

    def grid(steps: int, sigma_min: float, sigma_max: float) -> SigmaGrid:
        sigmas = even(steps, sigma_min, sigma_max)[:-1]
        top = sigmas[0]
        higher = 1 / (1 / (factor * sigmas) + (1 - 1 / factor) / top)
        return _ending(higher.clamp(max=float(top)))

    return grid


def linspace(schedule: Schedule, final_sigma: float = 0.0) -> Grid:
    """n steps from the last to the first, both included (Improved DDPM, arXiv 2102.09672, section 4)."""

    def grid(steps: int, sigma_min: float, sigma_max: float) -> SigmaGrid:
        first, count = _span(schedule, steps, sigma_min, sigma_max)
        # rising, then turned round, so that halves round as they do elsewhere; one step is the last
        chosen = np.linspace(first, first + count - 1, max(steps, 2)).round()[::-1][:steps].copy()
        return _ending(schedule.sigma_at(torch.from_numpy(chosen)), final_sigma)

    return grid


def lcm(schedule: Schedule, distilled: int = 50) -> Grid:
    """Of the levels that a consistency model was distilled on, every (T // `distilled`)-th step down from the
    last (arXiv 2310.04378, section 4.3), n that are evenly spread: diffusers' LCMScheduler.  More steps than
    that have a finer ladder.
    """

    def grid(steps: int, sigma_min: float, sigma_max: float) -> SigmaGrid:
        first, count = _span(schedule, steps, sigma_min, sigma_max)
        stride = min(int(schedule.last - schedule.first + 1) // distilled, count // steps)
        known = first + count - 1 - max(1, stride) * np.arange(count // max(1, stride))
        chosen = known[np.floor(np.linspace(0, len(known), steps, endpoint=False)).astype(int)]
        return _ending(schedule.sigma_at(torch.from_numpy(chosen)))

    return grid


def beta(schedule: Schedule, alpha: float = 0.6, beta: float = 0.6) -> Grid:
    """Steps at the quantiles of a beta distribution, denser at both ends (arXiv 2407.12173)."""

    def grid(steps: int, sigma_min: float, sigma_max: float) -> SigmaGrid:
        first, count = _span(schedule, steps, sigma_min, sigma_max)
        quantiles = _beta_quantile(np.arange(steps, 0, -1) / steps, alpha, beta)
        return _ending(schedule.sigma_at(torch.from_numpy(first + quantiles * (count - 1))))

    return grid


def align_your_steps(table: str = "sd1") -> Grid:
    """The published levels of `AYS_SIGMAS`, log-linear between them for other numbers of steps.

    The table has its own low end, so the grid's sigma_min is not used; a sigma_max within the table starts
    there.
    """
    if table not in AYS_SIGMAS:
        raise InputError(f"No align-your-steps table is called {table!r}; choose {', '.join(AYS_SIGMAS)}.")
    levels = np.log(np.array(AYS_SIGMAS[table]))
    places = np.linspace(0, 1, len(levels))

    def grid(steps: int, sigma_min: float, sigma_max: float) -> SigmaGrid:
        _check(steps, sigma_min, sigma_max)
        start = np.interp(math.log(sigma_max), levels[::-1], places[::-1])
        sigmas = np.exp(np.interp(np.linspace(start, 1, steps + 1), places, levels))
        return _ending(torch.from_numpy(sigmas[:-1]))

    return grid


def flow_shift(shift: float = 1.0) -> Grid:
    """Even in flow time before the shift (SD3, arXiv 2403.03206, eq. 23): t from that of sigma_max to 0.

    The last level follows from the number of steps, so the grid's sigma_min is not used.
    """
    schedule = FlowSchedule(shift)

    def grid(steps: int, sigma_min: float, sigma_max: float) -> SigmaGrid:
        _check(steps, sigma_min, sigma_max)
        start = float(schedule.step_at(torch.tensor(sigma_max, dtype=torch.float64)))
        sigmas = schedule.sigma_at(torch.from_numpy(np.linspace(start, 0, steps + 1)))
        return sigmas.clamp(max=sigma_max)  # the way through time and back may round up

    return grid


def _not_from_afar(grid: Grid) -> Grid:
    # Spaced by sigma, most levels of a schedule that starts at 20,000 or infinity would be pure noise.
    return lambda steps, low, high: grid(steps, low, min(high, SIGMA_FAR))


GRIDS: dict[str, Callable[[Schedule], Grid]] = {
    "leading": leading,
    "trailing": trailing,
    "raised": raised,
    "linspace": linspace,
    "lcm": lcm,
    "karras": lambda _: _not_from_afar(karras),
    "exponential": lambda _: _not_from_afar(exponential),
    "beta": beta,
    "ays_sd1": lambda _: align_your_steps("sd1"),
    "ays_sdxl": lambda _: align_your_steps("sdxl"),
    "ays_svd": lambda _: align_your_steps("svd"),
    "flow": lambda schedule: flow_shift(schedule.shift if isinstance(schedule, FlowSchedule) else 1.0),
}
"""Name -> the grid for a schedule.  An align-your-steps table belongs to one family of models."""


def _ending(sigmas: Tensor, final_sigma: float = 0.0) -> SigmaGrid:
    return torch.cat([sigmas, sigmas.new_tensor([final_sigma])])


def _check(steps: int, sigma_min: float, sigma_max: float) -> None:
    if steps < 1:
        raise InputError(f"A picture takes at least 1 step, not {steps}.")
    if not 0 < sigma_min < sigma_max:
        raise InputError(f"A grid needs 0 < sigma_min < sigma_max, not {sigma_min:g} and {sigma_max:g}.")


def _span(schedule: Schedule, steps: int, sigma_min: float, sigma_max: float) -> tuple[float, int]:
    """The first step at or above sigma_min and how many whole steps there are from it to sigma_max."""
    _check(steps, sigma_min, sigma_max)
    ends = schedule.step_at(torch.tensor([sigma_min, sigma_max], dtype=torch.float64))
    first, last = max(float(ends[0]), schedule.first), float(ends[1])
    count = int(last - first) + 1
    if steps > count:
        raise InputError(f"The schedule has {count} steps in this range, fewer than the {steps} asked for.")
    return first, count


def _beta_quantile(chances: npt.NDArray[np.float64], a: float, b: float) -> npt.NDArray[np.float64]:
    """The x at which the Beta(a, b) distribution function reaches each chance, by bisection."""
    low, high = np.zeros_like(chances), np.ones_like(chances)
    for _ in range(60):
        middle = (low + high) / 2
        below = _beta_cdf(middle, a, b) < chances
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return high


def _beta_cdf(x: npt.NDArray[np.float64], a: float, b: float) -> npt.NDArray[np.float64]:
    """The incomplete beta function by its power series, on the half where 60 terms settle it (DLMF 8.17)."""
    flip = x > 0.5
    x, a_, b_ = np.where(flip, 1 - x, x), np.where(flip, b, a), np.where(flip, a, b)
    term, total = np.ones_like(x), 1 / a_
    for k in range(1, 60):
        term = term * (k - b_) / k * x
        total = total + term / (a_ + k)
    part = x**a_ * total * math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b))
    return np.where(flip, 1 - part, part)
