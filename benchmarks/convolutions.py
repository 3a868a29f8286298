"""One 3x3 convolution our way beside oneDNN's: python benchmarks/convolutions.py [--bf16]

One thread's processor time, so that a machine need not be quiet; channels-last, no gradients.  In float32 by
Winograd; with --bf16 of doubled maps by their corners, which a processor without units for bf16 emulates.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from calotype.models.allocation import keep_freed
from calotype.networks.convolution import at_corners, winograd

SHAPES = (  # pictures, channels in and out, side
    (2, 320, 320, 64),
    (2, 960, 320, 64),
    (2, 640, 640, 32),
    (2, 1280, 640, 32),
    (2, 1280, 1280, 16),
    (1, 512, 512, 64),
    (1, 512, 256, 128),
    (1, 128, 128, 256),
    (1, 128, 128, 32),
    (1, 64, 64, 256),
)
DOUBLED = ((2, 1280, 8), (2, 1280, 16), (2, 640, 32), (1, 512, 64), (1, 256, 128), (1, 64, 64))
"""Of layers that double a map first: pictures, channels, side before."""


def seconds(call: Callable[[], Tensor], times: int = 3) -> float:
    """The least of several, after one that finds everything cold."""
    call()
    found = []
    for _ in range(times):
        start = time.thread_time()
        call()
        found.append(time.thread_time() - start)
    return min(found)


def told(layer: str, plain: float, ours: float, name: str = "Winograd") -> None:
    print(f"{layer}: oneDNN {plain:.3f} s, {name} {ours:.3f} s, ratio {plain / ours:.2f}", flush=True)


def doubled(
    dtype: torch.dtype, way: Callable[[Tensor, Tensor, Tensor], Tensor], name: str, times: int
) -> None:
    for pictures, channels, side in DOUBLED:
        x = torch.randn(pictures, channels, side, side).to(dtype, memory_format=torch.channels_last)
        weight = torch.randn(channels, channels, 3, 3).to(dtype, memory_format=torch.channels_last)
        bias = torch.randn(channels).to(dtype)
        plain = seconds(
            lambda: F.conv2d(F.interpolate(x, scale_factor=2.0), weight, bias, padding=1),  # noqa: B023
            times,
        )
        ours = seconds(lambda: way(x, weight, bias), times)  # noqa: B023
        told(f"{pictures}x{side}x{side} doubled, {channels}", plain, ours, name)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--bf16", action="store_true")
    torch.set_num_threads(1)
    keep_freed()
    if parser.parse_args().bf16:
        doubled(torch.bfloat16, at_corners, "by corners", times=1)
        return
    for pictures, channels, out, side in SHAPES:
        x = torch.randn(pictures, channels, side, side).to(memory_format=torch.channels_last)
        weight = torch.randn(out, channels, 3, 3).to(memory_format=torch.channels_last)
        bias = torch.randn(out)
        plain = seconds(lambda: F.conv2d(x, weight, bias, padding=1))  # noqa: B023
        ours = seconds(lambda: winograd(x, weight, bias))  # noqa: B023
        told(f"{pictures}x{side}x{side}, {channels} to {out}", plain, ours)
    doubled(torch.float32, partial(winograd, doubled=True), "Winograd", times=3)


if __name__ == "__main__":
    main()
