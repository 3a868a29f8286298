"""Training speed of the icons U-Net beside diffusers' UNet2DConditionModel of the same sizes.

Both are trained by the same loop on the same random latents, alternately in one run, and compared as a
ratio; the machine's measured bf16 matmul rate gives the fraction of it that training reaches.

    python benchmarks/training.py [--batch 128] [--rounds 5] [--steps 4] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from calotype.models.presets import icons
from calotype.networks.unet import UNet, UNetConfig


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


def matmul_rate(seconds: float = 2.0) -> float:
    """FLOP/s of a large bf16 matrix product."""
    a = torch.randn(2048, 2048, dtype=torch.bfloat16)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        a @ a
        count += 1
    return count * 2 * 2048**3 / (time.perf_counter() - start)


def trainer(
    network: nn.Module, call: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor], batch: int
) -> Callable[[], None]:
    """One optimiser step on fixed random data."""
    config = icons()
    assert config.autoencoder is not None
    side, width = config.size // config.factor, config.unet.context_width
    network.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    x = torch.randn(batch, config.unet.in_channels, side, side).to(memory_format=torch.channels_last)
    label, context = torch.rand(batch) * 1000, torch.randn(batch, config.text[0].clip.context_length, width)
    pooled = config.unet.vector_width
    vector = None if pooled is None else torch.randn(batch, pooled)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = (call(x, label, context, vector).float() - x).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    config = icons().unet
    ours, theirs = UNet(config), diffusers_unet(config)
    count = [sum(p.numel() for p in network.parameters()) for network in (ours, theirs)]
    assert count[0] == count[1], f"not the same network: {count}"
    steps = {
        "calotype": trainer(ours, lambda x, t, text, pooled: ours(x, t, text, vector=pooled), given.batch),
        "diffusers": trainer(
            theirs, lambda x, t, text, pooled: theirs(x, t, text, class_labels=pooled).sample, given.batch
        ),
    }
    with FlopCounterMode(display=False) as counter:
        steps["calotype"]()
    flops = counter.get_total_flops() / given.batch
    steps["diffusers"]()
    times: dict[str, list[float]] = {name: [] for name in steps}
    rates = []
    for _ in range(given.rounds):
        rates.append(matmul_rate(1.0))
        for name, step in steps.items():
            start = time.perf_counter()
            for _ in range(given.steps):
                step()
            times[name].append((time.perf_counter() - start) / given.steps)
    speed = {name: given.batch / statistics.median(several) for name, several in times.items()}
    ratios = [theirs / ours for ours, theirs in zip(times["calotype"], times["diffusers"], strict=True)]
    rate = statistics.median(rates)
    report = {
        "batch": given.batch,
        "threads": given.threads,
        "parameters": count[0],
        "gigaflops_per_image": round(flops / 1e9, 3),
        "images_per_second": {name: round(value, 1) for name, value in speed.items()},
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
        "matmul_teraflops": round(rate / 1e12, 3),
        "fraction_of_matmul_rate": round(speed["calotype"] * flops / rate, 3),
        "torch": torch.__version__,
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
