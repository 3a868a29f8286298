"""An invisible mark that says "Calotype made this" and outlives the file's metadata.

A tile of 64x64 pixels, repeated over the brightness of the picture: waves of a middle band, each with a phase
of its own that a key gives.  Whoever knows the key adds up, over all waves, how well the picture's phases
agree with them:

    z = sum_k a_k cos(phi_k - theta_k - 2 pi k.s / 64) / sqrt(sum_k a_k^2 / 2)

over every shift s (a crop) and a ladder of scales.  The a_k may be anything the picture says: if the picture
knows nothing of the key, the theta_k are uniform and independent of it.  As E exp(l cos theta) = I0(l) <=
exp(l^2 / 4), Chernoff's bound gives P(z > t) <= exp(-t^2 / 2) for each shift and scale, whatever the picture:
the chance of a false alarm is at most the number of shifts and scales times that, in closed form and without
a model of pictures.

Spread-spectrum marks: Cox et al. 1997, doi 10.1109/83.650120; correlation by phases: Kuglin and Hines 1975.
The key is public, so that anyone can look for the mark; so anyone can put it on or take it off, too.
"""

from __future__ import annotations

import functools
import hashlib
import math
from dataclasses import dataclass

import numpy as np
import PIL.Image
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NAME = "calotype-1"
"""Of the key and the pattern; another pattern gets another name."""

TILE = 64
LOW, HIGH = 3.0, 13.0
"""The band, in waves a tile: below is shading, above is what JPEG and halving take away."""

STRENGTHS = (1.1, 1.5, 2.2, 3.1)
"""Root mean square of the mark, in levels of 255, where the picture is flat; the first that is ENOUGH."""

ENOUGH = 15.0
"""What agreement a marked picture is given, so that some is left when it is cut or squeezed."""

FALSE_ALARM = 1e-6
"""A picture is called marked where chance alone would do that to one picture in a million, at most."""

SMALLEST, LARGEST = 0.45, 2.3
"""Scales that are looked for: of the picture as it is to the picture as it was marked."""

WINDOW = 768
"""Pixels a side that are looked at: the middle of a larger picture is enough."""

STEP = 2.4
"""Of the scales: pixels of the mark by which the picture's side differs from one to the next."""


@dataclass(frozen=True)
class Detection:
    """false_alarm  at most the probability that a picture without the mark looks like this, 0 to 1
    strength     z, the agreement in deviations
    scale        at which it was found: 0.5 for a picture that was halved
    """

    false_alarm: float
    strength: float
    scale: float

    @property
    def found(self) -> bool:
        return self.false_alarm < FALSE_ALARM


def embed(image: PIL.Image.Image, key: str = NAME) -> PIL.Image.Image:
    """The picture (RGB) with the mark; the same picture always gives the same pixels."""
    pixels = np.asarray(image.convert("RGB"), np.float64)
    height, width = pixels.shape[:2]
    tiles = (-(-height // TILE), -(-width // TILE))
    wave = np.tile(pattern(key), tiles)[:height, :width]
    # (H W 3) -> (H W), term by term: a matrix product may sum in another order elsewhere
    grey = 0.299 * pixels[..., 0] + 0.587 * pixels[..., 1] + 0.114 * pixels[..., 2]
    shape = (_room(grey) * wave)[..., None]
    for strength in STRENGTHS:
        marked = PIL.Image.fromarray(np.rint(pixels + strength * shape).clip(0, 255).astype(np.uint8))
        if agreement(_flattened(_middle(marked)), key=key).max() >= ENOUGH:
            break
    return marked


def detect(image: PIL.Image.Image, key: str = NAME) -> Detection:
    """The best agreement over all shifts and scales; a second or two of one core for a large picture."""
    flat = _flattened(_middle(image)).astype(np.float32)
    ladder = _scales(max(flat.shape))
    best, at = -math.inf, 1.0
    for scale in ladder:
        z = float(agreement(flat, scale, key).max())
        if z > best:
            best, at = z, scale
        if bound(best, len(ladder) * TILE**2) < FALSE_ALARM and at == 1:
            break  # as it was marked: most are
    return Detection(bound(best, len(ladder) * TILE**2), best, at)


def bound(z: float, looks: int) -> float:
    """At most the probability that one of `looks` agreements of an unmarked picture reaches z."""
    return min(1.0, looks * math.exp(-(max(z, 0.0) ** 2) / 2))


def pattern(key: str = NAME) -> Floats:
    """The tile (64 64): mean 0, mean square 1."""
    spectrum = np.zeros((TILE, TILE), complex)
    spectrum[_band()] = np.exp(1j * _phases(key))
    tile = np.fft.ifft2(spectrum).real
    scaled: Floats = tile / np.sqrt(np.mean(tile**2))
    return scaled


def agreement(flat: NDArray[np.floating], scale: float = 1.0, key: str = NAME) -> Floats:
    """z of every shift (64 64) for a flattened picture (H W), changed by `scale` since it was marked."""
    height, width = flat.shape
    reach = math.floor(HIGH)
    turn = -2j * math.pi / (TILE * scale)
    # seen from the middle, so that a scale that is a little wrong does least harm
    down = np.exp(turn * np.outer(np.arange(-reach, reach + 1), np.arange(height) - height / 2))
    right = np.exp(turn * np.outer(np.arange(width) - width / 2, np.arange(reach + 1)))
    # (R H) @ ((H W) @ (W C)) -> (R C) -> (waves)
    rows, columns = _band()
    parts = flat @ np.concatenate([right.real, right.imag], 1, dtype=np.float32)
    seen = (down @ (parts[:, : reach + 1] + 1j * parts[:, reach + 1 :]))[rows + reach, columns]
    weights = np.abs(seen)
    weights = np.minimum(weights, np.median(weights))
    total = math.sqrt(float(np.sum(weights**2)) / 2)
    if total < 1e-9:
        return np.zeros((TILE, TILE))
    spectrum = np.zeros((TILE, TILE), complex)
    spectrum[rows, columns] = weights * np.exp(1j * (np.angle(seen) - _phases(key)))
    agreed: Floats = np.fft.ifft2(spectrum).real * TILE**2 / total
    return agreed


def _room(grey: Floats) -> Floats:
    """How much of the mark a place takes (H W): more where the picture itself is restless."""
    busy = np.sqrt(np.maximum(_mean(grey**2, 4) - _mean(grey, 4) ** 2, 0))
    return 1 + np.minimum(busy / 20, 1.0)


def _flattened(grey: Floats) -> Floats:
    """The picture without shading, what stands out cut short: edges are not to outshout the mark."""
    rest = grey - _mean(grey, 5)
    return np.clip(rest, -6, 6)


def _mean(values: Floats, reach: int) -> Floats:
    """Over squares of 2 reach + 1 pixels (H W), smaller ones at the rim."""
    for axis in (0, 1):
        sums = np.cumsum(values, axis)
        sums = np.concatenate([np.zeros_like(sums.take([0], axis)), sums], axis)
        count = values.shape[axis]
        upper = np.minimum(np.arange(count) + reach + 1, count)
        lower = np.maximum(np.arange(count) - reach, 0)
        shape = [-1, 1] if axis == 0 else [1, -1]
        values = (sums.take(upper, axis) - sums.take(lower, axis)) / (upper - lower).reshape(shape)
    return values


@functools.cache
def _band() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Waves a tile, down (some below 0) and right (none below 0): one of each pair of conjugates."""
    reach = math.floor(HIGH)
    down, right = np.meshgrid(np.arange(-reach, reach + 1), np.arange(reach + 1), indexing="ij")
    radius = np.hypot(down, right)
    half = (right > 0) | (down > 0)
    chosen = (radius >= LOW) & (radius <= HIGH) & half
    return down[chosen], right[chosen]


@functools.cache
def _phases(key: str) -> Floats:
    count = len(_band()[0])
    drawn = hashlib.shake_256(f"calotype watermark {key}".encode()).digest(2 * count)
    return np.frombuffer(drawn, "<u2").astype(np.float64) * (2 * math.pi / 65536)


def _scales(side: int) -> list[float]:
    """1, then a ladder so fine that no wave falls out of step from the middle to the rim."""
    ladder, scale = [1.0], SMALLEST
    while scale <= LARGEST:
        ladder.append(scale)
        scale *= 1 + STEP * scale / side
    return ladder


def _middle(image: PIL.Image.Image) -> Floats:
    """The middle of the picture, grey (H W)."""
    width, height = image.size
    left, top = max(0, (width - WINDOW) // 2), max(0, (height - WINDOW) // 2)
    box = (left, top, min(width, left + WINDOW), min(height, top + WINDOW))
    return np.asarray(image.convert("RGB").crop(box).convert("L"), np.float64)
