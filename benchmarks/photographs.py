"""The test photographs, what is done to them, and the classical methods that restoration is held against."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "motorcycle", "china", "flower")
SPECIAL = ("retina", "immunohistochemistry", "hubble_deep_field", "page", "text")


def pictures(names: tuple[str, ...], crop: int | None) -> dict[str, np.ndarray]:
    """(3 H W) or (1 H W) float32 from 0 to 1, by name."""
    import skimage.data
    import sklearn.datasets

    found = {}
    for name in names:
        if name in {"china", "flower"}:
            values = sklearn.datasets.load_sample_image(f"{name}.jpg")
        elif name == "motorcycle":
            values = np.asarray(Image.open(Path(skimage.data.__file__).parent / "motorcycle_left.png"))
        else:
            values = getattr(skimage.data, name)()
        values = values[..., None] if values.ndim == 2 else values[..., :3]
        height, width = values.shape[:2]
        if name == "retina" and crop is None:
            crop_here: int | None = 512  # of 1411 pixels, black around
        else:
            crop_here = crop
        if crop_here is not None:
            top, left = max(0, (height - crop_here) // 2), max(0, (width - crop_here) // 2)
            values = values[top : top + crop_here, left : left + crop_here]
        found[name] = values.transpose(2, 0, 1).astype(np.float32) / 255  # (H W C) -> (C H W)
    return found


def noise(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def psnr(found: np.ndarray, true: np.ndarray) -> float:
    return float(10 * np.log10(1 / np.mean((found.clip(0, 1) - true) ** 2, dtype=np.float64)))


def ssim(found: np.ndarray, true: np.ndarray) -> float:
    from skimage.metrics import structural_similarity

    return float(structural_similarity(found.clip(0, 1), true, channel_axis=0, data_range=1.0))


def bm3d_of(noisy: np.ndarray, sigma: float) -> np.ndarray:
    import bm3d

    planes = noisy.transpose(1, 2, 0).astype(np.float64)  # (C H W) -> (H W C)
    run = bm3d.bm3d_rgb if planes.shape[2] == 3 else bm3d.bm3d
    found = run(planes if planes.shape[2] == 3 else planes[..., 0], sigma)
    return found.reshape(planes.shape).transpose(2, 0, 1)


def means_of(noisy: np.ndarray, sigma: float) -> np.ndarray:
    from skimage.restoration import denoise_nl_means

    grey = len(noisy) == 1
    found = denoise_nl_means(
        noisy[0] if grey else noisy,
        h=0.8 * sigma,
        sigma=sigma,
        patch_size=5,
        patch_distance=6,
        fast_mode=True,
        channel_axis=None if grey else 0,
    )
    return np.asarray(found).reshape(noisy.shape)


def letters(height: int, width: int) -> np.ndarray:
    """Lettering over the picture: (H W), True where it hides something."""
    sheet = Image.new("L", (width, height))
    pen = ImageDraw.Draw(sheet)
    step = 28
    for i in range(height // step + 1):
        pen.text((8 * (i % 3), i * step), "Calotype writes over this picture. " * 12, fill=255, font_size=18)
    return np.asarray(sheet) > 100
