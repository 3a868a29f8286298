"""Every sampler's order, fitted from its error between sigma_max and a sigma_min > 0.

Deterministic ones on a mixture in one dimension, whose probability flow is known: it keeps quantiles.
Stochastic ones in the variance they end with, propagated exactly through a linear denoiser.
"""

from collections.abc import Sequence

import pytest
import torch
from oracle import Coefficients, Mixture, NoNoise, fitted_slope
from torch import Tensor

from calotype.diffusion.grids import exponential
from calotype.diffusion.samplers import SAMPLERS

HIGH, LOW = 20.0, 0.1


def path_errors(name: str, counts: Sequence[int], **options: float) -> list[float]:
    mixture = Mixture.line()
    x = torch.linspace(-1.2, 1.3, 9, dtype=torch.float64).reshape(-1, 1, 1, 1) * HIGH
    end = mixture.flow(x, HIGH, LOW)
    errors = []
    for count in counts:
        sigmas = exponential(count + 1, LOW, HIGH)[:-1]
        *_, last = SAMPLERS[name](mixture.denoise, x, sigmas, NoNoise(), **options)
        errors.append(float((last.x - end).square().mean().sqrt()))
    return errors


def variance_errors(name: str, counts: Sequence[int], **options: float) -> list[float]:
    data = torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64).square().reshape(1, 3, 1, 1)

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        return x * data / (data + sigma[:, None, None, None] ** 2)

    errors = []
    for count in counts:
        sigmas = exponential(count + 1, LOW, HIGH)[:-1]
        x = torch.zeros(1 + count * SAMPLERS[name].evaluations, 3, 1, 1, dtype=torch.float64)
        x[0] = (data + HIGH**2).sqrt()
        *_, last = SAMPLERS[name](denoiser, x, sigmas, Coefficients(), **options)
        expected = data[0] + LOW**2
        errors.append(float(((last.x.square().sum(0) - expected) / expected).square().mean().sqrt()))
    return errors


MANY = [40, 80, 160, 320]


@pytest.mark.parametrize(
    ("name", "options", "counts", "order"),
    [
        ("euler", {}, MANY, 1),
        ("ddim", {}, MANY, 1),
        ("ddpm", {"eta": 0.0}, MANY, 1),
        ("euler_a", {"eta": 0.0}, MANY, 1),
        ("heun", {}, MANY, 2),
        ("lms", {"order": 1}, MANY, 1),
        ("lms", {"order": 2}, MANY, 2),
        ("plms", {}, MANY, 2),
        ("dpmpp_2m", {}, MANY, 2),
        ("dpmpp_2m_sde", {"eta": 0.0}, MANY, 2),
        ("dpmpp_3m_sde", {"eta": 0.0}, MANY, 2),
        ("dpmpp_sde", {"eta": 0.0}, MANY, 2),
        ("unipc", {"order": 1}, MANY, 2),
        ("unipc", {}, MANY, 3),
        ("unipc", {"order": 3}, MANY, 4),
    ],
)
def test_order_of_the_path(name: str, options: dict[str, float], counts: list[int], order: float) -> None:
    assert fitted_slope(counts, path_errors(name, counts, **options)) == pytest.approx(order, abs=0.2)


def test_lms_is_above_third_order() -> None:
    counts = [20, 30, 40, 60, 80]
    assert fitted_slope(counts, path_errors("lms", counts)) > 3


@pytest.mark.parametrize(
    ("name", "eta", "order"),
    [
        ("ddim", 0.5, 1),
        ("ddpm", 1.0, 1),
        ("euler_a", 1.0, 1),
        ("dpmpp_2m_sde", 1.0, 2),
        ("dpmpp_2m_sde", 0.5, 2),
        ("dpmpp_3m_sde", 1.0, 2),
        ("dpmpp_sde", 1.0, 2),
        ("dpmpp_sde", 0.5, 2),
    ],
)
def test_order_of_the_variance(name: str, eta: float, order: float) -> None:
    slope = fitted_slope(MANY, variance_errors(name, MANY, eta=eta))
    assert slope == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "lcm"])
def test_the_table_says_so(name: str) -> None:
    sampler = SAMPLERS[name]
    if name == "lms":
        counts = [20, 30, 40, 60, 80]
        assert fitted_slope(counts, path_errors(name, counts)) > sampler.order - 1
    elif sampler.stochastic:
        assert round(fitted_slope(MANY, variance_errors(name, MANY))) == sampler.order
    else:
        assert round(fitted_slope(MANY, path_errors(name, MANY))) == sampler.order
