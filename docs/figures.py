"""The figures of how-it-works.md, from the shipped model: `python docs/figures.py [--model FILE]`."""

from __future__ import annotations

import argparse
from pathlib import Path

import PIL.Image
import torch
from torch import Tensor

import calotype
from calotype.diffusion.noise import PictureNoise

FOLDER = Path(__file__).parent / "figures"
PROMPTS = ("a red apple", "a yellow star", "a purple umbrella", "a smiling face")
GAP = 4


def to_image(pixels: Tensor) -> PIL.Image.Image:
    """(3 H W) in [-1, 1] to a picture."""
    levels = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return PIL.Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())  # (3 H W) -> (H W 3)


def channel(values: Tensor, side: int) -> PIL.Image.Image:
    """One latent channel (h w) in grey, three deviations either side, enlarged without smoothing."""
    grey = ((values / 6 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return PIL.Image.fromarray(grey).convert("RGB").resize((side, side), PIL.Image.Resampling.NEAREST)


def table(rows: list[list[PIL.Image.Image]]) -> PIL.Image.Image:
    """Pictures of one size in rows on white."""
    width, height = rows[0][0].size
    columns = max(len(row) for row in rows)
    sheet = PIL.Image.new("RGB", (columns * (width + GAP) - GAP, len(rows) * (height + GAP) - GAP), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet.paste(picture, (x * (width + GAP), y * (height + GAP)))
    return sheet


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="icons")
    studio = calotype.load(parser.parse_args().model)
    model = studio.model
    drawn = studio.pictures(list(PROMPTS), seed=7)
    latents = torch.stack([picture.latents for picture in drawn])
    FOLDER.mkdir(exist_ok=True)

    rows = []
    for picture, own in zip(drawn, latents, strict=True):
        pixels = model.autoencoder.decode(own[None])
        again = model.autoencoder.decode(model.autoencoder.encode(pixels).mode())[0]
        rows.append([picture.image, to_image(again), *(channel(own[i], 128) for i in range(4))])
    table(rows).save(FOLDER / "latents.png")

    levels = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
    noise = PictureNoise([7])(latents[:1])
    noisy = [latents[:1] + sigma * noise for sigma in levels]
    shrunk = [x / (1 + sigma**2) ** 0.5 for x, sigma in zip(noisy, levels, strict=True)]
    forward = [to_image(model.autoencoder.decode(x)[0]) for x in shrunk]
    channels = [channel(x[0, 0], 128) for x in shrunk]
    table([forward, channels]).save(FOLDER / "forward.png")

    words = model.text_encoder([PROMPTS[0]])
    expected = [latents[:1]] + [
        model.denoiser(x, torch.tensor([sigma]), words)
        for x, sigma in zip(noisy[1:], levels[1:], strict=True)
    ]
    behind = [to_image(model.autoencoder.decode(x)[0]) for x in expected]
    table([forward, behind]).save(FOLDER / "denoiser.png")

    scales = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
    rows = [[studio.generate(prompt, seed=7, guidance=scale) for scale in scales] for prompt in PROMPTS[:3]]
    table(rows).save(FOLDER / "guidance.png")


if __name__ == "__main__":
    main()
