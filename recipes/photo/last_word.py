"""Fits the network that has the last word in `calotype denoise --alike` with `photo`.

    python recipes/photo/last_word.py PHOTOS src/calotype/weights/photo/last_word.safetensors

PHOTOS is what `calotype data photos` made.  First crops are denoised, each at a noise of its own, in parts of
which processes take one after another; they are kept beside the output, and a run that follows finds them.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from calotype.checkpoints import native
from calotype.checkpoints.shelf import find
from calotype.networks.last_word import LastWord
from calotype.tasks.posterior import Options, ensemble, estimates, tiled

CROP, SEEN = 128, 64
PART = 100
NOISE = ((10, 20), (20, 30), (30, 60))
"""Of 255; a crop's is even in one of these."""
PAGES = 0.04
TOLD = ("clean", "noisy", "first", "together", "again", "apart", "estimate")
BATCH, RATE, WARMUP, DECAY, AVERAGE = 16, 2e-3, 100, 0.6, 0.005


def crops(folder: Path, count: int, chance: random.Random) -> list[Tensor]:
    """(3 CROP CROP) in [-1, 1], photographs as often one as another; of two places the one of more detail."""
    records = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    photographs: dict[str, list[str]] = {}
    for record in records:
        if record["split"] == "train":
            photographs.setdefault(record.get("photo", ""), []).append(record["file_name"])
    pages = photographs.pop("")
    found = []
    for _ in range(count):
        names = pages if chance.random() < PAGES else photographs[chance.choice(list(photographs))]
        picture = np.asarray(Image.open(folder / chance.choice(names)).convert("RGB"), dtype=np.float32)
        cut = []
        for _ in range(2):
            top, left = (chance.randrange(side - CROP + 1) for side in picture.shape[:2])
            cut.append(picture[top : top + CROP, left : left + CROP])
        best = max(cut, key=lambda crop: np.abs(np.diff(crop.mean(2), axis=0)).mean())
        found.append(torch.from_numpy(best.transpose(2, 0, 1).copy()) / 127.5 - 1)  # (H W 3) -> (3 H W)
    return found


@torch.inference_mode()
def pairs(folder: Path, kept: Path, number: int) -> None:
    """What the network is shown and what it should say, (PART 3 CROP CROP) each, and sigma (PART)."""
    torch.set_num_threads(1)
    chance, generator = random.Random(number), torch.Generator().manual_seed(number)
    model = native.load_pixel(find("photo"))
    denoiser = ensemble(tiled(model, Options()))
    rows = []
    for clean in crops(folder, PART, chance):
        sigma = torch.tensor([2 * chance.uniform(*chance.choice(NOISE)) / 255])
        noisy = clean + sigma * torch.randn(clean.shape, generator=generator)
        known = estimates(denoiser, noisy[None], sigma, model.config.sigma_min)
        rows.append([clean, noisy, *(part[0] for part in known), sigma[0]])
    stacked = [torch.stack(column) for column in zip(*rows, strict=True)]
    named = dict(zip((*TOLD, "sigma"), stacked, strict=True))
    save_file({n: x.half() if x.ndim > 1 else x for n, x in named.items()}, kept / f"{number}.partial")
    (kept / f"{number}.partial").rename(kept / f"{number}.safetensors")


def fit(data: dict[str, Tensor], steps: int, seed: int) -> LastWord:
    """Adam on the mean of the crops' log squared errors, which is what decibels count."""
    torch.manual_seed(seed)
    network = LastWord()
    average = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    gained = 0.0
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / WARMUP, (steps - step) / (steps * DECAY))
        chosen = torch.randint(len(data["sigma"]), (BATCH,))
        top, left = torch.randint(CROP - SEEN + 1, (2,)).tolist()
        flips = [axis for axis in (-2, -1) if torch.rand(()) < 0.5]
        turned = bool(torch.rand(()) < 0.5)

        def part(name: str) -> Tensor:
            x = data[name][chosen, :, top : top + SEEN, left : left + SEEN].float().flip(flips)  # noqa: B023
            return x.mT if turned else x  # noqa: B023

        sigma = data["sigma"][chosen]
        clean, *told = (part(name) for name in TOLD)
        found = network(*told, sigma)
        error, before = ((x - clean).square().flatten(1).mean(1) for x in (found, told[-1]))  # (B)
        optimizer.zero_grad()
        (error + 1e-3 * sigma**2).log().mean().backward()
        optimizer.step()
        for name, value in network.state_dict().items():
            average[name].lerp_(value, AVERAGE)
        gained += 10 * float((before / error.detach()).log10().mean())
        if (step + 1) % 500 == 0:
            print(f"step {step + 1}: {gained / 500:.3f} dB above the estimate", flush=True)
            gained = 0.0
    network.load_state_dict(average)
    return network


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--parts", type=int, default=8, help=f"of {PART} crops each")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    kept = given.out.with_suffix(".pairs")
    kept.mkdir(exist_ok=True)
    files = [kept / f"{number}.safetensors" for number in range(given.parts)]
    missing = [number for number, file in enumerate(files) if not file.exists()]
    with multiprocessing.get_context("spawn").Pool(given.processes) as pool:
        for _ in pool.imap_unordered(functools.partial(pairs, given.photos, kept), missing):
            print(f"{PART} crops more", flush=True)
    parts = [load_file(file) for file in files]
    data = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    network = fit(data, given.steps, given.seed)
    tensors = {name: value.half() for name, value in network.state_dict().items()}
    of = native.describe(find("photo")).weights_hash
    save_file(tensors, given.out, {"of_weights_sha256": of})
    print(f"{given.out}: {given.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
