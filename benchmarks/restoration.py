"""Restoration of real photographs beside the classical methods: the table of docs/restored.md.

    python benchmarks/restoration.py --model FILE --tiles FOLDER --out docs/restored

writes docs/restored.json, its numbers, and docs/restored.md, its tables, after every picture.  --lines
chooses some of a to e; what an earlier run of the same weights found for the others stays, and one that was
cut off goes on where it was (d at its last sigma).  --crop takes the middle of pictures only (the page says
so), --samples (16 at least in d; 0 in b: the estimate alone) and --steps change the effort.
Needs the extra `benchmarks`.  FOLDER is what `calotype data photos` made: its held-out photographs, which are
no test pictures, fit the scaling of the uncertainty.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from photographs import PHOTOGRAPHS, SPECIAL, bm3d_of, letters, means_of, noise, pictures, psnr

from calotype.checkpoints import native
from calotype.checkpoints.shelf import find
from calotype.data.folder import PictureFolder
from calotype.models.pixel_diffusion import PixelDiffusion
from calotype.tasks.operators import resampling
from calotype.tasks.photo_file import Photo
from calotype.tasks.restore import Options, denoise, inpaint, upscale
from calotype.tasks.uncertainty import half_width

SIGMAS = (15, 25, 50)
PUBLISHED = """Published margins over colour BM3D on CBSD68 at 15/25/50: DnCNN +0.38/+0.53/+0.57 dB
(arXiv 1608.03981, as given in arXiv 1710.04026), DRUNet +0.78/+0.98/+1.13 dB (arXiv 2008.13751)."""


Row = dict[str, float]


Line = Callable[[PixelDiffusion, argparse.Namespace, Mapping[str, Row]], Iterator[tuple[str, Row]]]
"""Gives (name, row) for every row that is not done; a row given again replaces the earlier one."""


def line_a(
    model: PixelDiffusion, chosen: argparse.Namespace, done: Mapping[str, Row]
) -> Iterator[tuple[str, Row]]:
    together, repeating = Options(ensemble=True), Options(ensemble=True, alike=True)
    for name, clean in pictures(PHOTOGRAPHS + SPECIAL, chosen.crop).items():
        for sigma in SIGMAS:
            if f"{name} {sigma}" in done:
                continue
            noisy = clean + sigma / 255 * noise(clean.shape, seed=sigma)
            photo = Photo(noisy)
            yield (
                f"{name} {sigma}",
                {
                    "noisy": psnr(noisy, clean),
                    "photo": psnr(denoise(model, photo, sigma=sigma).photo.pixels, clean),
                    "photo, ensemble": psnr(
                        denoise(model, photo, sigma=sigma, options=together).photo.pixels, clean
                    ),
                    "photo, ensemble and alike": psnr(
                        denoise(model, photo, sigma=sigma, options=repeating).photo.pixels, clean
                    ),
                    "photo, estimated": psnr(denoise(model, photo).photo.pixels, clean),
                    "BM3D": psnr(bm3d_of(noisy, sigma / 255), clean),
                    "non-local means": psnr(means_of(noisy, sigma / 255), clean),
                },
            )


def line_b(
    model: PixelDiffusion, chosen: argparse.Namespace, done: Mapping[str, Row]
) -> Iterator[tuple[str, Row]]:
    import cv2
    from skimage.restoration import inpaint_biharmonic

    options = Options(samples=chosen.samples, steps=chosen.steps, jacobian=chosen.jacobian)
    for name, clean in pictures(PHOTOGRAPHS, chosen.crop).items():
        half = np.random.default_rng(1).random(clean.shape[1:]) < 0.5
        for kind, missing in (("half", half), ("lettering", letters(*clean.shape[1:]))):
            if f"{name} {kind}" in done:
                continue
            spoilt = np.where(missing, 0, clean).astype(np.float32)
            planes = np.ascontiguousarray(spoilt.transpose(1, 2, 0))
            estimate = inpaint(model, Photo(spoilt), missing, options=Options(steps=chosen.steps))
            row = {"photo, estimate": psnr(estimate.photo.pixels, clean)}
            if chosen.samples:
                made = inpaint(model, Photo(spoilt), missing, options=options)
                row["photo, mean of samples"] = psnr(made.photo.pixels, clean)
                row["photo, one sample"] = psnr(made.samples[0].pixels, clean)
            smooth = inpaint_biharmonic(planes, missing, channel_axis=-1)
            row["biharmonic"] = psnr(smooth.transpose(2, 0, 1), clean)
            eight = np.rint(255 * planes).astype(np.uint8)
            telea = cv2.inpaint(eight, missing.astype(np.uint8), 3, cv2.INPAINT_TELEA)
            row["Telea"] = psnr(telea.transpose(2, 0, 1) / 255, clean)
            yield f"{name} {kind}", row


def laplacian(picture: np.ndarray) -> float:
    """Mean square of the discrete Laplacian: how much fine detail there is."""
    middle = picture[:, 1:-1, 1:-1]
    around = picture[:, :-2, 1:-1] + picture[:, 2:, 1:-1] + picture[:, 1:-1, :-2] + picture[:, 1:-1, 2:]
    return float(np.mean((around - 4 * middle) ** 2))


def line_c(
    model: PixelDiffusion, chosen: argparse.Namespace, done: Mapping[str, Row]
) -> Iterator[tuple[str, Row]]:
    options = Options(samples=max(8, chosen.samples), steps=chosen.steps, jacobian=chosen.jacobian)
    for name, clean in pictures(PHOTOGRAPHS, chosen.crop).items():
        if name in done:
            continue
        height, width = (side // 4 * 4 for side in clean.shape[1:])
        clean = clean[:, :height, :width]
        whole = Image.fromarray(np.rint(255 * clean).astype(np.uint8).transpose(1, 2, 0))
        shrunk = whole.resize((width // 4, height // 4), Image.Resampling.BICUBIC)
        small = np.asarray(shrunk).transpose(2, 0, 1).astype(np.float32) / 255
        bicubic = (
            np.asarray(shrunk.resize((width, height), Image.Resampling.BICUBIC)).transpose(2, 0, 1) / 255
        )
        estimate = upscale(model, Photo(small), 4, options=Options(steps=chosen.steps))
        made = upscale(model, Photo(small), 4, options=options)
        single = made.samples[0].pixels
        rows_of, columns_of = resampling(height, height // 4), resampling(width, width // 4)
        again = rows_of @ single @ columns_of.T
        yield (
            name,
            {
                "photo, estimate": psnr(estimate.photo.pixels, clean),
                "photo, mean of samples": psnr(made.photo.pixels, clean),
                "photo, one sample": psnr(single, clean),
                "bicubic": psnr(bicubic, clean),
                "detail of a sample / of the mean": laplacian(single) / laplacian(made.photo.pixels),
                "measurement error of a sample, of 255": 255 * float(np.sqrt(np.mean((again - small) ** 2))),
            },
        )


def coverage(
    model: PixelDiffusion, clean: np.ndarray, sigma: int, options: Options, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Errors and half widths before any scaling, of every value of a picture."""
    made = denoise(model, Photo(clean + sigma / 255 * noise(clean.shape, seed)), sigma=sigma, options=options)
    assert made.deviation is not None
    return np.abs(made.photo.pixels - clean).ravel(), half_width(made.deviation, options.samples).ravel()


def held_out(tiles: Path, of_each: int) -> Iterator[np.ndarray]:
    """(3 H W) from 0 to 1: as many tiles of each held-out photograph, spread evenly over what it has."""
    folder = PictureFolder(tiles, size=256, split="validation")
    of_photo: dict[str, list[int]] = {}
    for index, record in enumerate(folder.records):
        of_photo.setdefault(str(record.meta["photo"]), []).append(index)
    for indices in of_photo.values():
        for place in np.linspace(0, len(indices) - 1, of_each).round().astype(int):
            yield folder.image(indices[place]).numpy().astype(np.float32) / 255


def line_d(
    model: PixelDiffusion, chosen: argparse.Namespace, done: Mapping[str, Row]
) -> Iterator[tuple[str, Row]]:
    options = Options(samples=max(16, chosen.samples), steps=chosen.steps)
    side = min(chosen.crop or 128, 64)
    start = (256 - side) // 2
    cut = slice(start, start + side)
    fitting = [tile[:, cut, cut] for tile in held_out(chosen.tiles, of_each=6)]
    for sigma in chosen.sigmas:
        if done.get(str(sigma), {}).get("photographs") == len(PHOTOGRAPHS):
            continue
        pairs = [coverage(model, picture, sigma, options, i) for i, picture in enumerate(fitting)]
        errors, widths = (np.concatenate(part) for part in zip(*pairs, strict=True))
        scaling = float(np.quantile(errors / np.maximum(widths, 1e-6), 0.90))
        pairs = []
        for clean in pictures(PHOTOGRAPHS, chosen.crop).values():
            pairs.append(coverage(model, clean, sigma, options, 100 + sigma))
            errors, widths = (np.concatenate(part) for part in zip(*pairs, strict=True))
            widths = scaling * widths
            inside = errors <= widths
            quarter = np.searchsorted(np.quantile(widths, (0.25, 0.5, 0.75)), widths)
            yield (
                str(sigma),
                {
                    "photographs": len(pairs),
                    "scaling fitted on held-out photographs": scaling,
                    "inside": float(inside.mean()),
                    "inside, unscaled": float((errors <= widths / scaling).mean()),
                    **{f"inside, quartile {q + 1}": float(inside[quarter == q].mean()) for q in range(4)},
                    "mean width, of 255": float(2 * 255 * widths.mean()),
                },
            )


def line_e(
    model: PixelDiffusion, chosen: argparse.Namespace, _: Mapping[str, Row]
) -> Iterator[tuple[str, Row]]:
    clean = pictures(("china",), None)["china"]
    noisy = clean + 25 / 255 * noise(clean.shape, 0)
    megapixels = clean.shape[1] * clean.shape[2] / 1e6

    def run(options: Options) -> tuple[np.ndarray, float]:
        began = time.process_time()
        found = denoise(model, Photo(noisy), sigma=25, options=options).photo.pixels
        return found, (time.process_time() - began) / megapixels

    rows = {}
    for alike in (False, True):
        whole, seconds = run(Options(tile=4096, alike=alike))
        tiles, _ = run(Options(tile=256, alike=alike))
        kind = ", alike" if alike else ""
        apart = 255 * float(np.abs(tiles - whole).max())
        rows |= {
            f"tiled and untiled differ by at most, of 255{kind}": apart,
            f"processor seconds a megapixel{kind}": seconds,
        }
    _, rows["processor seconds a megapixel, ensemble and alike"] = run(Options(ensemble=True, alike=True))
    began = time.process_time()
    bm3d_of(noisy, 25 / 255)
    rows["BM3D, processor seconds a megapixel"] = (time.process_time() - began) / megapixels
    rows["threads"] = torch.get_num_threads()
    command = [sys.executable, __file__, "--model", chosen.model, "--peak"]
    for kind in ("plain", "alike"):
        told = subprocess.run([*command, kind], check=True, capture_output=True, text=True).stdout
        rows |= json.loads(told)
    yield "", rows


def peak(model: PixelDiffusion, kind: str) -> None:
    """In a process of its own: what denoising 12 megapixels takes beyond the model, the picture included."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    before = pages * resource.getpagesize() / 2**30
    clean = pictures(("china",), None)["china"]
    tall = np.concatenate([clean, clean[:, ::-1]] * 4, axis=1)[:, :3000]
    large = np.ascontiguousarray(np.concatenate([tall, tall[:, :, ::-1]] * 4, axis=2)[:, :, :4000])
    began = time.process_time()
    denoise(model, Photo(large), sigma=10, options=Options(alike=kind == "alike"))
    seconds = time.process_time() - began
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20 - before
    told = {"GB beyond the model": used, "processor seconds": seconds}
    print(json.dumps({f"12 megapixels, {kind}, {name}": value for name, value in told.items()}))


LINES: dict[str, Line] = {
    "a": line_a,
    "b": line_b,
    "c": line_c,
    "d": line_d,
    "e": line_e,
}
TITLES = {
    "a": "Denoising white Gaussian noise, PSNR in dB",
    "b": "Inpainting, PSNR in dB",
    "c": "Upscaling four times",
    "d": "Uncertainty of denoising: is the true value inside the 90 percent interval?",
    "e": "Large pictures",
}


def summary(line: str, rows: dict[str, Any]) -> dict[str, Any]:
    """Means over the seven photographs, where a line has rows of pictures."""
    kinds: dict[str, list[dict[str, float]]] = {}
    for name, row in rows.items():
        first, *rest = name.split(" ", 1)
        if line in "abc" and first in PHOTOGRAPHS:
            kinds.setdefault("mean of the photographs " + "".join(rest), []).append(row)
    return {
        kind: {key: float(np.mean([row[key] for row in several])) for key in several[0]}
        for kind, several in kinds.items()
    }


def page(found: dict[str, Any]) -> str:
    lines = ["# Restoration, measured", "", found["about"], "", PUBLISHED, ""]
    for line, rows in found["lines"].items():
        lines += [f"## {TITLES[line]}", "", found["effort"][line], ""]
        whole = {**rows, **summary(line, rows)}
        names = list(next(iter(whole.values())))
        lines += ["| | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
        for name, row in whole.items():
            lines.append(f"| {name} | " + " | ".join(f"{row[key]:.3f}" for key in names) + " |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="photo")
    parser.add_argument("--tiles", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/restored"))
    parser.add_argument("--lines", default="abcde")
    parser.add_argument("--crop", type=int)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--sigmas", type=int, nargs="+", default=[25, 50], help="of line d")
    parser.add_argument("--jacobian", action="store_true")
    parser.add_argument("--peak", choices=["plain", "alike"], help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    path = find(chosen.model)
    model = native.load_pixel(path)
    if chosen.peak:
        peak(model, chosen.peak)
        return
    info = native.describe(path)
    about = f"Weights {info.weights_hash[:12]}. Made by `benchmarks/restoration.py`."
    cut = f"the middle {chosen.crop} pixels of each picture" if chosen.crop else "whole pictures"
    numbers = chosen.out.with_suffix(".json")
    found: dict[str, Any] = json.loads(numbers.read_text(encoding="utf-8")) if numbers.is_file() else {}
    if found.get("about") != about:
        found = {"about": about, "effort": {}, "lines": {}}
    for line in chosen.lines:
        samples = max({"c": 8, "d": 16}.get(line, 0), chosen.samples)
        drawn = f", {samples} samples of {chosen.steps} steps" if line in "bcd" and samples else ""
        effort = f"{cut}{drawn}.".capitalize()
        if found["effort"].get(line) != effort:
            found["lines"].pop(line, None)
        found["effort"][line] = effort
        for name, row in LINES[line](model, chosen, found["lines"].get(line, {})):
            print(line, name, row, flush=True)
            found["lines"].setdefault(line, {})[name] = row
            found["lines"] = dict(sorted(found["lines"].items()))
            numbers.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            chosen.out.with_suffix(".md").write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main()
