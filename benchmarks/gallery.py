"""The gallery of docs/gallery.md: every restoration beside the classical method, PSNR and SSIM under each.

    python benchmarks/gallery.py --model FILE

writes docs/gallery.md and docs/figures/restored-*.jpg.  Needs the extra `benchmarks`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).parent))
from photographs import bm3d_of, letters, noise, pictures, psnr, ssim

from calotype.checkpoints import native
from calotype.checkpoints.shelf import find
from calotype.models.pixel_diffusion import PixelDiffusion
from calotype.tasks.noise_level import CameraNoise
from calotype.tasks.operators import gaussian_blur
from calotype.tasks.photo_file import Photo
from calotype.tasks.restore import Options, deblur, denoise, inpaint, upscale
from calotype.tasks.uncertainty import heat_map

Panel = tuple[str, np.ndarray]
BEST = Options(ensemble=True, alike=True)


def strip(clean: np.ndarray, panels: list[Panel]) -> Image.Image:
    """The true picture and the panels side by side (C H W), each with its name and figures below."""
    height, width = clean.shape[1:]
    font = ImageFont.load_default(13)
    sheet = Image.new("RGB", ((width + 6) * (len(panels) + 1) - 6, height + 38), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (name, found) in enumerate([("true", clean), *panels]):
        planes = np.broadcast_to(found.clip(0, 1), (3, height, width))
        shown = Image.fromarray(np.rint(255 * planes).astype(np.uint8).transpose(1, 2, 0))
        left = i * (width + 6)
        sheet.paste(shown, (left, 0))
        pen.text((left, height + 2), name, fill="black", font=font)
        if name not in {"true", "uncertainty"}:
            figures = f"{psnr(found, clean):.2f} dB  {ssim(found, clean):.3f}"
            pen.text((left, height + 19), figures, fill="black", font=font)
    return sheet


def denoised(model: PixelDiffusion, clean: np.ndarray, sigma: float, effort: Options) -> Image.Image:
    noisy = clean + sigma / 255 * noise(clean.shape, 1)
    drawn = denoise(model, Photo(noisy), sigma=sigma, options=effort)
    assert drawn.deviation is not None
    map_ = heat_map(drawn.deviation, float(np.quantile(drawn.deviation, 0.995))).transpose(2, 0, 1) / 255
    return strip(
        clean,
        [
            ("noisy", noisy),
            ("BM3D", bm3d_of(noisy, sigma / 255)),
            ("photo, one pass", denoise(model, Photo(noisy), sigma=sigma).photo.pixels),
            ("photo, best", denoise(model, Photo(noisy), sigma=sigma, options=BEST).photo.pixels),
            ("photo, a sample", drawn.samples[0].pixels),
            ("uncertainty", map_),
        ],
    )


def camera(model: PixelDiffusion, clean: np.ndarray) -> Image.Image:
    gain, read = 0.03, 0.02
    random = np.random.default_rng(2)
    noisy = (gain * random.poisson(clean / gain) + read * noise(clean.shape, 3)).astype(np.float32)
    evened = float(np.sqrt(gain * clean.mean() + read**2))  # what one level for all of it would be
    known = CameraNoise(gain, read)
    return strip(
        clean,
        [
            ("camera's noise", noisy),
            ("BM3D, one level", bm3d_of(noisy, evened)),
            ("photo, one level", denoise(model, Photo(noisy), sigma=255 * evened).photo.pixels),
            ("photo, camera", denoise(model, Photo(noisy), camera=known).photo.pixels),
        ],
    )


def filled(model: PixelDiffusion, clean: np.ndarray, half: bool, effort: Options) -> Image.Image:
    import cv2
    from skimage.restoration import inpaint_biharmonic

    missing = np.random.default_rng(1).random(clean.shape[1:]) < 0.5 if half else letters(*clean.shape[1:])
    spoilt = np.where(missing, 0, clean).astype(np.float32)
    planes = np.ascontiguousarray(spoilt.transpose(1, 2, 0))
    if half:
        peer = ("biharmonic", inpaint_biharmonic(planes, missing, channel_axis=-1).transpose(2, 0, 1))
    else:
        eight = np.rint(255 * planes).astype(np.uint8)
        telea = cv2.inpaint(eight, missing.astype(np.uint8), 3, cv2.INPAINT_TELEA)
        peer = ("Telea", telea.transpose(2, 0, 1) / 255)
    return strip(
        clean,
        [
            ("given", spoilt),
            peer,
            ("photo, estimate", inpaint(model, Photo(spoilt), missing).photo.pixels),
            ("photo, a sample", inpaint(model, Photo(spoilt), missing, options=effort).photo.pixels),
        ],
    )


def enlarged(model: PixelDiffusion, clean: np.ndarray, scale: int, effort: Options) -> Image.Image:
    height, width = clean.shape[1:]
    whole = Image.fromarray(np.rint(255 * clean).astype(np.uint8).transpose(1, 2, 0))
    small = whole.resize((width // scale, height // scale), Image.Resampling.BICUBIC)
    nearest, bicubic = (
        np.asarray(small.resize((width, height), how)).transpose(2, 0, 1) / 255
        for how in (Image.Resampling.NEAREST, Image.Resampling.BICUBIC)
    )
    given = np.asarray(small).transpose(2, 0, 1).astype(np.float32) / 255
    return strip(
        clean,
        [
            (f"given, 1/{scale}", nearest),
            ("bicubic", bicubic),
            ("photo, estimate", upscale(model, Photo(given), scale).photo.pixels),
            ("photo, a sample", upscale(model, Photo(given), scale, options=effort).photo.pixels),
        ],
    )


def deblurred(model: PixelDiffusion, clean: np.ndarray, effort: Options) -> Image.Image:
    import torch
    from skimage.restoration import richardson_lucy

    operator = gaussian_blur(*clean.shape[1:], 1.6)
    blurred = operator.forward(torch.from_numpy(clean)[None])[0].numpy()
    blurred = (blurred + 2 / 255 * noise(clean.shape, 4)).clip(0, 1).astype(np.float32)
    taps = np.exp(-0.5 * (np.arange(-7, 8) / 1.6) ** 2)
    kernel = np.outer(taps, taps) / np.outer(taps, taps).sum()
    reach = len(taps)  # the last pixels repeated, or a frame of wrong ones would be charged to the peer
    wider = np.pad(blurred, ((0, 0), (reach, reach), (reach, reach)), mode="edge")
    peer = np.stack([richardson_lucy(plane, kernel, num_iter=10) for plane in wider])
    peer = peer[:, reach:-reach, reach:-reach]
    photo = Photo(blurred, bits=16)
    return strip(
        clean,
        [
            ("blurred", blurred),
            ("Richardson-Lucy", peer),
            ("photo, estimate", deblur(model, photo, blur=1.6, sigma=2.0).photo.pixels),
            ("photo, a sample", deblur(model, photo, blur=1.6, sigma=2.0, options=effort).photo.pixels),
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="photo")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--side", type=int, default=128, help="of the middles that are shown")
    parser.add_argument("--samples", type=int, default=8, help="that the map of uncertainty is made of")
    parser.add_argument("--steps", type=int, default=30)
    chosen = parser.parse_args()
    several, one = (Options(samples=count, steps=chosen.steps) for count in (chosen.samples, 1))
    path = find(chosen.model)
    model = native.load_pixel(path)
    info = native.describe(path)
    named = pictures(("astronaut", "chelsea", "coffee", "rocket", "china", "page"), chosen.side)
    strips = {
        "Denoising, 25 of 255": denoised(model, named["astronaut"], 25, several),
        "Denoising, 50 of 255": denoised(model, named["china"], 50, several),
        "Denoising a document, 25 of 255": denoised(model, named["page"], 25, several),
        "A camera's noise": camera(model, named["coffee"]),
        "Half of the pixels missing": filled(model, named["chelsea"], True, one),
        "Lettering": filled(model, named["rocket"], False, one),
        "Four times as large": enlarged(model, named["chelsea"], 4, one),
        "A known blur": deblurred(model, named["astronaut"], one),
    }
    lines = [
        "# Gallery",
        "",
        "What `photo` makes of pictures it never saw, beside the classical method. Weights "
        f"{info.weights_hash[:12]}. Under each picture its PSNR and SSIM against "
        "the true one, measured before JPEG; best is `--ensemble --alike`. "
        "Made by `python benchmarks/gallery.py`; the "
        "tables are in [restored.md](restored.md), what the commands do in [restore.md](restore.md).",
    ]
    for title, picture in strips.items():
        name = "restored-" + title.lower().replace(",", "").replace("'", "").replace(" ", "-") + ".jpg"
        picture.save(chosen.out / "figures" / name, quality=90)
        lines += ["", f"## {title}", "", f"![{title}](figures/{name})"]
    (chosen.out / "gallery.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
