"""Attention in bf16 on a CPU, PyTorch's kernel beside plain products.

    python benchmarks/attention.py [--threads 2] [--rounds 3] [--projections float32]

The self-attentions of Stable Diffusion's networks at their own sizes, guidance halves together; both ways by
turns, the least seconds of several, and what each costs in exactness beside float64.  Says which Calotype
takes on this processor: on one without units for bf16, which emulates products, the kernel in float32.
With `--projections` something else, in the number type named: queries, keys and values of all self-attentions
of a guided SD 1.x step by three layers, by one with weights laid together before, and by one that lays them
together at every call.
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
from calotype.networks import processor
from calotype.networks.attention import by_products

SHAPES = {  # pictures, heads, places, channels of a head
    "SD 1.x, 512x512, finest": (2, 8, 4096, 40),
    "SD 1.x, 512x512, second": (2, 8, 1024, 80),
    "SD 2.x, 768x768, finest": (2, 5, 9216, 64),
    "SDXL, 1024x1024, finest": (2, 10, 4096, 64),
    "decoder, 512x512": (1, 1, 4096, 512),
}


def in_float32(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(query.float(), key.float(), value.float()).to(query.dtype)


WAYS = {"kernel": F.scaled_dot_product_attention, "kernel in float32": in_float32, "products": by_products}


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


PROJECTED = ((4096, 320, 5), (1024, 640, 5), (256, 1280, 5), (64, 1280, 1))
"""Places, channels, and how many of such layers the U-Net of SD 1.x has at 512x512."""


def projections(dtype: torch.dtype, rounds: int) -> dict[str, float]:
    """Seconds of a step, by the way."""
    total: dict[str, float] = {}
    for places, channels, count in PROJECTED:
        x = torch.randn(2, places, channels).to(dtype)
        three = [torch.randn(channels, channels).to(dtype) for _ in range(3)]
        one = torch.cat(three)
        ways: dict[str, Callable[[], object]] = {
            "three layers": lambda x=x, three=three: [F.linear(x, weight) for weight in three],
            "one": lambda x=x, one=one: F.linear(x, one),
            "one, made anew": lambda x=x, three=three: F.linear(x, torch.cat(three)),
        }
        took: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds + 1):
            for way, work in ways.items():
                took[way].append(seconds(work))
        for way, found in took.items():
            total[way] = total.get(way, 0.0) + count * min(found[1:])
    return total


def error(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--projections", metavar="DTYPE")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    keep_freed()
    if asked.projections:
        for way, took in projections(getattr(torch, asked.projections), asked.rounds).items():
            print(f"{way}: {took:.3f} s a step")
        return
    taken = "products" if processor.multiplies_bf16_in_vectors() else "kernel"
    if not processor.multiplies_bf16():
        taken = "kernel in float32"
    print(f"{torch.backends.cpu.get_cpu_capability()}; Calotype takes: {taken}")
    for name, (pictures, heads, places, channels) in SHAPES.items():
        some = [torch.randn(pictures, heads, places, channels).bfloat16() for _ in range(3)]
        found = [
            {way: seconds(partial(work, *some)) for way, work in WAYS.items()} for _ in range(asked.rounds)
        ]
        least = {way: min(one[way] for one in found) for way in WAYS}
        head = [x[:1, :1] for x in some]
        exact = F.scaled_dot_product_attention(*(x.double() for x in head))
        work = 4 * pictures * heads * places**2 * channels / 1e9
        told = (
            f"{way} {took:.3f} s ({work / took:.0f} GFLOP/s, error {error(WAYS[way](*head), exact):.4f})"
            for way, took in least.items()
        )
        print(f"{name}: {', '.join(told)}; kernel over it {least['kernel'] / least[taken]:.2f}", flush=True)


if __name__ == "__main__":
    main()
