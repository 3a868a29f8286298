"""Muon against its definition, and which parameters it is given."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from calotype.training.config import TrainConfig
from calotype.training.loop import new_optimizer
from calotype.training.muon import RMS, Muon, orthogonal


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(24, 24), (16, 80), (80, 16)])
def test_singular_values_come_near_one_and_directions_stay(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(shape, generator=generator)
    found = orthogonal(matrix, dtype)
    values = torch.linalg.svdvals(found)
    assert values.max() < 1.3
    assert values[: min(shape) // 2].min() > 0.6
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    rotated = u.T @ found @ vh.T  # diagonal where the singular vectors are those of the matrix
    off = rotated - torch.diag(rotated.diagonal())
    assert off.abs().max() < 0.1


class Small(nn.Module):
    not_for_muon = ("enter.",)

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 8)
        self.enter = nn.Conv2d(3, 8, 3)
        self.hidden = nn.Conv2d(8, 8, 3)
        self.leave = nn.Linear(8, 4)


def test_tables_ends_and_vectors_stay_with_adamw() -> None:
    module = Small().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    config = TrainConfig(optimizer="muon", learning_rate=0.01, weight_decay=0.0, precision="float32")
    optimizer = new_optimizer(config, module)
    assert isinstance(optimizer, Muon)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()
    moments = {name: set(optimizer.state[p]) for name, p in module.named_parameters()}
    assert {name for name, keys in moments.items() if keys == {"momentum"}} == {
        "hidden.weight",
        "leave.weight",
    }
    moved = module.hidden.weight.detach() - before["hidden.weight"]
    assert moved.square().mean().sqrt().item() == pytest.approx(0.01 * RMS, rel=0.15)
    assert not torch.equal(module.table.weight.detach(), before["table.weight"])


def test_adamw_is_what_it_was() -> None:
    assert isinstance(new_optimizer(TrainConfig(), Small()), torch.optim.AdamW)
