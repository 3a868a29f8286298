"""Winograd's way of a convolution beside the plain one."""

import pytest
import torch
import torch.nn.functional as F

from calotype.networks import convolution, processor
from calotype.networks.convolution import Conv3x3, at_corners, winograd
from calotype.networks.layers import Upsample
from calotype.networks.lora import Adapter, LowRank


@pytest.mark.parametrize("size", [(16, 10), (15, 9), (2, 2), (1, 3)])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("biased", [True, False])
def test_it_is_the_plain_convolution(
    size: tuple[int, int], layout: torch.memory_format, biased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolution, "BLOCK_PIXELS", 100)  # several blocks, the last one short
    monkeypatch.setattr(convolution, "KERNEL_BYTES", 3 * 5 * 36 * 8)  # three of seven channels at once
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x, weight = (normal(*shape).to(memory_format=layout) for shape in ((3, 5, *size), (7, 5, 3, 3)))
    bias = normal(7) if biased else None
    plain, found = F.conv2d(x, weight, bias, padding=1), winograd(x, weight, bias)
    assert (found - plain).abs().max() <= 1e-13 * plain.abs().max()
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", [(8, 5), (3, 3), (1, 2)])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_of_a_doubled_map_it_is_the_plain_convolution(
    size: tuple[int, int], layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolution, "BLOCK_PIXELS", 48)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, *size, generator=generator, dtype=torch.float64).to(memory_format=layout)
    weight = torch.randn(7, 5, 3, 3, generator=generator, dtype=torch.float64).to(memory_format=layout)
    bias = torch.randn(7, generator=generator, dtype=torch.float64)
    plain = F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), weight, bias, padding=1)
    assert (winograd(x, weight, bias, doubled=True) - plain).abs().max() <= 1e-13 * plain.abs().max()


@torch.no_grad()
def test_doubling_goes_by_it_and_a_lora_beside_the_layer_is_heard() -> None:
    torch.manual_seed(0)
    up, x = Upsample(64), torch.randn(1, 64, 8, 9)
    plain = F.conv2d(F.interpolate(x, scale_factor=2.0), up.conv.weight, up.conv.bias, padding=1)
    assert 0 < (up(x) - plain).abs().max() <= 1e-5 * plain.abs().max()
    change = LowRank(torch.randn(2, 64, 3, 3), torch.randn(64, 2), 0.1)
    merged, live = Adapter(up), Adapter(up)
    merged.apply([({"conv": change}, 1.0)])
    wanted = up(x)
    merged.remove()
    live.apply([({"conv": change}, 1.0)], live=True)
    assert (up(x) - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    assert (wanted - plain).abs().max() > 0.1


def test_in_float32_its_rounding_is_of_the_plain_ones_size() -> None:
    torch.manual_seed(0)
    layer, x = Conv3x3(256, 128), torch.randn(2, 256, 32, 32)
    exact = F.conv2d(x.double(), layer.weight.double(), layer.bias.double(), padding=1)  # type: ignore[union-attr]
    with torch.no_grad():
        errors = [
            float((y - exact).abs().max())
            for y in (layer(x), F.conv2d(x, layer.weight, layer.bias, padding=1))
        ]
    assert 0 < errors[0] <= 2 * errors[1]


def test_a_picture_is_the_same_to_the_bit_alone_and_beside_others() -> None:
    torch.manual_seed(0)
    layer, x = Conv3x3(128, 128), torch.randn(3, 128, 32, 34).to(memory_format=torch.channels_last)
    with torch.no_grad():
        assert torch.equal(layer(x)[1:2], layer(x[1:2]))


def test_it_is_taken_for_large_maps_in_float32_without_gradients_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken = []

    def seen(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        taken.append(x.shape)
        return F.conv2d(x, weight, bias, padding=1)

    monkeypatch.setattr(convolution, "winograd", seen)
    layer, large = Conv3x3(128, 128), torch.zeros(1, 128, 32, 32)
    layer(large)
    with torch.no_grad():
        layer(large[..., :31])
        layer.double()(large.double())
        layer.float()(large)
    assert taken == [(1, 128, 32, 32)]


@pytest.mark.parametrize("size", [(8, 5), (1, 2)])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("biased", [True, False])
def test_by_its_corners_a_doubled_map_is_convolved_as_plainly(
    size: tuple[int, int], layout: torch.memory_format, biased: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, *size, generator=generator, dtype=torch.float64).to(memory_format=layout)
    weight = torch.randn(7, 5, 3, 3, generator=generator, dtype=torch.float64).to(memory_format=layout)
    bias = torch.randn(7, generator=generator, dtype=torch.float64) if biased else None
    plain = F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), weight, bias, padding=1)
    found = at_corners(x, weight, bias)
    assert (found - plain).abs().max() <= 1e-13 * plain.abs().max()
    assert found.is_contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def test_16_bits_of_layers_that_work_once_go_by_corners(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the file's own numbers, so that it is no less exact than the plain way with rounded ones."""
    generator = torch.Generator().manual_seed(0)
    layer = Conv3x3(64, 64).bfloat16()
    layer.weight.data = torch.randn(64, 64, 3, 3, generator=generator).half() / 24
    x = torch.randn(1, 64, 8, 8, generator=generator).bfloat16().contiguous(memory_format=torch.channels_last)
    doubled = F.interpolate(x.double(), scale_factor=2.0, mode="nearest")
    assert layer.bias is not None
    exact = F.conv2d(doubled, layer.weight.double(), layer.bias.double(), padding=1)
    monkeypatch.setattr(convolution, "LEAST_CORNERS", (256, 64))
    monkeypatch.setattr(processor, "multiplies_bf16", lambda: True)

    def error() -> float:
        return float((layer.of_doubled(x) - exact).norm() / exact.norm())

    plainly = error()
    layer.rarely = True
    read: list[torch.dtype] = []
    layer.after_widening = lambda: read.append(layer.weight.dtype)
    by_corners = error()
    assert read == [torch.float16]
    assert by_corners != plainly
    assert by_corners <= 1.02 * plainly < 0.005


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bits_that_would_be_emulated_go_by_it_in_float32(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "UNITS", frozenset())
    torch.manual_seed(0)
    layer = Conv3x3(128, 130).to(dtype)
    x = torch.randn(2, 128, 33, 32).to(dtype, memory_format=torch.channels_last)
    weight, bias = layer.weight.float(), layer.bias.float()  # type: ignore[union-attr]
    assert torch.equal(layer(x), winograd(x.float(), weight, bias).to(dtype))
    assert torch.equal(layer.of_doubled(x), winograd(x.float(), weight, bias, doubled=True).to(dtype))
    assert torch.equal(layer(x)[1:], layer(x[1:]))
    monkeypatch.setattr(convolution, "KERNEL_BYTES", 40 * 128 * 36 * 4)  # some of the channels at once
    assert torch.equal(layer(x), winograd(x.float(), weight, bias).to(dtype))
