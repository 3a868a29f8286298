"""Inversion and seamless textures, measured with a shipped model: prints the rows as a table.

    python benchmarks/editing.py FOLDER [--model icons] [--pictures 12] [--seeds 2]

FOLDER is a data set of captioned pictures, as `calotype data icons` builds it.  Euler's round trip is
measured on the latents, relative to their own size, and so is the exact walk, apart from the autoencoder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import PIL.Image
from torch import Tensor

import calotype
from calotype.data.folder import PictureFolder
from calotype.data.pictures import read_picture
from calotype.tasks.canvas import canvas
from calotype.tasks.request import Request
from calotype.tasks.studio import Studio

STEPS = (16, 64, 256)
TEXTURES = ("red flowers", "green leaves", "blue waves", "yellow and orange stripes")


def known(studio: Studio, **fields: object) -> Tensor:
    """The latents (C h w) of a request's picture."""
    laid = canvas(studio.model, Request(model=studio.name, **fields).resolved(studio.model.config))
    assert laid is not None
    return laid.latents[0]


def round_trip(studio: Studio, image: PIL.Image.Image, caption: str, **fields: object) -> tuple[float, float]:
    """What an inversion and the way back change of the latents: root mean square in parts of their own, and
    at most.
    """
    asked = {"image": image, "strength": 1.0, **fields}
    z = known(studio, prompts=caption, **asked)
    (picture,) = studio.pictures(caption, seed=0, **asked)
    error = picture.latents - z
    return float(error.square().mean().sqrt() / z.square().mean().sqrt()), float(error.abs().max())


def seams(image: PIL.Image.Image) -> tuple[float, float]:
    """95th percentiles of the differences of neighbours: across the ends, and inside (0 to 255)."""
    levels = np.asarray(image).astype(int)
    across, inside = [], []
    for axis in (0, 1):
        steps = np.abs(np.roll(levels, -1, axis) - levels).max(-1)  # (H W), the last across the end
        inside.append(np.delete(steps, -1, axis).ravel())
        across.append(np.take(steps, -1, axis).ravel())
    return float(np.percentile(np.concatenate(across), 95)), float(np.percentile(np.concatenate(inside), 95))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="icons")
    parser.add_argument("--pictures", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=2)
    given = parser.parse_args()
    studio = calotype.load(given.model)
    size = studio.model.config.size

    records = PictureFolder(given.folder, split="validation").records
    chosen = records[:: len(records) // given.pictures][: given.pictures]
    pictures = [(PIL.Image.fromarray(read_picture(r.path, size)), r.captions[0]) for r in chosen]

    print("| what | figure |\n|---|---|")
    means = []
    for steps in STEPS:
        errors = [round_trip(studio, *p, invert="euler", guidance=1.0, steps=steps)[0] for p in pictures]
        means.append(float(np.mean(errors)))
        print(f"| Euler round trip, {steps} steps | {means[-1]:.4f} |", flush=True)
    print(f"| error at {STEPS[1]} over error at {STEPS[2]} steps | {means[1] / means[2]:.2f} |")
    for invert in ("walk", "edit_friendly"):
        worst = max(round_trip(studio, *p, invert=invert)[1] for p in pictures)
        print(
            f"| exact walk ({invert}), unchanged prompt, 20 steps, largest difference | {worst:.1e} |",
            flush=True,
        )
    for wrap in ("xy", None):
        drawn = [
            seams(studio.pictures(f"a pattern of {what}", seed=seed, wrap=wrap)[0].image)
            for what in TEXTURES
            for seed in range(given.seeds)
        ]
        across, inside = np.array(drawn).T
        print(
            f"| wrap {wrap}: 95th percentile of steps across the seams, inside (0 to 255); textures with no "
            f"larger step | {across.mean():.1f}, {inside.mean():.1f}; {(across <= inside).sum()} of "
            f"{len(across)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
