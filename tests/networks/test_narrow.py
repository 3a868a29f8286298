"""Layers that work from weights of 16 bits: what they would give from the same weights, widened before."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from calotype.networks.convolution import Conv3x3
from calotype.networks.narrow import Linear, narrow_layers, working_dtype

SIXTEEN = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])


def both(layer: nn.Module, dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    """The layer with its weight in 16 bits, and with the same numbers in float32."""
    narrow = copy.deepcopy(layer)
    narrow.weight.data = narrow.weight.data.to(dtype)
    wide = copy.deepcopy(narrow)
    wide.weight.data = wide.weight.data.float()
    return narrow, wide


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@SIXTEEN
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7,), (2, 3, 7)])
def test_linear(shape: tuple[int, ...], bias: bool, dtype: torch.dtype) -> None:
    narrow, wide = both(Linear(7, 50, bias=bias), dtype)
    with torch.no_grad():
        made, expected = narrow(normal(*shape)), wide(normal(*shape))
    assert made.dtype == torch.float32
    assert torch.equal(made, expected)


@SIXTEEN
@pytest.mark.parametrize("side", [6, 33])  # the plain way, and Winograd's
def test_convolution(side: int, dtype: torch.dtype) -> None:
    narrow, wide = both(Conv3x3(128, 130), dtype)
    x = normal(1, 128, side, side).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        assert torch.equal(narrow(x), wide(x))
        assert isinstance(narrow, Conv3x3)
        assert isinstance(wide, Conv3x3)
        assert torch.equal(narrow.of_doubled(x), wide.of_doubled(x))


@pytest.mark.parametrize("layer", [Linear(7, 5), Conv3x3(7, 5)])
def test_widened_once_or_each_time(layer: Linear | Conv3x3) -> None:
    layer.half()
    layer.bias.data = layer.bias.data.float()  # type: ignore[union-attr]
    x = normal(2, 7) if isinstance(layer, Linear) else normal(2, 7, 3, 3)
    with torch.no_grad():
        freed: list[torch.dtype] = []
        layer.after_widening = lambda: freed.append(layer.weight.dtype)
        first, weight = layer(x), layer.weight
        assert freed == [torch.float16]
        layer.keeps = True
        assert torch.equal(layer(x), first)
        assert torch.equal(layer(x), first)
    assert layer.weight is weight  # which a twin may share
    assert weight.dtype == torch.float32
    assert freed == [torch.float16, torch.float32]


def test_gradients_pass() -> None:
    narrow, wide = both(Linear(6, 5), torch.half)
    slopes = []
    for layer in (narrow, wide):
        x = normal(3, 6).requires_grad_()
        layer(x).square().sum().backward()
        slopes.append(x.grad)
    assert torch.equal(*slopes)


def test_equal_types_and_autocast_go_the_plain_way() -> None:
    layer = Linear(6, 5)
    plain = nn.functional.linear(normal(3, 6), layer.weight, layer.bias)
    assert torch.equal(layer(normal(3, 6)), plain)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(normal(3, 6)).dtype == torch.bfloat16


def test_what_a_network_computes_in() -> None:
    network = nn.Sequential(Linear(4, 4, bias=False), nn.LayerNorm(4), Conv3x3(4, 4), nn.Conv2d(4, 4, 1))
    assert set(narrow_layers(network)) == {"0", "2"}
    network[0].half()
    assert working_dtype(network) == torch.float32
    assert working_dtype(network.double()) == torch.float64
    assert working_dtype(network[0].half(), torch.bfloat16) == torch.bfloat16  # nothing else to tell it by


def test_a_network_without_numbers_runs() -> None:
    """Whose work benchmarks count; autocast does not know its device."""
    with torch.device("meta"), torch.no_grad():
        assert Linear(6, 5)(torch.zeros(3, 6)).shape == (3, 5)
        assert Conv3x3(6, 5)(torch.zeros(1, 6, 4, 4)).shape == (1, 5, 4, 4)
