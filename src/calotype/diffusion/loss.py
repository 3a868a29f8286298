"""What training asks of a network at a noise level, and which levels it is asked at.

The squared error is taken on the network's own output; since D - x0 = out * (network - target), a weight w
on the clean picture's squared error is a weight w * out^2 there, for every parameterization alike.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from calotype.diffusion.parameterization import Parameterization, expand
from calotype.diffusion.schedule import Schedule

Weighting = Callable[[Tensor, Tensor], Tensor]
"""(sigma (B), out (B)) -> (B): the weight of the network output's squared error."""


def even(sigma: Tensor, out: Tensor) -> Tensor:  # noqa: ARG001
    """Weight 1 on the network's output: DDPM's simple loss, flow matching's, and EDM's lambda(sigma)."""
    return torch.ones_like(out)


def min_snr(gamma: float = 5.0) -> Weighting:
    """Min-SNR (arXiv 2303.09556): min(SNR, gamma) on the clean picture, with SNR = 1 / sigma^2.

    On the network's output that is min(SNR, gamma) / SNR for eps and min(SNR, gamma) / (SNR + 1) for v.
    """

    def weight(sigma: Tensor, out: Tensor) -> Tensor:
        return (1 / sigma**2).clamp(max=gamma) * out**2

    return weight


def logit_normal(mean: float = 0.0, std: float = 1.0) -> Weighting:
    """The density of a logit-normal flow time (arXiv 2403.03206, eq. 19), as a weight on uniform times."""

    def weight(sigma: Tensor, out: Tensor) -> Tensor:  # noqa: ARG001
        # t = sigma / (1 + sigma), so logit t = ln sigma and 1 / (t (1 - t)) = (1 + sigma)^2 / sigma
        bell = torch.exp(-((sigma.log() - mean) ** 2) / (2 * std**2)) / (std * math.sqrt(2 * math.pi))
        return bell * (1 + sigma) ** 2 / sigma

    return weight


def uniform_sigmas(schedule: Schedule, uniforms: Tensor, shift: float = 1.0) -> Tensor:
    """Noise levels of uniformly drawn whole steps, times `shift` as far as the schedule goes:
    uniforms (B) in (0, 1) to sigmas (B) in float32 (simple diffusion, arXiv 2301.11093, section 2.1).
    """
    count = schedule.last - schedule.first + 1
    sigmas = schedule.sigma_at(schedule.first + (uniforms.double() * count).floor()) * shift
    return sigmas.clamp(schedule.sigma_min, schedule.sigma_max).float()


def log_normal_sigmas(normals: Tensor, mean: float, std: float, shift: float = 1.0) -> Tensor:
    """ln sigma ~ N(mean, std^2), times `shift`: standard normals (B) to sigmas (B) in float32.

    EDM's levels (arXiv 2206.00364, table 1: mean -1.2, std 1.2), and just as well flow's logit-normal
    times (arXiv 2403.03206: mean 0, std 1), for logit t = ln sigma.
    """
    return (shift * torch.exp(mean + std * normals.double())).float()


def mixed_sigmas(
    which: Tensor, place: Tensor, fine_share: float, fine: float, lowest: float, highest: float
) -> Tensor:
    """Levels of a pixel denoiser: with probability `fine_share` uniform from `lowest` to `fine`, as denoisers
    are trained (DRUNet, arXiv 2008.13751), else uniform in the logarithm from `lowest` to `highest`.

    which, place: uniforms (B) in (0, 1), what decides and what is drawn.  (B) float32.
    """
    even_levels = lowest + (fine - lowest) * place.double()
    spread = lowest * (highest / lowest) ** place.double()
    return torch.where(which < fine_share, even_levels, spread).float()


def diffusion_loss(
    network: Callable[[Tensor, Tensor], Tensor],
    parameterization: Parameterization,
    x0: Tensor,
    noise: Tensor,
    sigma: Tensor,
    weighting: Weighting = even,
) -> Tensor:
    """(B) losses of a raw network `(input (B C H W), noise_label (B)) -> (B C H W)` at x0 + sigma * noise.

    Args:
        x0: (B C H W) clean pictures or latents, float32.
        noise: (B C H W) unit noise.
        sigma: (B) noise levels.
    """
    c = parameterization.coefficients(sigma)
    x = x0 + expand(sigma, x0) * noise
    raw = network(expand(c.input, x) * x, c.noise_label)
    error = raw.to(x0.dtype) - parameterization.target(x0, noise, sigma)
    # (B C H W) -> (B)
    return weighting(sigma, c.out) * error.square().flatten(1).mean(1)
