"""Measured denoisers against closed forms: Gaussian data, and a mixture whose posterior is known exactly."""

import pytest
import torch
from oracle import unit
from torch import Tensor

from calotype.diffusion.grids import karras
from calotype.diffusion.measurement import conjugate_gradients, measured, solve
from calotype.diffusion.noise import PictureNoise
from calotype.diffusion.samplers import SAMPLERS
from calotype.diffusion.tiles import tiled
from calotype.errors import InputError


class Dense:
    """Any matrix (M N) on pictures of N numbers: what a user's own operator may be."""

    def __init__(self, matrix: Tensor, shape: tuple[int, int, int]) -> None:
        self.matrix, self.shape = matrix, shape

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ self.matrix.T)[:, :, None, None]  # (B N) -> (B M 1 1)

    def adjoint(self, y: Tensor) -> Tensor:
        return (y.flatten(1) @ self.matrix).reshape(-1, *self.shape)  # (B M) -> (B C H W)


SHAPE = (1, 2, 3)
MEAN, SD = 0.3, 0.5


def gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    """The exact denoiser of N(MEAN, SD^2)."""
    s2 = (sigma**2)[:, None, None, None]
    return (SD**2 * x + s2 * MEAN) / (SD**2 + s2)


def closed_form(matrix: Tensor, x: Tensor, y: Tensor, sigma: float, sigma_y: float) -> tuple[Tensor, Tensor]:
    """Mean (B N) and covariance (N N) of N(MEAN, SD^2) data given x = x0 + sigma n, y = A x0 + sigma_y n'."""
    n = matrix.shape[1]
    precision = torch.eye(n, dtype=torch.float64) * (1 / SD**2 + 1 / sigma**2)
    precision = precision + matrix.T @ matrix / sigma_y**2
    covariance = torch.linalg.inv(precision)
    right = MEAN / SD**2 + x.flatten(1) / sigma**2 + y.flatten(1) @ matrix / sigma_y**2
    return right @ covariance, covariance


@pytest.mark.parametrize("jacobian", [False, True])
@pytest.mark.parametrize(("sigma", "sigma_y"), [(0.05, 0.2), (0.7, 0.1), (5.0, 0.02)])
def test_gaussian_data_have_the_exact_posterior(sigma: float, sigma_y: float, jacobian: bool) -> None:
    operator = Dense(unit(4, 6, seed=1), SHAPE)
    x, y = unit(3, *SHAPE, seed=2), unit(3, 4, 1, 1, seed=3)
    denoiser = measured(gaussian, operator, y, sigma_y, sigma_data=SD, jacobian=jacobian)
    found = denoiser(x, torch.full((3,), sigma, dtype=torch.float64))
    expected, _ = closed_form(operator.matrix, x, y, sigma, sigma_y)
    torch.testing.assert_close(found.flatten(1), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("jacobian", [False, True])
def test_an_exact_measurement_is_kept_exactly(jacobian: bool) -> None:
    operator = Dense(unit(4, 6, seed=1), SHAPE)
    x, y = unit(3, *SHAPE, seed=2), unit(1, 4, 1, 1, seed=3)
    answer = measured(gaussian, operator, y, 0.0, jacobian=jacobian)(x, torch.full((3,), 0.4).double())
    torch.testing.assert_close(operator.forward(answer), y.expand(3, -1, -1, -1), atol=1e-4, rtol=1e-4)


class Mixture:
    """K Gaussians of deviation `sd` around means (K N): denoiser and posterior in closed form."""

    def __init__(self, means: Tensor, sd: float) -> None:
        self.means, self.sd = means, sd

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        s2 = (sigma**2)[:, None]
        flat = x.flatten(1)
        distance = (flat[:, None] - self.means).square().sum(-1)  # (B 1 N), (K N) -> (B K)
        chance = torch.softmax(-distance / (2 * (self.sd**2 + s2)), dim=1)
        answer = (self.sd**2 * flat + s2 * (chance @ self.means)) / (self.sd**2 + s2)
        return answer.reshape(x.shape)

    def posterior(self, matrix: Tensor, y: Tensor, sigma_y: float) -> tuple[Tensor, Tensor]:
        """Mean (N) and covariance (N N) of x0 given y (M)."""
        m, n = matrix.shape
        prior = self.sd**2 * torch.eye(n, dtype=torch.float64)
        seen = matrix @ prior @ matrix.T + sigma_y**2 * torch.eye(m, dtype=torch.float64)
        gain = prior @ matrix.T @ torch.linalg.inv(seen)
        rest = y - self.means @ matrix.T  # (K M)
        chance = torch.softmax(-0.5 * torch.einsum("km,mn,kn->k", rest, torch.linalg.inv(seen), rest), 0)
        means = self.means + rest @ gain.T  # (K N)
        mean = chance @ means
        within = prior - gain @ matrix @ prior
        apart = means - mean
        return mean, within + torch.einsum("k,ki,kj->ij", chance, apart, apart)


def drawn(mixture: Mixture, operator: Dense, y: Tensor, sigma_y: float, jacobian: bool) -> Tensor:
    """Draws (B N) by DDPM with the measured denoiser."""
    count = 600
    spread = float(mixture.means.std(0).square().mean() + mixture.sd**2) ** 0.5
    denoiser = measured(mixture.denoise, operator, y, sigma_y, sigma_data=spread, jacobian=jacobian)
    noise = PictureNoise(range(count))
    grid = karras(60, 0.01, 10.0)
    x = 10.0 * noise(torch.zeros(count, *SHAPE, dtype=torch.float64))
    for step in SAMPLERS["ddpm"](denoiser, x, grid, noise):
        x = step.x
    return x.flatten(1)


@pytest.mark.parametrize("jacobian", [False, True])
def test_draws_follow_a_mixtures_posterior(jacobian: bool) -> None:
    """Two of six numbers measured: the mode is told by them, the rest must be drawn with their spread."""
    means = torch.tensor([[1.0, 1.0, 1.0, 1.0, 1.0, 1.0], [-1.0, -1.0, 0.5, 0.5, -0.5, -1.0]]).double()
    mixture = Mixture(means, 0.3)
    operator = Dense(torch.eye(6, dtype=torch.float64)[:2], SHAPE)
    y, sigma_y = torch.tensor([0.8, 1.2], dtype=torch.float64), 0.1
    found = drawn(mixture, operator, y[None, :, None, None], sigma_y, jacobian)
    mean, covariance = mixture.posterior(operator.matrix, y, sigma_y)
    assert float((mean - means[0])[2:].abs().max()) < 1e-3  # the measurement leaves no doubt of the mode
    right = (found[:, 2:] - means[0, 2:]).norm(dim=1) < (found[:, 2:] - means[1, 2:]).norm(dim=1)
    # what is measured reaches the rest late where the network's slope is not used
    assert float(right.double().mean()) > (0.97 if jacobian else 0.88)
    found = found[right]
    assert float((found.mean(0) - mean).abs().max()) < 0.08
    ratio = found.std(0) / covariance.diagonal().sqrt()
    assert float(ratio[2:].min()) > 0.85
    assert float(ratio.max()) < 1.35


def test_conjugate_gradients_solve_each_row() -> None:
    matrix = unit(8, 5, seed=4)
    matrix = matrix.T @ matrix + 0.1 * torch.eye(5, dtype=torch.float64)
    right = unit(3, 5, 1, 1, seed=5) * torch.tensor([1.0, 100.0, 0.0]).double()[:, None, None, None]
    found = conjugate_gradients(lambda u: (u[..., 0, 0] @ matrix)[..., None, None], right)
    expected = torch.linalg.solve(matrix, right[..., 0, 0].T).T
    torch.testing.assert_close(found[..., 0, 0], expected, atol=1e-3, rtol=1e-4)


def test_an_operators_own_solver_is_used() -> None:
    class Own(Dense):
        def solve(self, right: Tensor, gain: float, noise: float) -> Tensor:
            return right * gain + noise

    assert float(solve(Own(unit(4, 6), SHAPE), torch.ones(1), 2.0, 3.0)) == 5.0


def local(x: Tensor, sigma: Tensor) -> Tensor:
    """A denoiser that looks 3 pixels far."""
    kernel = torch.ones(3, 1, 7, 7, dtype=x.dtype) / 49
    return torch.nn.functional.conv2d(x, kernel, padding=3, groups=3) * sigma[:, None, None, None]


@pytest.mark.parametrize("size", [(40, 40), (41, 97), (16, 200)])
def test_tiles_agree_with_the_whole(size: tuple[int, int]) -> None:
    x = unit(2, 3, *size, seed=6)
    sigma = torch.full((2,), 0.5, dtype=torch.float64)
    found = tiled(local, 32, 4, step=4)(x, sigma)
    torch.testing.assert_close(found, local(x, sigma), atol=1e-12, rtol=0)


def test_gradients_flow_through_tiles() -> None:
    sigma = torch.full((1,), 0.5, dtype=torch.float64)
    gradients = []
    for denoiser in (local, tiled(local, 32, 4, step=4)):
        x = unit(1, 3, 41, 50, seed=7).requires_grad_()
        gradients += torch.autograd.grad(denoiser(x, sigma).square().sum(), x)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_tiles_too_small_are_refused() -> None:
    with pytest.raises(InputError, match="take larger tiles"):
        tiled(local, 32, 16)
