"""Where a picture whose ends meet is cut: along the calmest lines, for it has no first row or column."""

from __future__ import annotations

import numpy as np
import PIL.Image
from torch import Tensor


def cut(image: PIL.Image.Image, latents: Tensor, wrap: str) -> tuple[PIL.Image.Image, Tensor]:
    """The same texture or panorama, and its latents (C h w), begun at another row and column.

    Chosen by whole latents, along the axes named in `wrap`, as where the 95th percentile of the steps from
    one pixel to the next is least; so nothing is cut in two that need not be.
    """
    levels = np.asarray(image).astype(np.int16)  # (H W 3)
    factor = levels.shape[0] // latents.shape[1]
    for name, axis in (("y", 0), ("x", 1)):
        if name not in wrap:
            continue
        steps = np.abs(levels - np.roll(levels, 1, axis)).max(-1)  # (H W), from the pixel before
        lines = np.percentile(steps, 95, axis=1 - axis)[::factor]  # (h) or (w)
        first = int(lines.argmin())
        levels = np.roll(levels, -first * factor, axis)
        latents = latents.roll(-first, axis + 1)
    return PIL.Image.fromarray(levels.astype(np.uint8)), latents
