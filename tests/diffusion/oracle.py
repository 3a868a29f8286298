"""Data whose denoiser is known exactly, a mixture of isotropic Gaussians, and what follows samplers on it."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class Mixture:
    """sum_k weight_k N(mean_k, std_k^2 I) over pictures of one shape, in float64."""

    def __init__(self, means: Tensor, stds: Sequence[float], weights: Sequence[float]) -> None:
        self.means = means.double()  # (K C H W)
        self.stds = torch.tensor(stds, dtype=torch.float64)  # (K)
        self.weights = torch.tensor(weights, dtype=torch.float64)  # (K)

    @classmethod
    def example(cls, *shape: int) -> "Mixture":
        generator = torch.Generator().manual_seed(3)
        means = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
        return cls(means, [0.3, 0.6, 0.15], [0.5, 0.2, 0.3])

    @classmethod
    def line(cls) -> "Mixture":
        """One number a picture, so that its probability flow is known too."""
        means = torch.tensor([-1.0, 0.4, 1.5]).reshape(3, 1, 1, 1)
        return cls(means, [0.5, 0.3, 0.4], [0.4, 0.35, 0.25])

    def _log_parts(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        variance = self.stds**2 + sigma[:, None] ** 2  # (B K)
        distance = (x[:, None] - self.means).flatten(2).square().sum(2)  # (B K)
        size = self.means[0].numel()
        return self.weights.log() - distance / (2 * variance) - size / 2 * torch.log(
            2 * math.pi * variance
        ), variance

    def log_density(self, x: Tensor, sigma: Tensor) -> Tensor:
        """(B C H W), (B) -> (B): of x0 + sigma * noise."""
        return self._log_parts(x, sigma)[0].logsumexp(1)

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | x] exactly: every component's own posterior mean, by its posterior weight."""
        parts, variance = self._log_parts(x, sigma)
        shrink = (self.stds**2 / variance)[..., None, None, None]  # (B K 1 1 1)
        means = self.means + shrink * (x[:, None] - self.means)  # (B K C H W)
        return (parts.softmax(1)[..., None, None, None] * means).sum(1)

    def sample(self, count: int, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        which = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, *self.means.shape[1:], generator=generator, dtype=torch.float64)
        return self.means[which] + self.stds[which][:, None, None, None] * noise

    def cdf(self, x: Tensor, sigma: float) -> Tensor:
        """(N) -> (N), of one-number pictures."""
        deviation = (self.stds**2 + sigma**2).sqrt()
        return (self.weights * torch.special.ndtr((x[:, None] - self.means.flatten()) / deviation)).sum(1)

    def flow(self, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
        """Where the probability flow takes one-number pictures: in one dimension it keeps their quantile."""
        chance = self.cdf(x.flatten(), sigma)
        low, high = torch.full_like(chance, -1e3), torch.full_like(chance, 1e3)
        for _ in range(100):
            middle = (low + high) / 2
            below = self.cdf(middle, sigma_next) < chance
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return ((low + high) / 2).reshape(x.shape)


class NoNoise:
    """A noise source that must not be asked."""

    def __call__(self, x: Tensor) -> Tensor:  # noqa: ARG002
        raise AssertionError("a deterministic sampler drew noise")


class Coefficients:
    """Turns rows into coefficients: draw k is 1 in row k + 1 and 0 elsewhere.

    A sampler of a linear denoiser, started from 1 in row 0, then ends with the weight of every noise it has
    drawn, and the sum of squares over the rows is the exact variance of what it samples.
    """

    def __init__(self) -> None:
        self.draws = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.draws += 1
        noise = torch.zeros_like(x)
        noise[self.draws] = 1
        return noise


class Recorded:
    """Noise from torch's own generator, for comparison with libraries that draw it so."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=self.generator, dtype=x.dtype)


def unit(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """The same unit noise in every run of a test."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def fitted_slope(counts: Sequence[int], errors: Sequence[float]) -> float:
    """The order p in error = c * count^-p, by least squares on logarithms."""
    n = torch.tensor(counts, dtype=torch.float64).log()
    e = torch.tensor(errors, dtype=torch.float64).log()
    n, e = n - n.mean(), e - e.mean()
    return -float((n * e).sum() / (n * n).sum())
