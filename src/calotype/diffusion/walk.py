"""The exact walk: a picture's own way to noise, and the noise that leads DDPM back along it.

A path is a row of states, one at every level of a falling grid, that ends with the picture.  DDPM's sampler
is sent down it with a noise source that answers, at every step, with just the noise that leads to the next
state (`Found`).  Those draws, given again (`Given`), lead the same denoiser to the same picture; another
denoiser, told another prompt, makes of them a picture of the same layout (arXiv 2304.06140).
"""

import math
from collections.abc import Callable, Sequence

from torch import Tensor

from calotype.diffusion.grids import SigmaGrid
from calotype.diffusion.noise import NoiseSource

Path = list[Tensor]
"""States (B C H W), one for each level of a falling grid; the last is the picture."""


def additive(x0: Tensor, sigmas: SigmaGrid, noise: NoiseSource) -> Path:
    """x_t = x_0 + xi_1 + ... + xi_t, each level's noise on top of the one below's: the plain process.

    x0 (B C H W) stands at the last level of `sigmas`, which falls and ends above 0.
    """
    path = [x0]
    for low, high in zip(*_rising(sigmas), strict=True):
        path.append(path[-1] + math.sqrt((high - low) * (high + low)) * noise(x0))
    return path[::-1]


def edit_friendly(x0: Tensor, sigmas: SigmaGrid, noise: NoiseSource) -> Path:
    """Every level's noise is independent of the others' (arXiv 2304.06140, eq. 6).

    Written there for the variance-preserving process, whose states are these over sqrt(1 + sigma^2).  Such
    states lie further apart than a diffusion's, so that the noise between them holds more of the picture.
    """
    path = [x0]
    end = float(sigmas[-1])
    for _, high in zip(*_rising(sigmas), strict=True):
        path.append(x0 + math.sqrt((high - end) * (high + end)) * noise(x0))
    return path[::-1]


PATHS: dict[str, Callable[[Tensor, SigmaGrid, NoiseSource], Path]] = {
    "walk": additive,
    "edit_friendly": edit_friendly,
}


class Found:
    """A noise source for DDPM's sampler that leads along `path`, and adds what it answered to `draws`.

    DDPM asks with the mean of its step (arXiv 2006.11239, eq. 7), so that the answer is
    (next state - mean) / deviation.  The state goes on from what the sampler makes of it, with its rounding,
    so that rounding does not add up.
    """

    def __init__(self, path: Path, sigmas: SigmaGrid, draws: list[Tensor]) -> None:
        self._path = path
        self._levels = sigmas.tolist()
        self._draws = draws

    def __call__(self, x: Tensor, /) -> Tensor:
        i = len(self._draws)
        s, t = self._levels[i], self._levels[i + 1]
        self._draws.append((self._path[i + 1] - x) / (t * math.sqrt(1 - (t / s) ** 2)))
        return self._draws[-1]


class Given:
    """A noise source that gives recorded draws (B C H W) in order."""

    def __init__(self, draws: Sequence[Tensor]) -> None:
        self._draws = iter(draws)

    def __call__(self, x: Tensor, /) -> Tensor:
        return next(self._draws).to(x)


def _rising(sigmas: SigmaGrid) -> tuple[list[float], list[float]]:
    levels = sigmas.tolist()[::-1]
    return levels[:-1], levels[1:]
