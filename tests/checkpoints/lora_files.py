"""LoRA files as others write them, their names taken from diffusers' and transformers' own modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

Wanted = Callable[[str], bool]
Tensors = dict[str, Tensor]


class Random:
    """Numbers of which a change of some tenths of the weight comes."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> Tensor:
        fan = shape[1] if len(shape) > 1 else 1
        return torch.randn(*shape, generator=self.generator) * 0.7 * fan**-0.5


def layers(module: nn.Module, wanted: Wanted) -> Iterator[tuple[str, nn.Linear | nn.Conv2d]]:
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and wanted(name):
            yield name, layer


def pair(layer: nn.Module, rank: int, random: Random) -> tuple[Tensor, Tensor]:
    """down, up as kohya and PEFT shape them."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    ones = [1] * (weight.ndim - 2)
    return random(rank, *weight.shape[1:]), random(weight.shape[0], rank, *ones)


def kohya(
    module: nn.Module,
    prefix: str,
    wanted: Wanted,
    random: Random,
    *,
    alpha: float | None = 2.0,
    rename: Callable[[str], str] = str,
) -> Tensors:
    """Ranks 3 and 5 in turns."""
    tensors: Tensors = {}
    for i, (name, layer) in enumerate(layers(module, wanted)):
        flat = f"{prefix}_{rename(name).replace('.', '_')}"
        down, up = pair(layer, (3, 5)[i % 2], random)
        tensors |= {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up}
        if alpha is not None:
            tensors[f"{flat}.alpha"] = torch.tensor(alpha)
    assert tensors
    return tensors


def diffusers(module: nn.Module, prefix: str, wanted: Wanted, random: Random) -> Tensors:
    tensors: Tensors = {}
    for name, layer in layers(module, wanted):
        down, up = pair(layer, 4, random)
        tensors |= {f"{prefix}.{name}.lora_A.weight": down, f"{prefix}.{name}.lora_B.weight": up}
    assert tensors
    return tensors


def write(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> Path:
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, metadata)
    return path
