"""One counter-based random stream per picture (Philox4x32-10: Salmon et al., SC 2011).

A number depends on nothing but its key and its counter, so a picture's noise depends on nothing but its
seed, the draw, and the place in the picture: not on batch, order, device or an interruption.  Key: the
64-bit seed.  Counter: (x, y, stream and channel group, draw); the four words of one counter serve the four
channels of a group.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from calotype.errors import InputError

Words = npt.NDArray[np.uint64]
"""32-bit words, each in 64 bits to leave room for the product."""

_MASK = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))

# Streams of one seed that never meet: they differ in the upper half of the counter's third word.
_PICTURE, _UNIFORM, _NORMAL, _ORDER = (stream << 16 for stream in range(4))


class NoiseSource(Protocol):
    """Unit noise of x's shape, dtype and device (B C H W); each call is the next draw."""

    def __call__(self, x: Tensor, /) -> Tensor: ...


def philox(counter: Sequence[Words], key: Sequence[Words]) -> list[Words]:
    """Philox4x32-10: four counter words and two key words, arrays that broadcast, to four random words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (p1 >> _HALF) ^ c1 ^ k0, p1 & _MASK, (p0 >> _HALF) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return [c0, c1, c2, c3]


def uniform(seed: int, draw: int, count: int) -> Tensor:
    """(count) float64 numbers in (0, 1), 53 bits each: draw number `draw` of the seed's uniform stream."""
    high, low, _, _ = _row(_UNIFORM, seed, draw, count)
    return torch.from_numpy((_long(high, low) + 0.5) * 2.0**-53)


def normal(seed: int, draw: int, count: int) -> Tensor:
    """(count) standard normal numbers in float64: draw number `draw` of the seed's normal stream."""
    first, _ = _box_muller(*_row(_NORMAL, seed, draw, count)[:2])
    return torch.from_numpy(first)


def permutation(seed: int, draw: int, count: int) -> Tensor:
    """(count) int64: a random order of range(count)."""
    high, low, _, _ = _row(_ORDER, seed, draw, count)
    return torch.from_numpy(np.argsort((high << _HALF) | low, kind="stable"))


class PictureNoise:
    """Draw after draw of unit noise for a batch, row i a function of seeds[i] and the draw number only.

    Laid out in picture coordinates: a larger picture has the same noise in its top left corner, and a tile
    at `offset` sees the noise of its place.  Made on the CPU in float64, rounded to float32, then moved.

    Args:
        seeds: one a row, each in [0, 2**64).
        draw: number of the next draw, counted on by every call; set it to resume.
        offset: (y, x) of the top left corner, in x's own pixels.

    Raises:
        InputError: a seed is out of range; later, a batch of another length than `seeds`.
    """

    def __init__(self, seeds: Sequence[int], draw: int = 0, offset: tuple[int, int] = (0, 0)) -> None:
        self.seeds = tuple(seeds)
        self.draw = draw
        self.offset = offset
        self._key = picture_keys(self.seeds)

    def __call__(self, x: Tensor, /) -> Tensor:
        batch, channels, height, width = x.shape
        if batch != len(self.seeds):
            raise InputError(f"A batch of {batch} needs {batch} seeds, not {len(self.seeds)}.")
        groups = -(-channels // 4)
        top, left = self.offset
        words = philox(
            (
                _words(np.arange(left, left + width)),  # (W)
                _words(np.arange(top, top + height))[:, None],  # (H 1)
                _words(_PICTURE + np.arange(groups))[:, None, None],  # (G 1 1)
                _words(np.array(self.draw)),
            ),
            [word[:, None, None, None] for word in self._key],  # (B 1 1 1)
        )
        self.draw += 1
        four = [*_box_muller(*words[:2]), *_box_muller(*words[2:])]  # each (B G H W)
        # (B G 4 H W) -> (B 4G H W) -> (B C H W)
        noise = np.stack(four, axis=2).reshape(batch, 4 * groups, height, width)[:, :channels]
        return torch.from_numpy(noise.astype(np.float32)).to(x.device, x.dtype)


def slerp(first: Tensor, second: Tensor, amount: float) -> Tensor:
    """Along the great circle from one noise to another, row by row: (B C H W) twice -> (B C H W)."""
    one, other = first.flatten(1).double(), second.flatten(1).double()
    cosine = (one * other).sum(1) / (one.norm(dim=1) * other.norm(dim=1))  # (B)
    angle = cosine.clamp(-1, 1).acos().clamp(1e-6, math.pi - 1e-6)
    weights = (((1 - amount) * angle).sin() / angle.sin(), (amount * angle).sin() / angle.sin())
    near, far = (weight.to(first)[:, None, None, None] for weight in weights)  # (B) -> (B 1 1 1)
    between: Tensor = near * first + far * second
    return between


class Between:
    """Noise `amount` of the way from one source's to another's; 0 is the first, 1 the second."""

    def __init__(self, first: NoiseSource, second: NoiseSource, amount: float) -> None:
        self._first, self._second, self._amount = first, second, amount

    def __call__(self, x: Tensor, /) -> Tensor:
        return slerp(self._first(x), self._second(x), self._amount)


def _words(values: npt.NDArray[np.int64]) -> Words:
    return values.astype(np.uint64) & _MASK


def picture_keys(seeds: Sequence[int]) -> tuple[Words, Words]:
    """Philox keys, the lower and the upper words of the seeds; InputError where one is not in [0, 2**64)."""
    for seed in seeds:
        if not 0 <= seed < 2**64:
            raise InputError(f"The seed {seed} must lie between 0 and 2**64 - 1.")
    whole = np.array(seeds, dtype=np.uint64)
    return whole & _MASK, whole >> _HALF


def _row(stream: int, seed: int, draw: int, count: int) -> list[Words]:
    low, high = picture_keys([seed])
    zero = np.zeros(1, np.uint64)
    index = np.arange(count)
    return philox(
        (_words(index), _words(index >> 32), zero + np.uint64(stream), zero + np.uint64(draw)), (low, high)
    )


def _long(high: Words, low: Words) -> npt.NDArray[np.float64]:
    # the upper 53 bits of the two words together
    return ((high << np.uint64(21)) | (low >> np.uint64(11))).astype(np.float64)


def _box_muller(first: Words, second: Words) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    # the half keeps the radius finite: at most 6.8
    radius = np.sqrt(-2.0 * np.log((first.astype(np.float64) + 0.5) * 2.0**-32))
    angle = second.astype(np.float64) * (2.0 * np.pi * 2.0**-32)
    return radius * np.cos(angle), radius * np.sin(angle)
