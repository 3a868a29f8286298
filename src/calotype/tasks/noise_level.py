"""How much noise a picture has: white noise by its patches' least eigenvalues, a camera's by brightness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calotype.errors import InputError

Floats = NDArray[Any]
"""float32 or float64."""

PATCH = 6
"""Side of the patches."""
MOST = 120_000
"""Patches looked at, at most."""


def estimate_sigma(picture: Floats) -> float:
    """The deviation of white Gaussian noise in a picture (C H W), in the picture's own units.

    The covariance of small patches has as many eigenvalues as they have numbers; what pictures vary in takes
    few of them, and the rest are the noise's variance.  They are told apart where the mean of those left
    falls to their median (Chen, Zhu & Heng, ICCV 2015).

    Raises InputError where the picture is too small to tell.
    """
    channels, height, width = picture.shape
    side = PATCH
    if min(height, width) < 4 * side:
        raise InputError(
            f"The picture is too small ({width}x{height}) to estimate its noise; give it with --sigma."
        )
    windows = np.lib.stride_tricks.sliding_window_view(picture, (side, side), axis=(1, 2))
    # (C h w s s) -> (h w C s s), every so-many-th
    windows = windows.transpose(1, 2, 0, 3, 4)
    count = windows.shape[0] * windows.shape[1]
    every = max(1, int(np.ceil((count / MOST) ** 0.5)))
    rows = windows[::every, ::every].reshape(-1, channels * side * side).astype(np.float64)
    values = np.linalg.eigvalsh(np.cov(rows, rowvar=False)).clip(0)  # ascending
    for kept in range(len(values), 0, -1):
        part = values[:kept]
        if part.mean() <= np.median(part):
            return float(np.sqrt(part.mean()))
    return float(np.sqrt(values[0]))


@dataclass(frozen=True)
class CameraNoise:
    """Variance gain * brightness + read ** 2, brightness and deviation from 0 to 1."""

    gain: float
    read: float


BINS = 16


def estimate_camera(picture: Floats) -> CameraNoise:
    """Gain and read noise of a picture (C H W) from 0 to 1, by the spread of its smoothest patches.

    In blocks of 8x8 pixels the diagonal differences of 2x2 squares hold the noise and little else; of the
    blocks of about one brightness the flattest quarter is used, flatness being judged by the differences of
    square means, which are independent of the diagonal ones.  A line is fitted through the bins' variances
    (Foi et al. 2008).  Raises InputError where the picture is too small to tell.
    """
    _, height, width = picture.shape
    if height < 64 or width < 64:
        raise InputError(
            f"The picture is too small ({width}x{height}) to estimate its noise; give --gain and --read."
        )
    cut = picture[:, : height // 8 * 8, : width // 8 * 8].astype(np.float64)
    a, b = cut[:, ::2, ::2], cut[:, ::2, 1::2]
    c, d = cut[:, 1::2, ::2], cut[:, 1::2, 1::2]
    diagonal, mean = (a - b - c + d) / 2, (a + b + c + d) / 4
    spread = _blocks(diagonal**2).mean(-1)
    level = _blocks(mean).mean(-1)
    texture = _blocks(mean).var(-1)
    usable = (level > 0.02) & (level < 0.95)
    spread, level, texture = spread[usable], level[usable], texture[usable]
    if len(level) < 64:
        raise InputError("The picture is nearly all black or white; give its noise with --gain and --read.")
    order = np.argsort(level)
    rows, right, weight = [], [], []
    for part in np.array_split(order, min(BINS, len(order) // 16)):
        flat = part[np.argsort(texture[part])[: max(8, len(part) // 4)]]
        rows.append((level[flat].mean(), 1.0))
        right.append(spread[flat].mean())
        weight.append(np.sqrt(len(flat)) / max(right[-1], 1e-12))
    scale = np.array(weight)[:, None]
    matrix, target = np.array(rows) * scale, np.array(right) * scale[:, 0]
    gain, floor = np.linalg.lstsq(matrix, target, rcond=None)[0]
    if floor < 0:  # a line through the origin fits best
        gain, floor = float(matrix[:, 0] @ target / (matrix[:, 0] @ matrix[:, 0])), 0.0
    if gain < 0:
        gain, floor = 0.0, float(matrix[:, 1] @ target / (matrix[:, 1] @ matrix[:, 1]))
    return CameraNoise(float(gain), float(np.sqrt(floor)))


def _blocks(values: Floats) -> Floats:
    """(C H/2 W/2) -> (blocks 16)."""
    c, h, w = values.shape
    # (C h/4 4 w/4 4) -> (C h/4 w/4 4 4) -> (blocks 16)
    return values.reshape(c, h // 4, 4, w // 4, 4).transpose(0, 1, 3, 2, 4).reshape(-1, 16)


def stabilise(picture: Floats, noise: CameraNoise) -> Floats:
    """The generalised Anscombe transform: brightness 0 to 1 to a scale on which the noise has deviation 1.

    f(z) = 2/gain sqrt(gain z + 3/8 gain^2 + read^2) (Starck, Murtagh & Bijaoui 1998).
    """
    if noise.gain == 0:
        stable: Floats = picture / noise.read
        return stable
    root: Floats = np.sqrt((noise.gain * picture + 0.375 * noise.gain**2 + noise.read**2).clip(0))
    return 2 / noise.gain * root


def unstabilise(values: Floats, noise: CameraNoise) -> Floats:
    """The exact unbiased inverse in closed form (Mäkitalo & Foi 2013, eq. 10): E[z] from E[f(z)]."""
    if noise.gain == 0:
        plain: Floats = values * noise.read
        return plain
    d: Floats = values.clip(2 * np.sqrt(0.375))
    counts: Floats = (
        d**2 / 4 + np.sqrt(1.5) / (4 * d) - 11 / (8 * d**2) + 5 * np.sqrt(1.5) / (8 * d**3) - 0.125
    )
    return noise.gain * counts - noise.read**2 / noise.gain
