from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn

from calotype.training.ema import Ema, exponent_of


@pytest.mark.parametrize("length", [0.05, 0.10, 0.20])
def test_exponent_gives_the_asked_width(length: float) -> None:
    gamma = exponent_of(length)
    assert (gamma + 1) ** 0.5 / ((gamma + 2) * (gamma + 3) ** 0.5) == pytest.approx(length, rel=1e-9)


def test_average_weights_step_t_by_t_to_the_gamma() -> None:
    layer = nn.Linear(1, 1, bias=False).double()
    ema = Ema(layer, 0.1)
    values = torch.randn(200, dtype=torch.float64)
    for step, value in enumerate(values, start=1):
        layer.weight.data.fill_(value)
        ema.update(step)
    # (1 - 1/t)^(gamma + 1) = ((t - 1)/t)^(gamma + 1): the telescoped weights are t^(g+1) - (t-1)^(g+1)
    ladder = torch.arange(201, dtype=torch.float64) ** (ema.gamma + 1)
    weights = ladder.diff() / ladder[-1]
    assert float(ema.average["weight"]) == pytest.approx(float((weights * values).sum()), rel=1e-9)


def test_applied_puts_the_weights_back_to_the_bit() -> None:
    layer = nn.Linear(3, 2)
    ema = Ema(layer, 0.1)
    ema.update(1)
    before = layer.weight.detach().clone()
    layer.weight.data.mul_(1.1)
    changed = layer.weight.detach().clone()
    with contextlib.suppress(RuntimeError), ema.applied():
        assert torch.equal(layer.weight, before)
        raise RuntimeError
    assert torch.equal(layer.weight, changed)
