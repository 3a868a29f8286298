import pytest
import torch
from oracle import Mixture
from torch import Tensor

from calotype.diffusion.grids import karras
from calotype.diffusion.masking import keep_known
from calotype.diffusion.noise import PictureNoise
from calotype.diffusion.samplers import SAMPLERS

MIXTURE = Mixture.example(2, 4, 4)
KNOWN = MIXTURE.sample(3)
MASK = torch.zeros(3, 1, 4, 4, dtype=torch.float64)
MASK[..., 2:] = 1
GRID = karras(12, 0.03, 14.0)


def noise() -> Tensor:
    return PictureNoise([1, 2, 3])(KNOWN)


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_is_known_stays(name: str) -> None:
    denoiser = keep_known(MIXTURE.denoise, KNOWN, MASK, noise())
    *_, last = SAMPLERS[name](denoiser, KNOWN + 14 * noise(), GRID, PictureNoise([1, 2, 3], draw=1))
    rounding = 1e-12 if name in ("lms", "plms") else 0
    torch.testing.assert_close(last.x[..., :2], KNOWN[..., :2], rtol=0, atol=rounding)
    assert (last.x[..., 2:] - KNOWN[..., 2:]).abs().min() > 0


@pytest.mark.parametrize("name", ["euler", "ddim", "heun", "lms", "dpmpp_2m"])
def test_the_kept_part_is_what_the_network_is_shown(name: str) -> None:
    denoiser = keep_known(MIXTURE.denoise, KNOWN, MASK, noise())
    for step in SAMPLERS[name](denoiser, KNOWN + 14 * noise(), GRID, PictureNoise([1, 2, 3], draw=1)):
        expected = KNOWN + step.sigma_next * noise()
        torch.testing.assert_close(step.x[..., :2], expected[..., :2], rtol=1e-12, atol=1e-12)


def test_the_network_sees_the_known_at_its_level() -> None:
    seen: list[Tensor] = []

    def network(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append(x)
        return MIXTURE.denoise(x, sigma)

    x, sigma = torch.full_like(KNOWN, 5.0), torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    keep_known(network, KNOWN, MASK, noise())(x, sigma)
    expected = KNOWN + sigma[:, None, None, None] * noise()
    assert torch.equal(seen[0][..., :2], expected[..., :2])
    assert torch.equal(seen[0][..., 2:], x[..., 2:])


def test_whole_and_soft_masks() -> None:
    sigma = torch.ones(3, dtype=torch.float64)
    x = KNOWN + noise()
    free = MIXTURE.denoise(x, sigma)
    assert torch.equal(keep_known(MIXTURE.denoise, KNOWN, torch.ones_like(MASK), noise())(x, sigma), free)
    assert torch.equal(keep_known(MIXTURE.denoise, KNOWN, 0 * MASK, noise())(x, sigma), KNOWN)
    half = keep_known(MIXTURE.denoise, KNOWN, torch.full_like(KNOWN, 0.5), noise())(x, sigma)
    torch.testing.assert_close(half, (free + KNOWN) / 2)
