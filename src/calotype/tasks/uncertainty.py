"""How sure a restoration is, pixel by pixel: numbers, a map in colours, and intervals that hold."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from calotype import durable
from calotype.errors import OutputError
from calotype.tasks.photo_file import Floats

COLOURS = np.array(
    [(12, 8, 38), (78, 18, 109), (165, 44, 96), (237, 105, 37), (251, 180, 26), (252, 255, 190)], np.float64
)
"""From certain to uncertain, even in brightness."""
Z90 = 1.645
"""Half of a 90 percent interval, in deviations of a Gaussian."""


def half_width(deviation: Floats, samples: int, scaling: float = 1.0) -> Floats:
    """Half of the 90 percent interval of a new draw around the mean of `samples`: 1.645 sd sqrt(1 + 1/N)."""
    return scaling * Z90 * math.sqrt(1 + 1 / samples) * deviation


def heat_map(deviation: Floats, top: float) -> NDArray[np.uint8]:
    """(C H W) deviations to colours (H W 3) uint8: the channels' RMS, brightest from `top` on."""
    share = np.sqrt((deviation**2).mean(0)) / max(top, 1e-12)
    place = share.clip(0, 1) * (len(COLOURS) - 1)
    low = np.minimum(place.astype(int), len(COLOURS) - 2)
    part = (place - low)[..., None]  # (H W) -> (H W 1)
    colours: NDArray[np.uint8] = np.rint(COLOURS[low] * (1 - part) + COLOURS[low + 1] * part).astype(np.uint8)
    return colours


def write_deviation(output: Path, deviation: Floats) -> list[Path]:
    """OUTPUT-uncertainty.npy, float32 (C H W) with white as 1, and OUTPUT-uncertainty.png, whose text chunk
    `scale` says which deviation, of 255, is brightest.  OutputError where they cannot be written.
    """
    numbers = output.with_name(f"{output.stem}-uncertainty.npy")
    picture = numbers.with_suffix(".png")
    top = float(np.quantile(np.sqrt((deviation**2).mean(0)), 0.995))
    info = PngImagePlugin.PngInfo()
    info.add_text("scale", f"{255 * top:.2f} of 255 is brightest")
    for path in (numbers, picture):
        partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with partial.open("wb") as file:
                if path is numbers:
                    np.save(file, deviation.astype(np.float32))
                else:
                    Image.fromarray(heat_map(deviation, top)).save(file, "PNG", pnginfo=info)
            durable.rename(partial, path)
        except OSError as error:
            raise OutputError(
                f"{path} cannot be written: {(error.strerror or str(error)).lower()}."
            ) from None
        finally:
            partial.unlink(missing_ok=True)
    return [numbers, picture]
