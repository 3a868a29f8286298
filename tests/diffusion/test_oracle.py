"""The oracle itself, against what it is made of: Tweedie's formula, quadrature, and its own flow."""

import torch
from oracle import Mixture


def test_denoiser_is_tweedies() -> None:
    mixture = Mixture.example(2, 3, 3)
    for level in (0.05, 0.7, 9.0):
        sigma = torch.full((8,), level, dtype=torch.float64)
        x = (mixture.sample(8) + level * mixture.sample(8, seed=1)).requires_grad_()
        (score,) = torch.autograd.grad(mixture.log_density(x, sigma).sum(), x)
        torch.testing.assert_close(mixture.denoise(x, sigma), x + level**2 * score, rtol=1e-11, atol=1e-11)


def test_density_and_cdf_agree() -> None:
    mixture = Mixture.line()
    x = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    density = mixture.log_density(x.reshape(-1, 1, 1, 1), torch.full_like(x, 0.8)).exp()
    integral = torch.cumulative_trapezoid(density, x)
    torch.testing.assert_close(integral, mixture.cdf(x[1:], 0.8) - mixture.cdf(x[:1], 0.8), rtol=0, atol=1e-6)


def test_flow_solves_the_equation() -> None:
    mixture = Mixture.line()
    x = torch.linspace(-3, 3, 9, dtype=torch.float64).reshape(-1, 1, 1, 1)
    ahead, behind = mixture.flow(x, 1.0, 1.0001), mixture.flow(x, 1.0, 0.9999)
    slope = x - mixture.denoise(x, torch.ones(9, dtype=torch.float64))
    torch.testing.assert_close((ahead - behind) / 2e-4, slope, rtol=1e-6, atol=1e-8)
