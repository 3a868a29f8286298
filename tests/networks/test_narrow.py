"""Layers that work from weights of 16 bits: what they would give from the same weights, widened before."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from calotype.networks import narrow, processor
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
        (Conv2d(60, 50, 1), (2, 60, 7, 6)),
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
    made = layer(x)
    assert torch.equal(made, expected.to(dtype)) or isinstance(layer, Conv2d)  # its kernels may sum otherwise
    torch.testing.assert_close(made.float(), expected, rtol=torch.finfo(dtype).eps, atol=1e-4)
    layer.weight.data = layer.weight.data.to(torch.bfloat16 if dtype == torch.float16 else torch.float16)
    assert layer(x).dtype == dtype
    layer.weight.data = layer.weight.data.to(dtype)
    with torch.autocast("cpu", dtype):  # which emulates, where somebody asks for it
        assert layer(x).dtype == dtype
    monkeypatch.setattr(processor, "UNITS", processor.OF_BF16 | processor.OF_FP16)
    plain = nn.Linear.forward if isinstance(layer, Linear) else nn.Conv2d.forward
    assert torch.equal(layer(x), plain(layer, x))  # type: ignore[arg-type]


@torch.no_grad()
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_in_float32_some_rows_at_once(layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch) -> None:
    bf16, seen = torch.bfloat16, []

    class Watched(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            made = function(*args, **(kwargs or {}))
            if isinstance(made, Tensor) and made.dtype == torch.float32:
                seen.append(made.numel())
            return made

    monkeypatch.setattr(narrow, "ROWS", 7)
    monkeypatch.setattr(narrow, "NUMBERS", 30)
    monkeypatch.setattr(processor, "UNITS", frozenset())
    for layer, shape in ((Linear(5, 6), (3, 11, 5)), (Conv2d(5, 6, 1), (3, 5, 4, 3)), (Linear(5, 6), (0, 5))):
        layer.to(bf16)
        x = normal(*shape).to(bf16)
        x = x.to(memory_format=layout) if x.ndim == 4 else x
        expected = copy.deepcopy(layer).float()(x.float())
        with Watched():
            made = layer(x)
        assert made.shape == expected.shape
        torch.testing.assert_close(made.float(), expected, rtol=torch.finfo(bf16).eps, atol=1e-4)
    assert max(seen) <= 7 * 6


@torch.no_grad()
@pytest.mark.parametrize("keeps", [True, False])
def test_it_compiles(keeps: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "UNITS", frozenset())
    network = nn.Sequential(Conv2d(4, 6, 1), Conv3x3(6, 5), nn.Flatten(2), Linear(20, 3)).to(torch.bfloat16)
    for layer in narrow_layers(network).values():
        layer.weight.data, layer.keeps = layer.weight.data.half(), keeps
    x = normal(2, 4, 4, 5).bfloat16()
    expected = network(x)
    made = torch.compile(network, fullgraph=True, backend="eager")(x)
    torch.testing.assert_close(made, expected, rtol=0.02, atol=0.02)


def test_a_convolution_goes_over_edges_and_groups_as_it_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    x = normal(2, 4, 5, 6)
    for how in ({"padding": 1, "padding_mode": "replicate"}, {"groups": 2}, {"dilation": 2}):
        for kernel in (3, 1):
            layer = Conv2d(4, 6, kernel, **how)  # type: ignore[arg-type]
            expected = nn.Conv2d.forward(layer, x)
            assert torch.equal(layer(x), expected)
            with monkeypatch.context() as patch:
                patch.setattr(processor, "UNITS", frozenset())
                made = layer.bfloat16()(x.bfloat16())
            assert (made - expected).norm() < 0.01 * expected.norm()


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
