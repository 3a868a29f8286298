"""Winograd's way of a convolution beside the plain one."""

import pytest
import torch
import torch.nn.functional as F

from calotype.networks import convolution
from calotype.networks.convolution import Conv3x3, winograd


@pytest.mark.parametrize("size", [(16, 10), (15, 9), (2, 2), (1, 3)])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("biased", [True, False])
def test_it_is_the_plain_convolution(
    size: tuple[int, int], layout: torch.memory_format, biased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolution, "BLOCK_TILES", 12)  # several blocks, the last one short
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x, weight = (normal(*shape).to(memory_format=layout) for shape in ((3, 5, *size), (7, 5, 3, 3)))
    bias = normal(7) if biased else None
    plain = F.conv2d(x, weight, bias, padding=1)
    assert (winograd(x, weight, bias) - plain).abs().max() <= 1e-13 * plain.abs().max()


def test_in_float32_its_rounding_is_of_the_plain_ones_size() -> None:
    torch.manual_seed(0)
    layer, x = Conv3x3(256, 64), torch.randn(2, 256, 32, 32)
    exact = F.conv2d(x.double(), layer.weight.double(), layer.bias.double(), padding=1)  # type: ignore[union-attr]
    with torch.no_grad():
        errors = [
            float((y - exact).abs().max())
            for y in (layer(x), F.conv2d(x, layer.weight, layer.bias, padding=1))
        ]
    assert 0 < errors[0] <= 8 * errors[1]


def test_a_picture_is_the_same_to_the_bit_alone_and_beside_others() -> None:
    torch.manual_seed(0)
    layer, x = Conv3x3(64, 64), torch.randn(3, 64, 32, 34).to(memory_format=torch.channels_last)
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
    layer, large = Conv3x3(64, 64), torch.zeros(1, 64, 32, 32)
    layer(large)
    with torch.no_grad():
        layer(large[..., :31])
        layer.double()(large.double())
        layer.float()(large)
    assert taken == [(1, 64, 32, 32)]
