"""Layers that work from weights of 16 bits: what they would give from the same weights, widened before."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from calotype.networks import processor
from calotype.networks.convolution import Conv3x3
from calotype.networks.lora import Adapter, LowRank
from calotype.networks.narrow import Conv2d, Linear, form, narrow_layers, working_dtype

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


@SIXTEEN
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (Linear(600, 50), (2, 3, 600)),
        (Linear(600, 50, bias=False), (600,)),
        (Conv2d(60, 50, 3, stride=2, padding=1), (2, 60, 7, 6)),
        (Conv3x3(60, 50), (2, 60, 7, 6)),
    ],
)
def test_16_bits_that_would_be_emulated_are_multiplied_in_float32(
    layer: Linear | Conv2d, shape: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = copy.deepcopy(layer).to(dtype)
    wide = copy.deepcopy(layer).float()
    wide.weight.data = wide.weight.data.contiguous(memory_format=form(wide.weight))
    x = normal(*shape).to(dtype)
    expected = wide(x.float())
    monkeypatch.setattr(processor, "UNITS", frozenset())
    assert torch.equal(layer(x), expected.to(dtype))
    layer.weight.data = layer.weight.data.to(torch.bfloat16 if dtype == torch.float16 else torch.float16)
    assert layer(x).dtype == dtype
    layer.weight.data = layer.weight.data.to(dtype)
    with torch.autocast("cpu", dtype):  # which emulates, where somebody asks for it
        assert layer(x).dtype == dtype
    monkeypatch.setattr(processor, "UNITS", processor.OF_BF16 | processor.OF_FP16)
    emulated = layer(x)
    assert (emulated - expected).norm() < 0.01 * expected.norm()


@SIXTEEN
def test_so_are_loras_beside_them(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(Conv2d(6, 6, 3, padding=1), Conv3x3(6, 6)).to(dtype)
    wide = copy.deepcopy(network).float()
    changes = {
        "0": LowRank(normal(2, 6, 3, 3), normal(6, 2), 0.1),
        "1": LowRank(normal(2, 6, 1, 1), normal(6, 2), 0.1, mid=normal(2, 2, 3, 3)),
    }
    x = normal(1, 6, 5, 5).to(dtype)
    for one in (network, wide):
        Adapter(one).apply([(changes, 1.0)], live=True)
    monkeypatch.setattr(processor, "UNITS", frozenset())
    with torch.no_grad():
        made, expected = network(x), wide(x.float())
    assert made.dtype == dtype
    assert (made - expected).norm() < 0.02 * expected.norm()


def test_gradients_pass_through_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "UNITS", frozenset())
    layer = Linear(6, 5).bfloat16()
    x = normal(3, 6).bfloat16().requires_grad_()
    layer(x).square().sum().backward()
    wide = x.detach().float().requires_grad_()
    copy.deepcopy(layer).float()(wide).square().sum().backward()
    assert x.grad is not None
    assert wide.grad is not None
    assert (x.grad - wide.grad).norm() < 0.01 * wide.grad.norm()
