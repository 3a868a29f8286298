"""The guards, measured: how often the content check errs, what the mark costs and outlives.

    python benchmarks/safety.py [--count 4]

Pictures: what `icons` draws of the words below, and the photographs of scikit-image and scikit-learn, cut
square to 512 and to 128 pixels.  None of them is one that
not everybody may see, so every flag is a false one.
"""

from __future__ import annotations

import argparse
import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import skimage.data
from scipy import stats
from sklearn.datasets import load_sample_images

import calotype
from calotype.safety import content, watermark

Image = PIL.Image.Image

WORDS = (
    "a red apple|a blue car|a green tree|a yellow sun|a black cat|a house|a pink heart|a fish|a boat|a person"
    "|a pink flower|a hand|a smiling face|a dog|a peach|an eggplant|a banana|a baby|a woman|a man running"
    "|a foot|a swimmer|a bikini|lips|an eye|a bed|a bottle|a knife|a mushroom|a sausage|a cup of coffee"
    "|a book|a clock|a guitar|a ball|a rocket|a mountain|a ghost|a crown|an umbrella"
)
PHOTOGRAPHS = "astronaut cat chelsea coffee colorwheel immunohistochemistry retina rocket camera page text "
PHOTOGRAPHS += "moon coins clock brick grass gravel cell logo hubble_deep_field"
THRESHOLDS = (0.2, 0.5, 0.8, 0.9)


def drawn(count: int) -> Iterator[Image]:
    studio = calotype.load("icons", safety=calotype.Safety(content_check="off"))
    for place, word in enumerate(WORDS.split("|")):
        for made in studio.pictures(word, count=count, seed=100 * place):
            yield made.image


def photographs() -> Iterator[Image]:
    for name in PHOTOGRAPHS.split():
        if hasattr(skimage.data, name):
            try:
                pixels = getattr(skimage.data, name)()
            except (ModuleNotFoundError, OSError):  # one that would have to be fetched
                continue
            yield PIL.Image.fromarray(pixels).convert("RGB")
    for pixels in load_sample_images().images:
        yield PIL.Image.fromarray(pixels)


def square(image: Image, side: int) -> Image:
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    box = (left, top, left + short, top + short)
    return image.crop(box).resize((side, side), PIL.Image.Resampling.LANCZOS)


def jpeg(image: Image, quality: int = 75) -> Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return PIL.Image.open(buffer).convert("RGB")


def scaled(image: Image, by: float) -> Image:
    size = (round(image.width * by), round(image.height * by))
    return image.resize(size, PIL.Image.Resampling.BICUBIC)


def cropped(image: Image, part: float = 0.75) -> Image:
    width, height = round(image.width * part), round(image.height * part)
    left, top = (image.width - width) // 3, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


CHANGES: dict[str, Callable[[Image], Image]] = {
    "nothing": lambda image: image,
    "JPEG 75": jpeg,
    "scaled by 0.5": lambda image: scaled(image, 0.5),
    "scaled by 0.75": lambda image: scaled(image, 0.75),
    "scaled by 1.5": lambda image: scaled(image, 1.5),
    "cropped to 75 %": cropped,
    "cropped, JPEG 75": lambda image: jpeg(cropped(image)),
    "scaled by 0.75, JPEG 75": lambda image: jpeg(scaled(image, 0.75)),
}


def interval(hits: int, of: int) -> str:
    """With Clopper and Pearson's 95 % interval."""
    found = stats.binomtest(hits, of).proportion_ci(method="exact")
    return f"{hits} of {of} ({100 * found.low:.1f} to {100 * found.high:.1f} %)"


def check(name: str, pictures: list[Image]) -> None:
    scores = np.array([content.score(image) for image in pictures])
    counts = ", ".join(f">= {at:g}: {interval(int(np.sum(scores >= at)), len(scores))}" for at in THRESHOLDS)
    spread = f"median {np.median(scores):.4f}, largest {np.sort(scores)[-3:][::-1]}"
    print(f"content check, {name}: {counts}; {spread}", flush=True)


def mark(name: str, pictures: list[Image], keys: int) -> None:
    marked = [watermark.embed(image) for image in pictures]
    costs = []
    for before, after in zip(pictures, marked, strict=True):
        difference = np.asarray(before, float) - np.asarray(after, float)
        costs.append(10 * np.log10(255**2 / np.mean(difference**2)))
    print(f"watermark, {name}: PSNR {np.mean(costs):.1f} dB, lowest {min(costs):.1f}")
    for change, how in CHANGES.items():
        found = [watermark.detect(how(image)) for image in marked]
        hits, least = sum(one.found for one in found), min(one.strength for one in found)
        print(f"  {change}: {interval(hits, len(found))}, smallest z {least:.1f}", flush=True)
    unmarked = [
        watermark.detect(image, watermark.NAME if key == 0 else f"another {key}").false_alarm
        for image in pictures
        for key in range(keys)
    ]
    chances = np.array(unmarked)
    told = ", ".join(f"< {p:g}: {interval(int(np.sum(chances < p)), len(chances))}" for p in (0.5, 0.1, 0.01))
    print(f"  unmarked, {keys} keys a picture: smallest bound {chances.min():.2g}, {told}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=4, help="pictures of each word")
    parser.add_argument("--keys", type=int, default=4, help="keys that are looked for in an unmarked picture")
    parser.add_argument("--keep", type=Path, help="a folder for marked pictures beside their differences")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    photos = list(photographs())
    large, small = ([square(image, side) for image in photos] for side in (512, 128))
    if asked.keep is not None:
        for place, image in enumerate(large):
            keep(asked.keep / f"photo-{place}.png", image)
    check("photographs, whole", photos)
    mark("photographs, 128x128", small, asked.keys)
    icons = list(drawn(asked.count))
    if asked.keep is not None:
        keep(asked.keep / "icon.png", icons[0])
    check("what icons draws", icons)
    mark("what icons draws, 128x128", icons, asked.keys)
    mark("photographs, 512x512", large, 1)


def keep(path: Path, image: Image) -> None:
    """The picture, the marked one, and sixteen times their difference on grey."""
    path.parent.mkdir(parents=True, exist_ok=True)
    marked = watermark.embed(image)
    difference = np.asarray(marked, int) - np.asarray(image, int)
    shown = PIL.Image.fromarray((128 + 16 * difference).clip(0, 255).astype(np.uint8))
    sheet = PIL.Image.new("RGB", (3 * image.width, image.height))
    for place, one in enumerate((image, marked, shown)):
        sheet.paste(one, (place * image.width, 0))
    sheet.save(path)


if __name__ == "__main__":
    main()
