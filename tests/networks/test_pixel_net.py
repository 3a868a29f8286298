"""The pixel network: any size, bounded reach, small enough to ship."""

import pytest
import torch

from calotype.errors import InputError
from calotype.models.pixel_diffusion import PixelDenoiser, build_pixel, photo, tiny_photo
from calotype.networks.config import PixelNetConfig
from calotype.networks.pixel_net import PixelNet


def random_net(config: PixelNetConfig) -> PixelNet:
    generator = torch.Generator().manual_seed(1)
    net = PixelNet(config, generator)
    with torch.no_grad():
        for parameter in net.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 16
            parameter += 0.5 * fan_in**-0.5 * torch.randn(parameter.shape, generator=generator)
    return net


def test_photo_fits_its_file() -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in PixelDenoiser(photo()).parameters())
    assert 2 * count < 8e6


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (16, 16), (17, 40)])
def test_any_size(size: tuple[int, int]) -> None:
    net = random_net(tiny_photo().network)
    x = torch.randn(2, 3, *size)
    assert net(x, torch.zeros(2)).shape == x.shape


def test_it_begins_as_its_skip() -> None:
    """Before training the network is silent, and the denoiser is the best one for Gaussian data."""
    model = build_pixel(tiny_photo())
    x, sigma = torch.randn(2, 3, 8, 8), torch.tensor([0.5, 2.0])
    expected = x * (0.25 / (0.25 + sigma**2))[:, None, None, None]
    torch.testing.assert_close(model.denoiser(x, sigma), expected)


def test_a_far_change_is_not_seen() -> None:
    """What is further away than the convolutions reach changes nothing, to the bit."""
    net = random_net(tiny_photo().network)
    x = torch.randn(1, 3, 32, 160)
    y = x.clone()
    y[..., 120:] = 3.0
    with torch.no_grad():
        assert torch.equal(net(x, torch.zeros(1))[..., :56], net(y, torch.zeros(1))[..., :56])


def test_the_noise_level_is_heard() -> None:
    net = random_net(tiny_photo().network)
    x = torch.randn(1, 3, 8, 8).expand(2, -1, -1, -1)
    a, b = net(x, torch.tensor([-0.5, -0.49])).detach()
    assert float((a - b).abs().max()) > 1e-4


def test_uneven_sizes_are_refused() -> None:
    with pytest.raises(InputError, match="as many widths as blocks"):
        PixelNet(PixelNetConfig(widths=(8, 16), blocks=(1,)))
