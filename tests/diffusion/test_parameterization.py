import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Mixture, unit
from torch import Tensor

from calotype.diffusion.denoiser import as_denoiser
from calotype.diffusion.parameterization import (
    Clean,
    Edm,
    Flow,
    Noise,
    Parameterization,
    Velocity,
    expand,
    parameterization,
)
from calotype.diffusion.schedule import SIGMA_LIMIT, NoiseSchedule
from calotype.errors import InputError

SCHEDULE = NoiseSchedule.cosine()
ALL: list[Parameterization] = [Noise(SCHEDULE), Clean(SCHEDULE), Velocity(SCHEDULE), Flow(), Edm(0.5)]
LEVELS = torch.tensor([0.01, 0.0437, 0.3, 1.0, 2.718, 14.6, 80.0], dtype=torch.float64)


def exact_network(mixture: Mixture, name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """What a perfectly trained network puts out, in the terms of its own paper.

    It sees only its input and its noise label; the level and the picture are worked out from these.
    """

    def variance_preserving(seen: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        sigma = SCHEDULE.sigma_at(label)
        alpha, deviation = (1 / (1 + sigma**2)).sqrt(), sigma / (1 + sigma**2).sqrt()
        alpha, deviation = expand(alpha, seen), expand(deviation, seen)
        clean = mixture.denoise(seen / alpha, sigma)
        return alpha, deviation, clean, (seen - alpha * clean) / deviation

    def eps(seen: Tensor, label: Tensor) -> Tensor:
        return variance_preserving(seen, label)[3]

    def x0(seen: Tensor, label: Tensor) -> Tensor:
        return variance_preserving(seen, label)[2]

    def v(seen: Tensor, label: Tensor) -> Tensor:
        alpha, deviation, clean, noise = variance_preserving(seen, label)
        return alpha * noise - deviation * clean

    def flow(seen: Tensor, label: Tensor) -> Tensor:
        time = label / 1000
        clean = mixture.denoise(seen / expand(1 - time, seen), time / (1 - time))
        return (seen - clean) / expand(time, seen)

    def edm(seen: Tensor, label: Tensor) -> Tensor:
        sigma = (4 * label).exp()
        x = seen * expand((sigma**2 + 0.25).sqrt(), seen)
        skip = expand(0.25 / (sigma**2 + 0.25), seen)
        out = expand(sigma * 0.5 / (sigma**2 + 0.25).sqrt(), seen)
        return (mixture.denoise(x, sigma) - skip * x) / out

    return {"eps": eps, "x0": x0, "v": v, "flow": flow, "edm": edm}[name]


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.name)
def test_denoiser_is_exact(kind: Parameterization) -> None:
    mixture = Mixture.example(2, 3, 3)
    denoiser = as_denoiser(exact_network(mixture, kind.name), kind)
    for level in LEVELS:
        sigma = level.expand(6)
        x = mixture.sample(6) + level * mixture.sample(6, seed=1)
        torch.testing.assert_close(denoiser(x, sigma), mixture.denoise(x, sigma), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.name)
def test_levels_of_a_batch_may_differ(kind: Parameterization) -> None:
    mixture = Mixture.example(2, 3, 3)
    x = mixture.sample(len(LEVELS))
    denoiser = as_denoiser(exact_network(mixture, kind.name), kind)
    torch.testing.assert_close(denoiser(x, LEVELS), mixture.denoise(x, LEVELS), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.name)
def test_gaussian_table(kind: Parameterization) -> None:
    # For data N(0, 1) the best network is E[target | x] = x E[target x] / E[x^2], worked out by hand here.
    s = LEVELS
    expected = {
        "eps": s / (1 + s**2),
        "x0": 1 / (1 + s**2),
        "v": torch.zeros_like(s),
        "flow": (s - 1) / (1 + s**2),
        "edm": (s - 0.25 * s) / (0.5 * (s**2 + 0.25).sqrt() * (1 + s**2)),
    }[kind.name]
    c = kind.coefficients(s)
    torch.testing.assert_close(c.skip + c.out * expected, 1 / (1 + s**2), rtol=1e-14, atol=1e-15)
    # target is linear in x0 and noise, so those two weights are the whole of E[target x]
    one, zero = torch.ones(len(s), 1, 1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    of_x0, of_noise = kind.target(one, zero * one, s).flatten(), kind.target(zero * one, one, s).flatten()
    torch.testing.assert_close((of_x0 + s * of_noise) / (1 + s**2), expected, rtol=1e-14, atol=1e-15)


@settings(deadline=None, derandomize=True)
@given(level=st.floats(-3.5, 4), seed=st.integers(0, 2**31))
def test_target_is_what_makes_the_denoiser_right(level: float, seed: int) -> None:
    x0, noise = unit(2, 3, 2, 2, 2, seed=seed)
    sigma = torch.full((3,), 10**level, dtype=torch.float64)
    for kind in ALL:
        denoiser = as_denoiser(lambda *_, kind=kind: kind.target(x0, noise, sigma), kind)
        # eps subtracts sigma * noise from itself, so its error grows with sigma
        tolerance = 1e-14 * max(1.0, 10**level)
        torch.testing.assert_close(denoiser(x0 + 10**level * noise, sigma), x0, rtol=0, atol=10 * tolerance)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.name)
def test_input_has_unit_scale(kind: Parameterization) -> None:
    c = kind.coefficients(LEVELS)
    data = 0.25 if kind.name == "edm" else 1.0
    if kind.name != "flow":  # flow's own input, (1 - t) x0 + t noise, is not of unit variance
        torch.testing.assert_close(c.input * (data + LEVELS**2).sqrt(), torch.ones_like(LEVELS))
    else:
        torch.testing.assert_close(c.input, 1 - LEVELS / (1 + LEVELS))


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.name)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_precision_and_ends(kind: Parameterization, dtype: torch.dtype) -> None:
    limit = 60_000.0 if dtype == torch.float16 else SIGMA_LIMIT
    c = kind.coefficients(torch.tensor([0.0064, limit], dtype=dtype))
    for value in (c.skip, c.out, c.input, c.noise_label):
        assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert value.isfinite().all()
        assert value.shape == (2,)


def test_labels_at_the_end() -> None:
    cap = torch.tensor([SIGMA_LIMIT])
    assert float(Flow().coefficients(cap).noise_label) == 1000
    for schedule in (SCHEDULE, SCHEDULE.zero_terminal_snr(), NoiseSchedule.scaled_linear()):
        last = torch.tensor([schedule.sigma_max])
        assert float(Velocity(schedule).coefficients(last).noise_label) == 999
    assert float(Edm().coefficients(torch.tensor([math.e**4])).noise_label) == pytest.approx(1)


@settings(deadline=None, derandomize=True)
@given(st.lists(st.floats(0.0625, 100, width=32), min_size=1, max_size=40))
def test_a_levels_coefficients_do_not_depend_on_its_place(levels: list[float]) -> None:
    together = torch.tensor(levels)
    for kind in ALL:
        c = kind.coefficients(together)
        for i, level in enumerate(levels):
            alone = kind.coefficients(torch.tensor([level]))
            assert alone.noise_label[0] == c.noise_label[i]
            assert (alone.skip[0], alone.out[0], alone.input[0]) == (c.skip[i], c.out[i], c.input[i])


def test_the_network_is_cast_only_at_its_door() -> None:
    seen = []

    def network(x: Tensor, label: Tensor) -> Tensor:
        seen.append((x.dtype, label.dtype))
        return x

    x, sigma = torch.ones(2, 1, 2, 2), torch.ones(2)
    assert as_denoiser(network, Flow(), torch.bfloat16)(x, sigma).dtype == torch.float32
    assert as_denoiser(network, Flow())(x.double(), sigma.double()).dtype == torch.float64
    assert seen == [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)]


def test_by_name() -> None:
    for kind in ALL:
        assert parameterization(kind.name, SCHEDULE, 0.5) == kind
    with pytest.raises(InputError, match="'epsilon'"):
        parameterization("epsilon", SCHEDULE)
