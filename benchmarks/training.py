"""Training speed of Calotype's U-Net beside two peers of the same size, in the same loop.

The U-Net of `icons` beside diffusers' UNet2DConditionModel of the same sizes, in the memory layout in which
that is faster; and a U-Net without text beside the one of `denoising-diffusion-pytorch`, with as many
parameters and levels, on 32x32 pictures.  All train on the same random data, alternately in one run, and are
compared as ratios; the machine's measured matrix rate gives the fraction of it that training reaches.

    python benchmarks/training.py [--batch 128] [--rounds 5] [--steps 4] [--threads 2] [--precision bf16]
        [--busy]

The second peer: pip install --no-deps denoising-diffusion-pytorch einops ema-pytorch (left out if absent).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
import types
from collections.abc import Callable

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from calotype.models.presets import icons
from calotype.networks.config import UNetConfig
from calotype.networks.unet import UNet

PLAIN = UNetConfig(
    in_channels=3,
    out_channels=3,
    block_channels=(40, 72, 128, 176),
    layers_per_block=1,
    attention_levels=(False, False, True, True),
    transformer_depth=(1, 1, 1, 1),
    heads=(1, 2, 4, 4),
    context_width=0,
    norm_groups=8,
)
"""Without text, of as many parameters as the peer's with dim=32 and the multiples (1, 2, 4, 8)."""
SIDE = 32
"""Of the pictures it sees."""
Step = Callable[[], None]


def ddpm_unet() -> nn.Module | None:
    """The U-Net of `denoising-diffusion-pytorch`; None where it is not installed."""
    if "torchvision" not in sys.modules:
        try:
            import torchvision  # noqa: F401
        except ImportError:  # it is imported for the peer's data sets, which are not used here
            blank = types.ModuleType("torchvision")
            blank.transforms = blank.utils = types.ModuleType("torchvision.transforms")
            sys.modules |= {"torchvision": blank, "torchvision.transforms": blank.transforms}
    try:
        from denoising_diffusion_pytorch import denoising_diffusion_pytorch as peer
    except ImportError:
        return None
    network: nn.Module = peer.Unet(32, dim_mults=(1, 2, 4, 8), channels=3, flash_attn=True)
    return network


def diffusers_unet(config: UNetConfig) -> UNet2DConditionModel:
    """The same network in diffusers."""
    down = ["CrossAttnDownBlock2D" if on else "DownBlock2D" for on in config.attention_levels]
    up = ["CrossAttnUpBlock2D" if on else "UpBlock2D" for on in reversed(config.attention_levels)]
    return UNet2DConditionModel(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        block_out_channels=config.block_channels,
        layers_per_block=config.layers_per_block,
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        attention_head_dim=config.heads,  # diffusers' old name for the number of heads
        cross_attention_dim=config.context_width,
        norm_num_groups=config.norm_groups,
        class_embed_type=None if config.vector_width is None else "projection",
        projection_class_embeddings_input_dim=config.vector_width,
    )


def matmul_rate(dtype: torch.dtype, seconds: float, clock: Callable[[], float]) -> float:
    """FLOP/s of a large matrix product."""
    a = torch.randn(2048, 2048, dtype=dtype)
    count, start = 0, clock()
    while clock() - start < seconds:
        a @ a
        count += 1
    return count * 2 * 2048**3 / (clock() - start)


def trainer(
    network: nn.Module,
    call: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    dtype: torch.dtype,
    layout: torch.memory_format,
) -> Step:
    """One optimiser step on fixed random data x (B C H W)."""
    network.to(memory_format=layout).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    x = x.to(memory_format=layout)
    label = torch.rand(len(x)) * 1000

    def step() -> None:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = (call(x, label).float() - x).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def competitors(batch: int, dtype: torch.dtype) -> dict[str, tuple[nn.Module, Step]]:
    """Every network with its training step, by name."""
    config = icons()
    assert config.autoencoder is not None
    side = config.size // config.factor
    unet = dataclasses.replace(config.unet, outline_cells=0)  # which no other U-Net has
    assert unet.vector_width is not None
    x = torch.randn(batch, unet.in_channels, side, side)
    context = torch.randn(batch, config.text[0].clip.context_length, unet.context_width)
    pooled = torch.randn(batch, unet.vector_width)
    ours = UNet(unet)
    last, first = torch.channels_last, torch.contiguous_format
    found: dict[str, tuple[nn.Module, Step]] = {
        "calotype": (ours, trainer(ours, lambda x, t: ours(x, t, context, vector=pooled), x, dtype, last))
    }
    for name, layout in (("diffusers", last), ("diffusers, contiguous", first)):
        theirs = diffusers_unet(unet)

        def call(x: Tensor, t: Tensor, network: nn.Module = theirs) -> Tensor:
            said: Tensor = network(x, t, context, class_labels=pooled).sample
            return said

        found[name] = (theirs, trainer(theirs, call, x, dtype, layout))
    peer = ddpm_unet()
    if peer is not None:
        plain, pictures = UNet(PLAIN), torch.randn(batch, 3, SIDE, SIDE)
        found["calotype, plain"] = (
            plain,
            trainer(plain, lambda x, t: plain(x, t, None), pictures, dtype, last),
        )
        for name, layout in (
            ("denoising-diffusion-pytorch", last),
            ("denoising-diffusion-pytorch, contiguous", first),
        ):
            other = peer if layout == last else ddpm_unet()
            assert other is not None
            found[name] = (other, trainer(other, other, pictures, dtype, layout))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=("bf16", "float32"), default="bf16")
    parser.add_argument("--busy", action="store_true", help="on a machine that others use: count CPU seconds")
    given = parser.parse_args()
    clock = time.process_time if given.busy else time.perf_counter
    torch.set_num_threads(given.threads)
    dtype = torch.bfloat16 if given.precision == "bf16" else torch.float32
    all_of_them = competitors(given.batch, dtype)
    counts = {
        name: sum(p.numel() for p in network.parameters()) for name, (network, _) in all_of_them.items()
    }
    assert counts["calotype"] == counts["diffusers"], f"not the same network: {counts}"
    flops = {}
    for name, (_, step) in all_of_them.items():
        with FlopCounterMode(display=False) as counter:
            step()
        flops[name] = counter.get_total_flops() / given.batch
    times: dict[str, list[float]] = {name: [] for name in all_of_them}
    rates = []
    for _ in range(given.rounds):
        rates.append(matmul_rate(dtype, 1.0, clock))
        for name, (_, step) in all_of_them.items():
            start = clock()
            for _ in range(given.steps):
                step()
            times[name].append((clock() - start) / given.steps)
    speed = {name: given.batch / statistics.median(several) for name, several in times.items()}
    rate = statistics.median(rates)
    report = {
        "batch": given.batch,
        "threads": given.threads,
        "precision": given.precision,
        "seconds": "of the CPU" if given.busy else "of the clock",
        "parameters": counts,
        "gigaflops_per_image": {name: round(value / 1e9, 3) for name, value in flops.items()},
        "images_per_second": {name: round(value, 1) for name, value in speed.items()},
        "beside_diffusers": beside("calotype", "diffusers", times),
        "beside_denoising_diffusion_pytorch": beside("calotype, plain", "denoising-diffusion-pytorch", times),
        "matmul_teraflops": round(rate / 1e12, 3),
        "fraction_of_matmul_rate": round(speed["calotype"] * flops["calotype"] / rate, 3),
        "torch": torch.__version__,
    }
    print(json.dumps(report, indent=1))


def beside(ours: str, theirs: str, times: dict[str, list[float]]) -> dict[str, object] | None:
    """How many times as fast as a peer in its better layout, round by round; None where it is absent."""
    layouts = [name for name in times if name.startswith(theirs)]
    if not layouts:
        return None
    best = min(layouts, key=lambda name: statistics.median(times[name]))
    ratios = [other / own for own, other in zip(times[ours], times[best], strict=True)]
    return {
        "peer": best,
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
    }


if __name__ == "__main__":
    main()
