"""What working in bf16 costs in exactness, Calotype's way and diffusers': Stable Diffusion 1.5's shape.

    python benchmarks/rounding.py [--size 256] [--dtype bfloat16] [--threads 2] [--products]
        [--weights FOLDER]

One file of random weights, the same inputs for all; each side's U-Net at three noise levels and its decoder,
in float32 and again rounded.  Prints each side's relative error |rounded - float32| / |float32| (root mean
square), and how far the two sides' float32 lie apart.  The weights are those of speed.py.  With `--products`
Calotype works as on processors with vectors of bf16, whatever this one has: slowly, where that is emulated.
"""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from speed import FILE, Theirs, weights
from torch import Tensor

from calotype.networks import processor

TIMES = (10, 250, 900)
Run = tuple[Callable[[Tensor, Tensor, Tensor], Tensor], Callable[[Tensor], Tensor]]


def ours(place: Path, dtype: torch.dtype) -> Run:
    """Calotype's U-Net (x, time, text) and decoder (latents as the U-Net has them)."""
    from calotype.checkpoints import shelf

    model = shelf.load(place / FILE, torch.device("cpu"), dtype, widen=None)
    return model.denoiser.network, model.autoencoder.decode


def theirs(place: Path, dtype: torch.dtype) -> Run:
    """diffusers', with channels last, in which it is faster."""
    side = Theirs()
    side.open(place, dtype, "cpu")
    side.layout(channels_last=True)
    pipe = side.pipe

    def network(x: Tensor, time: Tensor, text: Tensor) -> Tensor:
        return pipe.unet(x, time, encoder_hidden_states=text).sample

    def decode(latents: Tensor) -> Tensor:
        return pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample

    return network, decode


SIDES: dict[str, Callable[[Path, torch.dtype], Run]] = {"calotype": ours, "diffusers": theirs}


@torch.inference_mode()
def seen(side: str, place: Path, dtype: torch.dtype, size: int) -> dict[str, Tensor]:
    """What one side makes of the inputs, numbers that bf16 has, in float32."""
    generator = torch.Generator().manual_seed(0)
    drawn = (
        torch.randn(2, 4, size // 8, size // 8, generator=generator),
        torch.randn(2, 77, 768, generator=generator),
    )
    x, text = (value.bfloat16().to(dtype) for value in drawn)
    network, decode = SIDES[side](place, dtype)
    maps = {f"U-Net at {time}": network(x, torch.tensor([float(time)]), text) for time in TIMES}
    maps["decoder"] = decode(x[:1])
    return {name: value.float() for name, value in maps.items()}


def apart(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, float]:
    return {
        name: float(f"{((found[name] - value).norm() / value.norm()).item():.3g}")
        for name, value in wanted.items()
    }


def measure(place: Path, size: int, dtype: torch.dtype) -> dict[str, Any]:
    errors, exact = {}, {}
    for side in SIDES:
        exact[side] = seen(side, place, torch.float32, size)
        gc.collect()
        errors[side] = apart(seen(side, place, dtype, size), exact[side])
        gc.collect()
    return {
        "size": size,
        "dtype": str(dtype).removeprefix("torch."),
        "relative error": errors,
        "ratio, calotype/diffusers": {
            name: round(error / errors["diffusers"][name], 3) for name, error in errors["calotype"].items()
        },
        "float32, the two apart": apart(exact["calotype"], exact["diffusers"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--products", action="store_true", help="as on processors with vectors of bf16")
    parser.add_argument("--weights", type=Path, help="a folder to keep them in; default: a temporary one")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.products:
        processor.UNITS = frozenset({"avx512_bf16"})
    with weights(given.weights) as place:
        print(json.dumps(measure(place, given.size, getattr(torch, given.dtype)), indent=1))


if __name__ == "__main__":
    main()
