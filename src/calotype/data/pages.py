"""Pages of print, drawn: what a denoiser should have seen of documents, of which photographs hold none.

Lines of words in several sizes on paper that is unevenly lit, ruled, sometimes white on dark, tilted or a
little out of focus.  The words mean nothing.
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

LETTERS = "etaoinshrdlcumwfgypbvkjxqz"
COMMON = np.array([12, 9, 8, 8, 7, 7, 6, 6, 6, 4, 4, 3, 3, 2, 2, 2, 2, 2, 2, 1.5, 1, 0.8, 0.2, 0.2, 0.1, 0.1])
FINE = 2
"""Pages are drawn so many times as large and made smaller, as a scanner's lens would."""


def page(seed: int, size: int) -> Image.Image:
    """One square page of `size` pixels, RGB; the same seed gives the same page."""
    random = np.random.default_rng(seed)
    side = FINE * size
    whole = Image.new("L", (2 * side, 2 * side), 255)
    pen = ImageDraw.Draw(whole)
    y = int(random.integers(0, 40))
    while y < 2 * side:
        points = float(random.choice([9, 11, 13, 16, 22, 34], p=[0.15, 0.25, 0.25, 0.2, 0.1, 0.05])) * FINE
        font = ImageFont.load_default(size=points)
        for _ in range(int(random.integers(1, 9))):
            pen.text((int(random.integers(0, 60)), y), _line(random), fill=0, font=font)
            y += int(points * random.uniform(1.1, 1.6))
        if random.random() < 0.3:
            pen.line((0, y, 2 * side, y), fill=0, width=int(random.integers(1, 2 * FINE + 1)))
            y += int(points)
    whole = whole.rotate(random.normal(0, 1.5), Image.Resampling.BICUBIC, fillcolor=255)
    left = (whole.width - side) // 2
    ink = whole.crop((left, left, left + side, left + side)).resize((size, size), Image.Resampling.LANCZOS)
    if random.random() < 0.5:
        ink = ink.filter(ImageFilter.GaussianBlur(random.uniform(0.2, 0.9)))
    cover = np.asarray(ink, dtype=np.float32)[..., None] / 255  # (H W 1), 1 where the paper shows
    dark, paper = _colour(random, 0.0, 0.35), _colour(random, 0.6, 1.0)
    if random.random() < 0.15:
        dark, paper = paper, dark
    light = cover * paper + (1 - cover) * dark  # (H W 1) and (3) -> (H W 3)
    values = 255 * light * _lighting(random, size)[..., None]
    return Image.fromarray(values.clip(0, 255).round().astype(np.uint8))


def _line(random: np.random.Generator) -> str:
    words = []
    for _ in range(16):
        length = int(random.integers(1, 11))
        word = "".join(random.choice(list(LETTERS), length, p=COMMON / COMMON.sum()))
        kind = random.random()
        if kind < 0.1:
            word = str(int(random.integers(0, 100000)))
        elif kind < 0.25:
            word = word.capitalize()
        words.append(word + ("," if random.random() < 0.1 else ""))
    return " ".join(words)


def _colour(random: np.random.Generator, low: float, high: float) -> np.ndarray:
    """Grey, with a little colour: (3) from 0 to 1."""
    tint = random.normal(0, 0.03, 3) if random.random() < 0.6 else np.zeros(3)
    return np.clip(random.uniform(low, high) + tint, 0, 1).astype(np.float32)


def _lighting(random: np.random.Generator, size: int) -> np.ndarray:
    """A slope of light over the page, (H W), 1 where it is brightest."""
    ramp = np.linspace(0, 1, size, dtype=np.float32)
    slope = (
        random.uniform(0, 0.5) * ramp[:, None] + random.uniform(0, 0.5) * ramp[None]
    )  # (H 1) (1 W) -> (H W)
    return np.rot90(1 - slope, int(random.integers(4))).astype(np.float32)
