import math

import pytest
import torch
from oracle import Mixture, unit

from calotype.diffusion.loss import (
    diffusion_loss,
    even,
    log_normal_sigmas,
    logit_normal,
    min_snr,
    uniform_sigmas,
)
from calotype.diffusion.noise import normal, uniform
from calotype.diffusion.parameterization import Clean, Edm, Flow, Noise, Parameterization, Velocity
from calotype.diffusion.schedule import SIGMA_LIMIT, FlowSchedule, NoiseSchedule

SCHEDULE = NoiseSchedule.cosine()
ALL: list[Parameterization] = [Noise(SCHEDULE), Clean(SCHEDULE), Velocity(SCHEDULE), Flow(), Edm(0.5)]
SIGMAS = torch.tensor([0.05, 0.3, 0.5, 1.0, 3.0, 40.0], dtype=torch.float64)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.name)
@pytest.mark.parametrize(
    "weighting", [even, min_snr(), logit_normal()], ids=["even", "min_snr", "logit_normal"]
)
def test_loss_is_the_weighted_squared_error(kind: Parameterization, weighting) -> None:
    mixture = Mixture.example(2, 3, 3)
    x0, noise = mixture.sample(6), unit(6, 2, 3, 3)
    target = kind.target(x0, noise, SIGMAS)
    error = torch.arange(1.0, 7.0, dtype=torch.float64)
    losses = diffusion_loss(
        lambda *_: target + error[:, None, None, None], kind, x0, noise, SIGMAS, weighting
    )
    weights = weighting(SIGMAS, kind.coefficients(SIGMAS).out)
    torch.testing.assert_close(losses, weights * error**2)
    assert diffusion_loss(lambda *_: target, kind, x0, noise, SIGMAS, weighting).abs().max() == 0


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.name)
def test_network_sees_the_scaled_picture_and_its_label(kind: Parameterization) -> None:
    x0, noise = unit(2, 6, 2, 3, 3)
    c = kind.coefficients(SIGMAS)

    def network(x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        torch.testing.assert_close(
            x, c.input[:, None, None, None] * (x0 + SIGMAS[:, None, None, None] * noise)
        )
        assert torch.equal(label, c.noise_label)
        return x

    assert diffusion_loss(network, kind, x0, noise, SIGMAS).shape == (6,)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.name)
def test_weights_are_the_same_on_the_clean_picture(kind: Parameterization) -> None:
    # out^2 carries a weight on D - x0 to the network's output
    x0, noise = unit(2, 6, 2, 3, 3)
    raw = unit(6, 2, 3, 3)
    c = kind.coefficients(SIGMAS)
    column = SIGMAS[:, None, None, None]
    denoised = c.skip[:, None, None, None] * (x0 + column * noise) + c.out[:, None, None, None] * raw
    on_picture = (1 / SIGMAS**2).clamp(max=5) * (denoised - x0).square().flatten(1).mean(1)
    losses = diffusion_loss(lambda *_: raw, kind, x0, noise, SIGMAS, min_snr(5))
    torch.testing.assert_close(losses, on_picture, rtol=1e-9, atol=0)


def test_min_snr_in_its_papers_terms() -> None:
    # arXiv 2303.09556, section 3.4 and appendix
    snr = 1 / SIGMAS**2
    weight = min_snr(5)
    clipped = snr.clamp(max=5)
    torch.testing.assert_close(weight(SIGMAS, Noise(SCHEDULE).coefficients(SIGMAS).out), clipped / snr)
    torch.testing.assert_close(
        weight(SIGMAS, Velocity(SCHEDULE).coefficients(SIGMAS).out), clipped / (snr + 1)
    )
    torch.testing.assert_close(weight(SIGMAS, Clean(SCHEDULE).coefficients(SIGMAS).out), clipped)


def test_logit_normal_weight_is_a_density_over_time() -> None:
    time = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    for mean, std in [(0.0, 1.0), (0.5, 0.6)]:
        density = logit_normal(mean, std)(time / (1 - time), time)
        assert float(density.mean()) == pytest.approx(1, abs=1e-6)
        logit = torch.log(time / (1 - time))
        assert float((density * logit).mean()) == pytest.approx(mean, abs=1e-4)
        assert float((density * (logit - mean) ** 2).mean()) == pytest.approx(std**2, abs=1e-3)


def test_log_normal_levels() -> None:
    sigmas = log_normal_sigmas(normal(1, 0, 40_000), -1.2, 1.2)
    assert sigmas.dtype == torch.float32
    assert float(sigmas.log().mean()) == pytest.approx(-1.2, abs=0.02)
    assert float(sigmas.log().std()) == pytest.approx(1.2, abs=0.02)
    # flow's times, shifted: logit t = ln sigma
    shifted = log_normal_sigmas(normal(1, 0, 40_000), 0.0, 1.0, shift=3.0)
    time = shifted / (1 + shifted)
    assert float(torch.logit(time).mean()) == pytest.approx(math.log(3), abs=0.02)


def test_uniform_levels_are_whole_steps_evenly() -> None:
    sigmas = uniform_sigmas(SCHEDULE, uniform(1, 0, 100_000))
    steps = SCHEDULE.step_at(sigmas)
    assert torch.equal(steps, steps.round())
    counts = steps.long().bincount(minlength=1000)
    assert counts.min() > 50
    assert counts.max() < 160
    ends = uniform_sigmas(SCHEDULE, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64))
    assert ends.tolist() == [SCHEDULE.sigma_min, SCHEDULE.sigma_max]
    flow = uniform_sigmas(FlowSchedule(), torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64))
    assert flow.tolist() == pytest.approx([1 / 999, SIGMA_LIMIT])


def test_shifted_uniform_levels_keep_to_the_schedule() -> None:
    drawn = uniform(1, 0, 10_000)
    plain, shifted = uniform_sigmas(SCHEDULE, drawn).double(), uniform_sigmas(SCHEDULE, drawn, 5.0).double()
    inside = 5 * plain <= SCHEDULE.sigma_max
    assert torch.allclose(shifted[inside], 5 * plain[inside], rtol=1e-6)
    assert (shifted[~inside] == torch.tensor(SCHEDULE.sigma_max, dtype=torch.float32)).all()
    assert float(inside.double().mean()) == pytest.approx(
        float(SCHEDULE.step_at(torch.tensor(SCHEDULE.sigma_max / 5, dtype=torch.float64))) / 999, abs=0.02
    )
    below = uniform_sigmas(SCHEDULE, drawn, 0.2)
    assert float(below.min()) == pytest.approx(SCHEDULE.sigma_min)


@pytest.mark.parametrize(
    "kind", [Clean(SCHEDULE), Velocity(SCHEDULE), Flow(), Edm()], ids=lambda kind: kind.name
)
def test_losses_at_infinity_are_finite(kind: Parameterization) -> None:
    x0, noise = unit(2, 3, 2, 4, 4, dtype=torch.float32)
    sigma = torch.full((3,), SIGMA_LIMIT)
    for weighting in (even, min_snr(), logit_normal()):
        assert diffusion_loss(lambda x, _: x, kind, x0, noise, sigma, weighting).isfinite().all()
