"""What it costs that finished files outlast a crash: the disk's part of writing a picture, a model, a job.

    python benchmarks/flushing.py FOLDER [--rounds 100]

FOLDER lies on the disk to measure.  By turns with and without waiting for it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import PIL.Image
import torch

from calotype.checkpoints.weights import write_safetensors
from calotype.server.store import Store
from calotype.tasks.picture import write_png
from calotype.tasks.restoration import Restoration


def compared(what: str, write: Callable[[Path], object], folder: Path, rounds: int) -> None:
    took: dict[bool, list[float]] = {True: [], False: []}
    for i in range(2 * rounds):
        flushed = i % 2 == 0
        began = time.perf_counter()
        if flushed:
            write(folder / f"{i}.file.png")
        else:
            with mock.patch.object(os, "fsync"):
                write(folder / f"{i}.file.png")
        took[flushed].append(1e3 * (time.perf_counter() - began))
    with_it, without = (statistics.median(took[flushed]) for flushed in (True, False))
    print(
        f"{what}: {with_it:.1f} ms, without waiting for the disk {without:.1f} ms; the longest "
        f"{max(took[True]):.0f} and {max(took[False]):.0f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=100)
    chosen = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(dir=chosen.folder) as made:
        place = Path(made)
        for side in (128, 512):
            image = PIL.Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8))
            compared(
                f"a PNG of {side}x{side}",
                lambda path, i=image: write_png(path, i),
                Path(place),
                chosen.rounds,
            )
        weights = {"weights": torch.randn(25_000_000)}
        rounds = max(1, chosen.rounds // 20)
        compared("a model of 100 MB", lambda path: write_safetensors(path, weights, {}), place, rounds)
        store = Store(place / "store")
        image = PIL.Image.fromarray(rng.integers(0, 255, (128, 128, 3), dtype=np.uint8))
        asked = Restoration(task="denoise", image=image)
        compared(
            "a job accepted with its upload", lambda _: store.add("me", asked), Path(place), chosen.rounds
        )
        store.close()


if __name__ == "__main__":
    main()
