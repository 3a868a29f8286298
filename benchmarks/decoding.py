"""Memory of Stable Diffusion 1.5's autoencoder beside what is foretold of it, and its seconds.

    python benchmarks/decoding.py [--size 512] [--dtype bfloat16] [--threads 2] [--weights FOLDER]

One decoding and one encoding of a square picture on the CPU, by the weights of speed.py; bytes are those that
the process holds at most beyond what it held before (Linux, which counts them anew when it is told to).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from speed import FILE, highest, weights

from calotype.checkpoints import memory, shelf
from calotype.models.latent_diffusion import LatentDiffusion

WARM = 64
"""Pixels a side of a first picture, which reads the weights."""


@torch.inference_mode()
def measure(model: LatentDiffusion, word: str, size: int) -> tuple[int, float]:
    """Bytes and seconds of "decode" or "encode"."""
    work = getattr(model.autoencoder, word)
    decoding = word == "decode"
    channels = model.config.autoencoder.latent_channels if decoding else 3
    cells = model.config.factor if decoding else 1
    for side in (WARM, size):
        x = torch.randn(1, channels, side // cells, side // cells).to(model.dtype)
        Path("/proc/self/clear_refs").write_text("5")
        before, start = highest("self"), time.perf_counter()
        work(x)
        took = highest("self") - before, time.perf_counter() - start
    return took


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--weights", type=Path, help="a folder to keep them in; default: a temporary one")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    dtype = getattr(torch, given.dtype)
    with weights(given.weights) as place:
        model = shelf.load(place / FILE, torch.device("cpu"), dtype, widen=None)
        told = memory.decoding(model.config, given.size**2, dtype.itemsize)
        for word in ("decode", "encode"):
            found, took = measure(model, word, given.size)
            print(f"{word}: {found / 2**20:.0f} MB, decoding foretold {told / 2**20:.0f} MB; {took:.1f} s")


if __name__ == "__main__":
    main()
