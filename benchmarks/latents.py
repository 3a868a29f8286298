"""Denoising latents against denoising pixels, with equal parameters, on 128x128 pictures (LDM, 2112.10752).

Three U-Nets of about eight million parameters train in the same loop: that of `icons` on latents, the same on
pixels (which is how the paper compares them), and one for pixels with more levels, so that attention begins
at the resolution at which it does in latents.  Ratios of pictures a second, round by round.

    python benchmarks/latents.py [--batch 8] [--rounds 3] [--steps 2] [--threads 2] [--precision float32]

With a folder of captioned pictures all three (or those of `--train`) then train for the same time, on the
autoencoder and the words of `icons`, and are measured: EffNet-Lite0 KID and recall of what they draw.

    python benchmarks/latents.py --folder datasets/icons --minutes 60 --out runs/latents
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from calotype.checkpoints import shelf
from calotype.evaluation import evaluate
from calotype.models.config import ModelConfig
from calotype.models.presets import icons
from calotype.networks.unet import UNet
from calotype.training.fit import Plan
from calotype.training.recipes import icons_diffusion
from calotype.training.sessions import prepare_diffusion, read_data

DEEP = (16, 48, 64, 96, 112, 128)
"""Channels of the levels from 128x128 to 4x4."""


def models() -> dict[str, ModelConfig]:
    """The three, alike in their words; without an outline, which is drawn in latents."""
    preset = icons()
    plain = dataclasses.replace(preset.unet, outline_cells=0)
    pixels = dataclasses.replace(plain, in_channels=3, out_channels=3)
    levels = range(len(DEEP))
    deep = dataclasses.replace(
        pixels,
        block_channels=DEEP,
        attention_levels=tuple(level >= 3 for level in levels),
        transformer_depth=(1,) * len(DEEP),
        heads=tuple(4 if level >= 3 else 2 for level in levels),
    )
    return {
        "latents": dataclasses.replace(preset, unet=plain),
        "pixels": dataclasses.replace(preset, unet=pixels, autoencoder=None),
        "pixels, more levels": dataclasses.replace(preset, unet=deep, autoencoder=None),
    }


def trainer(config: ModelConfig, batch: int, dtype: torch.dtype) -> tuple[nn.Module, Any]:
    """A U-Net and one optimiser step of it on fixed random data."""
    unet, side = config.unet, config.size // config.factor
    network = UNet(unet).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    x = torch.randn(batch, unet.in_channels, side, side).contiguous(memory_format=torch.channels_last)
    label = torch.rand(batch) * 1000
    context = torch.randn(batch, config.text[0].clip.context_length, unet.context_width)
    vector = None if unet.vector_width is None else torch.randn(batch, unet.vector_width)

    def step() -> None:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            said: Tensor = network(x, label, context, vector=vector)
            loss = (said.float() - x).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return network, step


def speeds(batch: int, rounds: int, steps: int, precision: str) -> dict[str, Any]:
    """Pictures a second of the three, by turns."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    trainers = {name: trainer(config, batch, dtype) for name, config in models().items()}
    counts = {name: sum(p.numel() for p in network.parameters()) for name, (network, _) in trainers.items()}
    assert max(counts.values()) <= 1.02 * min(counts.values()), f"not of equal parameters: {counts}"
    times: dict[str, list[float]] = {name: [] for name in trainers}
    for _, step in trainers.values():
        step()
    for _ in range(rounds):
        for name, (_, step) in trainers.items():
            start = time.perf_counter()
            for _ in range(steps):
                step()
            times[name].append((time.perf_counter() - start) / steps)
    found: dict[str, Any] = {
        "batch": batch,
        "precision": precision,
        "threads": torch.get_num_threads(),
        "parameters": counts,
        "images_per_second": {
            name: round(batch / statistics.median(several), 2) for name, several in times.items()
        },
    }
    for name in list(trainers)[1:]:
        ratios = [slow / fast for slow, fast in zip(times[name], times["latents"], strict=True)]
        found[f"latents_over_{name}"] = {
            "median": round(statistics.median(ratios), 2),
            "range": [round(min(ratios), 2), round(max(ratios), 2)],
        }
    return found


def trained(given: argparse.Namespace) -> dict[str, Any]:
    """Train each for so long, its latents computed before, and measure what it draws."""
    from calotype.cli.evaluate import drawing
    from calotype.training.api import complete

    own = shelf.shipped()["icons"]
    found: dict[str, Any] = {}
    for name in given.train:
        config = models()[name]
        recipe = dataclasses.replace(
            icons_diffusion(),
            steps=10**6,
            batch=given.batch,
            decay="constant",
            rewording=0.0,
            precision=given.precision,  # type: ignore[arg-type]
            sample_every=0,
            evaluate_every=0,
        )
        data = read_data(given.folder, config.size, strict=False, watch=lambda *_: None)
        plan = Plan(given.out / name.replace(", ", "-").replace(" ", "-"), minutes=given.minutes)
        coder = own if config.autoencoder is not None else None
        run = prepare_diffusion(
            recipe, config, data, plan, autoencoder=coder, text_encoder=own, watch=lambda *_: None
        )
        report = complete(run, progress=True)
        path = plan.folder / "model.safetensors"
        figures = evaluate(
            path,
            given.folder,
            samples=given.samples,
            count=given.samples,
            draw=drawing(path, []),
            out=plan.folder / "figures.json",
        )
        found[name] = {"images_seen": report["images_seen"], "seconds": report["seconds"]}
        found[name]["samples"] = figures["samples"]
    return found


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=("bf16", "float32"), default="float32")
    parser.add_argument("--folder", type=Path, help="Also train for the same time on its pictures.")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--samples", type=int, default=1000, help="Drawn by each after its training.")
    parser.add_argument("--train", nargs="+", choices=tuple(models()), default=tuple(models()))
    parser.add_argument("--out", type=Path, default=Path("runs/latents"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    found = speeds(given.batch, given.rounds, given.steps, given.precision)
    print(json.dumps(found, indent=1), flush=True)
    if given.folder is not None:
        print(json.dumps(trained(given), indent=1))


if __name__ == "__main__":
    main()
