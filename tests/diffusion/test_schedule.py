import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Coefficients, Mixture

from calotype.diffusion.noise import PictureNoise
from calotype.diffusion.schedule import SIGMA_LIMIT, AdditiveProcess, FlowSchedule, NoiseSchedule
from calotype.errors import InputError

THREE = {
    "linear": (NoiseSchedule.linear(), {}),
    "scaled_linear": (NoiseSchedule.scaled_linear(), {"beta_start": 0.00085, "beta_end": 0.012}),
    "squaredcos_cap_v2": (NoiseSchedule.cosine(), {}),
}
SCHEDULES = [
    *(schedule for schedule, _ in THREE.values()),
    *(schedule.zero_terminal_snr() for schedule, _ in THREE.values()),
    FlowSchedule(),
    FlowSchedule(3.0),
]


@pytest.mark.parametrize("name", THREE)
def test_alphas_are_diffusers_to_the_bit(name: str) -> None:
    schedule, options = THREE[name]
    theirs = DDPMScheduler(beta_schedule=name, **options).alphas_cumprod
    assert torch.equal(schedule.alphas_cumprod, theirs.double())
    rescaled = DDPMScheduler(beta_schedule=name, rescale_betas_zero_snr=True, **options).alphas_cumprod
    ours = schedule.zero_terminal_snr()
    torch.testing.assert_close(ours.alphas_cumprod, rescaled.double(), rtol=0, atol=1e-6)
    assert ours.alphas_cumprod[-1] == 0
    assert ours.sigma_max == SIGMA_LIMIT


def test_cosine_is_the_papers() -> None:
    # arXiv 2102.09672, eq. 17, away from where beta is capped
    time = np.arange(1, 1001) / 1000
    expected = (np.cos((time + 0.008) / 1.008 * np.pi / 2) / np.cos(0.008 / 1.008 * np.pi / 2)) ** 2
    assert np.allclose(NoiseSchedule.cosine().alphas_cumprod.numpy()[:990], expected[:990], rtol=1e-4)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_whole_steps_return_to_themselves(schedule, dtype: torch.dtype) -> None:
    steps = torch.arange(int(schedule.first), int(schedule.last) + 1)
    back = schedule.step_at(schedule.sigma_at(steps).to(dtype))
    assert back.dtype == dtype
    if isinstance(schedule, NoiseSchedule):
        assert torch.equal(back, steps.to(dtype))
    else:
        torch.testing.assert_close(back, steps.to(dtype), rtol=1e-6, atol=0)
    assert back[-1] == schedule.last
    assert float(schedule.sigma_at(torch.tensor(schedule.last))) == schedule.sigma_max
    assert float(schedule.sigma_at(torch.tensor(schedule.first))) == pytest.approx(
        schedule.sigma_min, rel=1e-12
    )


@settings(deadline=None, derandomize=True)
@given(step=st.floats(0, 999))
def test_fractional_steps_return_to_themselves(step: float) -> None:
    for schedule in SCHEDULES:
        at = torch.tensor([max(step, schedule.first)], dtype=torch.float64)
        torch.testing.assert_close(schedule.step_at(schedule.sigma_at(at)), at, rtol=1e-9, atol=1e-9)


def test_between_steps_log_sigma_is_linear() -> None:
    schedule = NoiseSchedule.scaled_linear()
    low, high = schedule.sigmas[500], schedule.sigmas[501]
    assert float(schedule.sigma_at(torch.tensor(500.5))) == pytest.approx(math.sqrt(low * high), rel=1e-14)
    assert float(schedule.step_at((low * high).sqrt())) == pytest.approx(500.5, abs=1e-10)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_levels_beyond_the_ends_are_the_ends(schedule) -> None:
    sigmas = torch.tensor([1e-6, 1e9], dtype=torch.float64)
    low, high = schedule.step_at(sigmas).tolist()
    assert high == schedule.last
    assert low <= schedule.first
    if isinstance(schedule, NoiseSchedule):
        assert low == schedule.first


def test_shape_is_kept() -> None:
    steps = torch.tensor([[1, 2, 3], [500, 998, 999]])
    schedule = NoiseSchedule.cosine()
    assert torch.equal(schedule.step_at(schedule.sigma_at(steps)), steps.double())


def test_flow_shift_multiplies_sigma() -> None:
    # arXiv 2403.03206, eq. 23, written out in time
    time = torch.linspace(0, 1, 11, dtype=torch.float64)[:-1]
    shifted = 3 * time / (1 + 2 * time)
    torch.testing.assert_close(FlowSchedule(3.0).sigma_at(1000 * time), shifted / (1 - shifted))


@pytest.mark.parametrize(
    "alphas", [[0.5], [0.5, 0.6], [1.0, 0.5], [0.5, 0.5], [0.5, 0.0, 0.0], [0.5, -0.1], [0.9, math.nan]]
)
def test_what_is_no_schedule(alphas: list[float]) -> None:
    with pytest.raises(InputError):
        NoiseSchedule(torch.tensor(alphas))


@pytest.mark.parametrize(("shift", "steps"), [(0.0, 1000), (-1.0, 1000), (math.nan, 1000), (1.0, 1)])
def test_what_is_no_flow(shift: float, steps: int) -> None:
    with pytest.raises(InputError):
        FlowSchedule(shift, steps)


@pytest.mark.parametrize("sigmas", [[0.0, 1.0], [1.0, 1.0], [2.0, 1.0], [-1.0, 1.0]])
def test_what_is_no_additive_process(sigmas: list[float]) -> None:
    with pytest.raises(InputError):
        AdditiveProcess(torch.tensor(sigmas))


def test_additive_process_is_the_variance_preserving_one_rescaled() -> None:
    betas = torch.linspace(1e-4, 0.02, 60, dtype=torch.float64)
    schedule = NoiseSchedule.from_betas(betas)
    process = AdditiveProcess(schedule.sigmas)
    torch.testing.assert_close(process.schedule.sigmas, schedule.sigmas, rtol=0, atol=0)
    # row 0 carries x0, row k the k-th noise: the state's exact weights (T + 1 1)
    start = torch.zeros(61, 1, 1, 1, dtype=torch.float64)
    start[0] = 1
    draws, again = Coefficients(), Coefficients()
    walk = list(process.walk(start, (draws(start) for _ in range(60))))
    assert len(walk) == 60
    x = start
    for beta, alpha, sigma, state in zip(betas, schedule.alphas_cumprod, schedule.sigmas, walk, strict=True):
        x = (1 - beta).sqrt() * x + beta.sqrt() * again(x)  # DDPM's forward step, arXiv 2006.11239, eq. 2
        torch.testing.assert_close(x, alpha.sqrt() * state, rtol=1e-6, atol=1e-7)
        assert float(state[0]) == 1
        assert float((state[1:] ** 2).sum().sqrt()) == pytest.approx(float(sigma), rel=1e-12)


def test_forward_marginals_of_the_mixture() -> None:
    mixture, count = Mixture.line(), 20_000
    process = AdditiveProcess(torch.tensor([0.2, 0.5, 1.3, 4.0]))
    noise = PictureNoise([11])
    x0 = mixture.sample(count).reshape(1, 1, 1, count)
    walk = process.walk(x0, (noise(x0) for _ in range(4)))
    for sigma, x in zip(process.sigmas.tolist(), walk, strict=True):
        chances = mixture.cdf(x.flatten(), sigma).sort().values
        steps = torch.arange(count, dtype=torch.float64) / count
        # Kolmogorov-Smirnov at 1 in 1000
        assert float(torch.maximum(chances - steps, steps + 1 / count - chances).max()) < 1.95 / count**0.5
