"""FSDP (Zhao et al. 2023, arXiv 2304.11277), by torch's `fully_shard`: weights in parts, one a process.

What trains, its moments and its averages lie in parts, so that a model may be larger than a device; a block's
weights are put together while it works.  What does not train is held by every process whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from calotype.errors import InputError, TrainingError
from calotype.networks.attention import TransformerBlock
from calotype.networks.layers import ResidualBlock


def shard(module: nn.Module, device: torch.device, processes: int) -> None:
    """From now on every process holds its part of the module's weights, which are all the same before.

    Raises InputError where there is one process alone, TrainingError where torch is too old.
    """
    if processes == 1:
        raise InputError(
            "--fsdp shares a model between processes, and this is one alone; start several: "
            "torchrun --nproc_per_node 2 -m calotype train …"
        )
    try:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
    except ImportError:
        raise TrainingError(f"--fsdp needs torch 2.6 or newer; this is {torch.__version__}.") from None
    mesh = init_device_mesh(device.type, (processes,))
    for block in [part for part in module.modules() if isinstance(part, ResidualBlock | TransformerBlock)]:
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)


def sharded(module: nn.Module) -> bool:
    """Whether each process holds a part of it."""
    return hasattr(module, "reshard")


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Within the block every process holds all weights; all of them have to come here together, and may call
    any part of the module.
    """
    parts: list[tuple[nn.Module, str, nn.Parameter]] = [
        (owner, name, value)
        for owner in module.modules()
        for name, value in owner._parameters.items()
        if value is not None and hasattr(value, "full_tensor")
    ]
    for owner, name, value in parts:
        owner._parameters[name] = nn.Parameter(whole(value.detach()), requires_grad=value.requires_grad)
    try:
        yield
    finally:
        units: list[Any] = [owner for owner in module.modules() if sharded(owner)]
        for unit in units:  # the block's forwards may have left it whole
            unit.reshard()
        for owner, name, value in parts:
            owner._parameters[name] = value


def whole(value: Tensor) -> Tensor:
    """All of a tensor that may lie in parts, on every process; all of them have to come here together."""
    gather = getattr(value, "full_tensor", None)
    return value if gather is None else gather()


def alike(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor in parts as `like` is, where it is; every process has the same one."""
    if not hasattr(like, "full_tensor"):
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
