"""What `--compile` costs and gains: guided U-Net steps of one picture, plain and compiled, by turns.

    python benchmarks/compiling.py [--model icons] [--size 128] [--steps 20] [--rounds 3] [--device cpu]

Prints the first compiled step (the cold cost; no cache of earlier runs is used), the median step of
both, their ratio with the range over the rounds, and how far the two disagree.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

import calotype
from calotype.tasks.generate import Progress
from calotype.tasks.request import Request
from calotype.tasks.studio import Studio


def steps(studio: Studio, size: int, count: int) -> tuple[list[float], torch.Tensor]:
    """Seconds of every step, and the last latents."""
    taken, last = [], torch.empty(0)
    request = Request(prompts="a red apple", model=studio.name, seed=7, steps=count, width=size, height=size)
    began = time.perf_counter()
    for event in studio.events(request):
        if isinstance(event, Progress):
            if studio.model.device.type == "cuda":
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - began)
            began, last = time.perf_counter(), event.step.x
    return taken, last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="icons")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device")
    given = parser.parse_args()
    torch._inductor.config.force_disable_caches = True
    plain = calotype.load(given.model, given.device)
    compiled = calotype.load(given.model, given.device, compiled=True)
    steps(plain, given.size, 2)
    cold, _ = steps(compiled, given.size, 2)
    ratios, medians = [], []
    for _ in range(given.rounds):
        (slow, wanted), (quick, found) = (steps(s, given.size, given.steps) for s in (plain, compiled))
        medians.append((statistics.median(slow), statistics.median(quick)))
        ratios.append(medians[-1][0] / medians[-1][1])
    error = float((found - wanted).abs().max() / wanted.abs().max())
    print(f"first compiled step {cold[0]:.1f} s; then {medians[-1][1]:.3f} s, plain {medians[-1][0]:.3f} s")
    print(f"plain / compiled {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"largest relative difference of the latents after {given.steps} steps {error:.1e}")


if __name__ == "__main__":
    main()
