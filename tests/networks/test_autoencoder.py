"""The autoencoder beside diffusers', in float64 with every parameter random, and what it promises itself."""

import dataclasses

import pytest
import torch
from tests.networks.reference import AUTOENCODER, diffusers_autoencoder, randomise, relative_error, rename
from torch import Tensor

from calotype.errors import InputError
from calotype.networks.autoencoder import Autoencoder, IdentityAutoencoder, LatentDistribution
from calotype.networks.config import AutoencoderConfig

SMALL = AutoencoderConfig(block_channels=(8, 16, 16), layers_per_block=2, norm_groups=4)
NARROW = AutoencoderConfig(
    latent_channels=6,
    block_channels=(8, 12),
    layers_per_block=1,
    norm_groups=4,
    mid_attention=False,
    scale=1.7,
    shift=0.3,
)


def pictures(channels: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.rand(3, channels, 16, 24, generator=generator, dtype=dtype) * 2 - 1


def network(config: AutoencoderConfig, dtype: torch.dtype = torch.float64) -> Autoencoder:
    net = Autoencoder(config)
    randomise(net)
    return net.to(dtype).eval()


@pytest.mark.parametrize("config", [SMALL, NARROW], ids=["attention", "no attention"])
@torch.no_grad()
def test_equals_diffusers(config: AutoencoderConfig) -> None:
    theirs = diffusers_autoencoder(config)
    ours = Autoencoder(config).double()
    ours.load_state_dict(rename(theirs.state_dict(), AUTOENCODER, to_ours=True))
    images = pictures()
    found, wanted = ours.encode(images), theirs.encode(images).latent_dist
    noise = torch.randn_like(wanted.mean)
    assert relative_error(found.raw_mean, wanted.mean) <= 1e-9
    assert relative_error(found.logvar, wanted.logvar) <= 1e-9
    assert relative_error(found.kl(), wanted.kl()) <= 1e-9
    raw = wanted.mean + wanted.std * noise
    assert relative_error(found.mode(), (wanted.mode() - config.shift) * config.scale) <= 1e-9
    assert relative_error(found.sample(noise), (raw - config.shift) * config.scale) <= 1e-9
    assert relative_error(ours.decode(found.sample(noise)), theirs.decode(raw).sample) <= 1e-9
    assert found.mean.shape[-2] * config.factor == images.shape[-2]


def test_names_go_both_ways() -> None:
    with torch.device("meta"):
        weights = Autoencoder(SMALL).state_dict()
    theirs = rename(weights, AUTOENCODER, to_ours=False)
    assert rename(theirs, AUTOENCODER, to_ours=True).keys() == weights.keys()


def test_parameter_count() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in Autoencoder(AutoencoderConfig()).parameters()) == 83_653_863


def test_log_variances_are_clamped() -> None:
    net = network(SMALL)
    with torch.no_grad():
        net.quant_conv.bias[4] = 1e4  # the first of the log variances
        net.quant_conv.bias[5] = -1e4
        logvar = net.encode(pictures()).logvar
    assert torch.all(logvar[:, 0] == 20)
    assert torch.all(logvar[:, 1] == -30)


def test_divergence_of_the_standard_normal_is_zero() -> None:
    zeros = torch.zeros(2, 4, 3, 3)
    torch.testing.assert_close(LatentDistribution(zeros, zeros).kl(), torch.zeros(2))


@pytest.mark.parametrize("config", [SMALL, NARROW], ids=["scale", "scale and shift"])
@torch.no_grad()
def test_folded_statistics(config: AutoencoderConfig) -> None:
    net, images = network(config), pictures()
    before = net.encode(images)
    decoded = net.decode(before.mode())
    noise = torch.randn_like(before.mean)
    mean, std = before.mean.mean((0, 2, 3)), before.mean.std((0, 2, 3))
    net.fold_statistics(mean, std)

    after = net.encode(images)
    torch.testing.assert_close(after.mean.mean((0, 2, 3)), torch.zeros_like(mean), rtol=0, atol=1e-12)
    torch.testing.assert_close(after.mean.std((0, 2, 3)), torch.ones_like(std))
    channels = (slice(None), None, None)
    wanted = (before.sample(noise) - mean[channels]) / std[channels]
    assert relative_error(after.sample(noise), wanted) <= 1e-12
    assert relative_error(net.decode(after.mode()), decoded) <= 1e-12


@torch.no_grad()
def test_rows_of_a_batch_know_nothing_of_each_other() -> None:
    net, images = network(SMALL), pictures()
    together = net.decode(net.encode(images).mode())
    for row in range(3):
        alone = net.decode(net.encode(images[row : row + 1]).mode())
        assert relative_error(alone, together[row : row + 1]) <= 1e-12


def test_trains_in_bfloat16() -> None:
    net = network(SMALL, torch.float32).to(memory_format=torch.channels_last)
    images = pictures(dtype=torch.float32).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        latents = net.encode(images)
        decoded = net.decode(latents.sample(torch.randn_like(latents.mean)))
    assert latents.mean.dtype == torch.float32
    assert decoded.dtype == torch.bfloat16
    assert decoded.is_contiguous(memory_format=torch.channels_last)
    (decoded.float().square().mean() + 1e-6 * latents.kl().mean()).backward()
    for parameter in net.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


def test_fresh_weights() -> None:
    nets = [Autoencoder(SMALL) for _ in range(2)]
    for net in nets:
        net.initialise(torch.Generator().manual_seed(5))
    decoded = nets[0].decode(nets[0].encode(pictures(dtype=torch.float32)).mode())
    assert 0.1 < decoded.std() < 10
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_picture_that_does_not_divide_is_refused() -> None:
    with pytest.raises(InputError, match=r"24x15 pixels.*multiples of 4"):
        Autoencoder(SMALL).encode(torch.zeros(1, 3, 15, 24))


def test_a_config_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="norm_groups=32"):
        dataclasses.replace(SMALL, norm_groups=32)


def test_identity() -> None:
    net, images = IdentityAutoencoder(3), pictures()
    latents = net.encode(images)
    assert net.config.factor == 1
    assert torch.equal(net.decode(latents.mode()), images)
    assert relative_error(latents.sample(torch.randn_like(images)), images) <= 1e-5
