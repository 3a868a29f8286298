"""Pictures drawn from the posterior of a pixel model: how they are asked for, walked to and gathered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calotype.diffusion.alike import Patches, alike_together
from calotype.diffusion.denoiser import Denoiser
from calotype.diffusion.noise import PictureNoise
from calotype.diffusion.samplers import SAMPLERS
from calotype.diffusion.tiles import tiled as tiled_denoiser
from calotype.errors import InputError
from calotype.models.pixel_diffusion import PixelDiffusion
from calotype.networks.last_word import REACH, LastWord
from calotype.tasks.photo_file import Floats, Photo

WAYS = 8
"""To turn and mirror a square."""
PATCHES = (Patches(5, 15), Patches(5, 15), Patches(7, 20))
"""Restored together, round by round."""
LEFT, SHARE = 0.3, 1.25
"""How much of the noise the network is then shown, and how much of the result is the network's, times sigma
(half at 51 of 255): the more noise, the less patches tell."""
BAND, ROWS = 256, 64
"""Rows that are worked on at once: of noise, and of a last word, whose maps take twenty times a row."""

Watch = Callable[[int, int], None]
"""Told (passes through the network done, total)."""


@dataclass(frozen=True)
class Options:
    """How to restore.

    samples  pictures drawn from the posterior; 0 takes one estimate: the one-pass mean, or of a measurement
             what `settled` comes to rest at
    seed     sample i takes seed + i
    steps    of each sample, and of an estimate from a measurement
    tile     pixels a side of what goes through the network at once
    overlap  how much of a tile's rim is only looked at
    jacobian samples go backwards through the network (PiGDM): better guided, three times slower
    ensemble the one-pass mean becomes that of the picture's eight turns and mirrorings: eight passes
    alike    beside the one-pass mean, patches of the picture that look alike are restored together, thrice
    """

    samples: int = 0
    seed: int = 0
    steps: int = 30
    tile: int = 512
    overlap: int = 64
    jacobian: bool = False
    ensemble: bool = False
    alike: bool = False

    @property
    def passes_of_mean(self) -> int:
        """Of the whole picture through the network, for the one-pass mean."""
        return (WAYS if self.ensemble else 1) * (1 + len(PATCHES) if self.alike else 1)

    def __post_init__(self) -> None:
        for name, least in (("samples", 0), ("steps", 1), ("tile", 32), ("overlap", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; give {least} or more.")
        if self.jacobian and self.samples == 0:
            raise InputError(
                "jacobian guides samples, and 0 are asked for; ask for some, or leave jacobian out."
            )
        for name in ("ensemble", "alike"):
            if getattr(self, name) and self.samples > 0:
                raise InputError(
                    f"{name} is for the estimate, and {self.samples} samples are asked for; leave one out."
                )
        if not 0 <= self.seed < 2**64:
            raise InputError(f"seed is {self.seed}; give a whole number from 0 to 2**64 - 1.")


@dataclass(frozen=True)
class Restored:
    """What came out.

    photo      the estimate, the mean of the samples, or the only sample
    samples    the samples, where more than one was asked for
    deviation  (C H W) the samples' standard deviation in each pixel, on the scale where white is 1
    told       what was found out on the way, such as the estimated noise
    """

    photo: Photo
    samples: tuple[Photo, ...] = ()
    deviation: Floats | None = None
    told: str = ""


class BandedNoise:
    """`PictureNoise` of one seed, made band by band: the same numbers in a tenth of the memory."""

    def __init__(self, seed: int, draw: int = 0) -> None:
        self.seed, self.draw = seed, draw

    def __call__(self, x: Tensor, /) -> Tensor:
        noise = torch.empty_like(x)
        for top in range(0, x.shape[-2], BAND):
            band = x[..., top : top + BAND, :]
            noise[..., top : top + BAND, :] = PictureNoise([self.seed], self.draw, (top, 0))(band)
        self.draw += 1
        return noise


def seeds(options: Options) -> list[int]:
    return [(options.seed + i) % 2**64 for i in range(max(1, options.samples))]


def walk(denoiser: Denoiser, x: Tensor, grid: Tensor, seed: int) -> Tensor:
    """One draw from the posterior, by a sampler whose spread converges in second order: DDPM's would be a
    seventh too small at 20 steps.
    """
    for step in SAMPLERS["dpmpp_2m_sde"](denoiser, x, grid, BandedNoise(seed)):
        x = step.x
    return x


def settled(denoiser: Denoiser, x: Tensor, grid: Tensor) -> Tensor:
    """What denoising over and over at falling levels, without adding noise, comes to rest at.

    With a measured denoiser each step is one of half-quadratic splitting with the denoiser as its prior
    (DPIR, arXiv 2008.13751, eq. 6): nearer to the true picture in the mean than the mean of a few samples.
    """
    for step in SAMPLERS["lcm"](denoiser, x, grid, torch.zeros_like):
        x = step.x
    return x


def turning(denoiser: Denoiser) -> Denoiser:
    """The same denoiser, each call seeing the picture turned or mirrored in the next of the eight ways: what
    a network prefers of directions evens out over a walk.
    """
    ways = cycle(range(WAYS))

    def seen(x: Tensor, sigma: Tensor, /) -> Tensor:
        way = next(ways)
        x = x.mT if way >= 4 else x  # (B C H W) -> (B C W H)
        clean = denoiser(torch.rot90(x, way, (2, 3)).contiguous(), sigma)
        clean = torch.rot90(clean, -way, (2, 3))
        return clean.mT if way >= 4 else clean

    return seen


def ensemble(denoiser: Denoiser) -> Denoiser:
    """The mean over the eight ways to turn and mirror a picture (self-ensemble, arXiv 1511.02228)."""
    turned = turning(denoiser)

    def mean(x: Tensor, sigma: Tensor, /) -> Tensor:
        clean = turned(x, sigma)
        for _ in range(WAYS - 1):
            clean += turned(x, sigma)
        return clean / WAYS

    return mean


def estimates(denoiser: Denoiser, x: Tensor, sigma: Tensor, least: float) -> tuple[Tensor, ...]:
    """What a denoiser makes of x with the help of the picture's own repetitions, in two rounds.

    Args:
        x: (B C H W), with noise of deviation sigma (B).
        least: noise that the denoiser knows, above 0.

    Returns:
        The denoiser's own, the first round's patches and what the denoiser makes of them, what the second
        round's two are apart, and their mean, which is the best.
    """
    first = denoiser(x, sigma)
    together, again, clean = _round(denoiser, x, first, sigma, least, PATCHES[0])
    apart, other, clean = _round(denoiser, x, clean, sigma, least, PATCHES[1])
    apart -= other
    return first, together, again, apart, clean


def _round(
    denoiser: Denoiser, x: Tensor, clean: Tensor, sigma: Tensor, least: float, patches: Patches
) -> tuple[Tensor, Tensor, Tensor]:
    """An estimate says which patches are alike; these are restored together; and the denoiser sees the result
    with a part of the noise left in, so that both have their say (as in NN3D, arXiv 1803.02112): what either
    says, and their mean.
    """
    pairs = zip(x, clean, sigma.tolist(), strict=True)
    together = torch.stack([alike_together(*pair, patches) for pair in pairs])  # (C H W)s -> (B C H W)
    again = denoiser(together + LEFT * (x - together), (LEFT * sigma).clamp(min=least))
    share = (SHARE * sigma).clamp(max=1)[:, None, None, None]  # (B) -> (B 1 1 1)
    return together, again, together.lerp(again, share)


def regrouped(denoiser: Denoiser, least: float, last_word: LastWord | None) -> Denoiser:
    """The denoiser by its `estimates`, weighed by a network that knows them, where there is one; and the mean
    of that and of a round more, which begins with it.
    """

    def grouped(x: Tensor, sigma: Tensor, /) -> Tensor:
        sigma = sigma.expand(len(x))  # (1) or (B) -> (B)
        known = estimates(denoiser, x, sigma, least)
        said = known[-1] if last_word is None else _by_rows(last_word, (x, *known), sigma)
        del known  # five pictures
        return _round(denoiser, x, said, sigma, least, PATCHES[-1])[2].add_(said).div_(2)

    return grouped


def _by_rows(last_word: LastWord, parts: tuple[Tensor, ...], sigma: Tensor) -> Tensor:
    clean = torch.empty_like(parts[0])
    for top in range(0, clean.shape[-2], ROWS):
        above = min(top, REACH)
        seen = last_word(*(part[..., top - above : top + ROWS + REACH, :] for part in parts), sigma)
        clean[..., top : top + ROWS, :] = seen[..., above : above + ROWS, :]
    return clean


def tiled(model: PixelDiffusion, options: Options) -> Denoiser:
    factor = model.config.network.factor
    return tiled_denoiser(model.denoiser, options.tile, options.overlap, factor)


@dataclass
class Counter:
    """Tells a watcher of every pass of the whole picture through the network."""

    watch: Watch | None
    total: int
    done: int = 0

    def counting(self, denoiser: Denoiser) -> Denoiser:
        def counted(x: Tensor, sigma: Tensor, /) -> Tensor:
            clean = denoiser(x, sigma)
            self.done += 1
            if self.watch is not None:
                self.watch(self.done, self.total)
            return clean

        return counted


def gathered(photo: Photo, draws: Iterator[Floats], count: int, told: str) -> Restored:
    """Mean and deviation of samples (Welford's running sums), and the samples where there are several."""
    mean: NDArray[Any] | None = None
    squares: Any = 0.0
    kept = []
    for i, sample in enumerate(draws, 1):
        if count > 1:
            kept.append(photo.with_pixels(sample.clip(0, 1)))
        if mean is None:
            mean, squares = sample.copy(), np.zeros_like(sample)
        else:
            step = sample - mean
            mean += step / i
            squares += step * (sample - mean)
    assert mean is not None
    deviation = np.sqrt(squares / (count - 1)) if count > 1 else None
    return Restored(photo.with_pixels(mean.clip(0, 1)), tuple(kept), deviation, told)
