"""The pictures of edit.md, from the shipped model: `python docs/edit_figures.py [--model FILE]`."""

from __future__ import annotations

import argparse
from pathlib import Path

import PIL.Image
import PIL.ImageDraw

import calotype

FOLDER = Path(__file__).parent / "figures"
GAP = 4


def save(name: str, pictures: list[PIL.Image.Image]) -> None:
    """Pictures side by side on white, in 64 colours, for size."""
    width = sum(picture.width + GAP for picture in pictures) - GAP
    sheet = PIL.Image.new("RGB", (width, max(picture.height for picture in pictures)), "white")
    x = 0
    for picture in pictures:
        sheet.paste(picture, (x, 0))
        x += picture.width + GAP
    sheet.quantize(64, dither=PIL.Image.Dither.NONE).save(FOLDER / name, optimize=True)


def twice(picture: PIL.Image.Image) -> PIL.Image.Image:
    """A texture two by two."""
    sheet = PIL.Image.new("RGB", (2 * picture.width, 2 * picture.height))
    for x in (0, picture.width):
        for y in (0, picture.height):
            sheet.paste(picture, (x, y))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="icons")
    studio = calotype.load(parser.parse_args().model)
    generate = studio.generate
    apple = generate("a red apple", seed=7)

    begun = [generate("a green pear", image=apple, strength=s, seed=1) for s in (0.6, 0.8, 0.9)]
    save("edit-strength.png", [apple, *begun])

    mask = PIL.Image.new("L", (128, 128), 0)
    PIL.ImageDraw.Draw(mask).rectangle((0, 64, 128, 128), fill=255)
    masked = [generate("a green apple", image=apple, mask=mask, seed=seed) for seed in (1, 2)]
    half = apple.crop((0, 0, 64, 128))
    grown = [generate("a red apple", image=half, margin=(0, 0, 64, 0), seed=seed) for seed in (1, 2)]
    save("edit-mask.png", [apple, mask.convert("RGB"), *masked, half, *grown])

    asked = {"image": apple, "was": "a red apple", "seed": 1}
    back = [generate("a red apple", invert="walk", **asked)]
    other = [
        generate("a green apple", invert=invert, **asked) for invert in ("walk", "edit_friendly", "euler")
    ]
    save("edit-invert.png", [apple, *back, *other])

    textures = [
        generate(f"a pattern of {what}", seed=1, wrap="xy") for what in ("green leaves", "blue waves")
    ]
    panorama = generate(
        "a green landscape with mountains and a blue sky", seed=1, wrap="x", width=384, height=128
    )
    save("edit-wrap.png", [*map(twice, textures), panorama])

    varied = generate("a red apple", seed=7, vary=0.4, vary_seed=1, count=3)
    save("edit-vary.png", [apple, *varied])
    save("edit-frames.png", generate(["a red apple", "a green pear"], frames=6, seed=7))
    small = {"width": 192, "height": 192}
    large = generate("a red apple", seed=7, hires_from=(128, 128), strength=0.5, **small)
    save("edit-hires.png", [generate("a red apple", seed=7, **small), large])


if __name__ == "__main__":
    main()
