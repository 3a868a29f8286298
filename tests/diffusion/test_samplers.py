"""What every sampler owes: its signature, its facts, its twin, finiteness, and a picture's independence."""

import itertools

import pytest
import torch
from oracle import Coefficients, Mixture, NoNoise, unit
from torch import Tensor

from calotype.diffusion.denoiser import as_denoiser
from calotype.diffusion.grids import exponential, karras, trailing
from calotype.diffusion.noise import PictureNoise
from calotype.diffusion.parameterization import Velocity
from calotype.diffusion.samplers import SAMPLERS, Step
from calotype.diffusion.schedule import NoiseSchedule
from calotype.errors import InputError

SHAPE = (2, 3, 3)
GRID = karras(9, 0.05, 12.0)
COSINE = NoiseSchedule.cosine()
DRAWING = [name for name, sampler in SAMPLERS.items() if sampler.stochastic]


def run(name: str, denoiser, x: Tensor, sigmas: Tensor = GRID, noise=None, **options: float) -> Tensor:
    *_, last = SAMPLERS[name](denoiser, x, sigmas, noise or PictureNoise(range(len(x))), **options)
    return last.x


def shrinking(x: Tensor, sigma: Tensor) -> Tensor:
    """The denoiser of N(0, 1) data: products alone, so each element is the same in every batch."""
    return x / (1 + sigma**2)[:, None, None, None]


@pytest.mark.parametrize("name", SAMPLERS)
def test_steps_are_told(name: str) -> None:
    mixture = Mixture.example(*SHAPE)
    x = 12 * unit(4, *SHAPE)
    calls = []

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        assert sigma.shape == (4,)
        assert sigma.dtype == x.dtype
        calls.append(float(sigma[0]))
        return mixture.denoise(x, sigma)

    noise = PictureNoise(range(4))
    steps: list[Step] = []
    for step in SAMPLERS[name](denoiser, x, GRID, noise):
        assert torch.is_grad_enabled()  # nothing is held across a yield
        assert step.x.shape == step.denoised.shape == x.shape
        assert step.x.dtype == torch.float64
        steps.append(step)
    assert [step.index for step in steps] == list(range(9))
    assert {step.total for step in steps} == {9}
    assert [step.sigma for step in steps] + [steps[-1].sigma_next] == GRID.tolist()
    assert [step.sigma_next for step in steps[:-1]] == [step.sigma for step in steps[1:]]
    # the last step, to 0, never takes a second look
    again = 1 if name == "plms" else 1 - SAMPLERS[name].evaluations
    assert len(calls) == 9 * SAMPLERS[name].evaluations + again
    assert (noise.draw > 0) == SAMPLERS[name].stochastic
    if name not in ("lms", "plms"):  # an Adams-Bashforth step to 0 is no mere answer of the denoiser
        assert torch.equal(steps[-1].x, steps[-1].denoised)


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_look_like_the_data(name: str) -> None:
    mixture, count = Mixture.line(), 2000
    noise = PictureNoise([4])
    x = 12 * noise(torch.zeros(1, 1, 1, count)).double().reshape(count, 1, 1, 1)
    if name == "lcm":

        def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
            return mixture.flow(x, float(sigma[0]), 0.0)
    else:
        denoiser = mixture.denoise
    ended = run(name, denoiser, x, karras(50, 0.02, 12.0), PictureNoise(range(count))).flatten()
    chances, steps = mixture.cdf(ended, 0.0).sort().values, torch.arange(count) / count
    assert float((chances - steps).abs().max()) < 0.06


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_state_is_wide(name: str, dtype: torch.dtype) -> None:
    ended = run(name, shrinking, torch.ones(1, *SHAPE, dtype=dtype))
    assert ended.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(
    "schedule", [COSINE, COSINE.zero_terminal_snr()], ids=["cosine", "zero_terminal_snr"]
)
def test_from_all_but_infinity(name: str, schedule: NoiseSchedule) -> None:
    # the scale of data survives a first leap from sigma 20,291 or from the cap
    sigmas = trailing(schedule)(20, schedule.sigma_min, schedule.sigma_max)
    noise = PictureNoise(range(8))
    x = sigmas[0].float() * noise(torch.zeros(8, 4, 16, 16))
    denoiser = as_denoiser(lambda x, _: torch.zeros_like(x), Velocity(schedule))  # exact for N(0, 1) data
    if name == "lcm":  # whose denoiser is the consistency function: x / sqrt(1 + sigma^2)

        def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
            return x / (1 + sigma**2).sqrt()[:, None, None, None]

    ended = run(name, denoiser, x, sigmas, noise)
    assert ended.isfinite().all()
    assert 0.6 < float(ended.std()) < 1.3


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_graph_is_kept(name: str) -> None:
    x = torch.ones(1, *SHAPE, requires_grad=True)
    assert not run(name, shrinking, x).requires_grad


def test_more_noise_than_the_level_has_room_for() -> None:
    # eta above 1 makes the whole of the new level fresh, and no more
    sigmas, x = torch.tensor([3.0, 1.2], dtype=torch.float64), torch.zeros(2, 1, 1, 1, dtype=torch.float64)
    x[0] = 1
    ended = run("ddim", lambda x, _: 0 * x, x, sigmas, Coefficients(), eta=9.0).flatten()
    assert ended.tolist() == pytest.approx([0, 1.2], abs=1e-14)


TWINS = [
    ("ddim", "euler"),
    ("ddpm", "euler"),
    ("euler_a", "euler"),
    ("dpmpp_2m_sde", "dpmpp_2m"),
]  # 3M SDE's and SDE's are in k-diffusion: test_sampler_parity.py


@pytest.mark.parametrize(("name", "twin"), TWINS)
def test_without_noise_it_is_its_twin(name: str, twin: str) -> None:
    mixture = Mixture.example(*SHAPE)
    x = 12 * unit(4, *SHAPE)
    ours = run(name, mixture.denoise, x, noise=NoNoise(), eta=0.0)
    assert torch.equal(ours, run(twin, mixture.denoise, x, noise=NoNoise()))


@pytest.mark.parametrize("name", DRAWING)
def test_one_draw_a_random_number(name: str) -> None:
    noise = Coefficients()
    x = torch.zeros(40, 1, 1, 1, dtype=torch.float64)
    run(name, shrinking, x, noise=noise)
    # none on the way to 0; SDE's halfway look draws too
    assert noise.draws == 8 * SAMPLERS[name].evaluations


@pytest.mark.parametrize("name", DRAWING)
def test_s_noise_scales_the_noise(name: str) -> None:
    if name == "lcm":
        pytest.skip("LCM's noise is not an addition but the next state")
    x = torch.zeros(20, 1, 1, 1, dtype=torch.float64)
    plain = run(name, shrinking, x, noise=Coefficients())
    torch.testing.assert_close(
        run(name, shrinking, x, noise=Coefficients(), s_noise=1.5), 1.5 * plain, rtol=1e-12, atol=1e-15
    )


def test_ddpm_is_the_bridge_of_the_additive_process() -> None:
    # Brownian motion at s given x at t and x0: mean x0 + (s^2/t^2) (x - x0), variance s^2 (t^2 - s^2) / t^2
    sigmas, x = torch.tensor([3.0, 1.2], dtype=torch.float64), torch.zeros(2, 1, 1, 1, dtype=torch.float64)
    x[0] = 1
    ended = run("ddpm", lambda x, _: 0 * x, x, sigmas, Coefficients()).flatten()
    assert ended.tolist() == pytest.approx([1.44 / 9, (1.44 * (9 - 1.44) / 9) ** 0.5], rel=1e-14)


@pytest.mark.parametrize("name", ["ddpm", "euler_a", "dpmpp_2m_sde", "dpmpp_3m_sde", "dpmpp_sde"])
def test_a_single_step_has_the_exact_conditional_law(name: str) -> None:
    # where D does not change, one step is the process itself, for any eta
    sigmas = torch.tensor([3.0, 1.2], dtype=torch.float64)
    x = torch.zeros(4, 1, 1, 1, dtype=torch.float64)
    x[0] = 1
    for eta in (0.3, 1.0):
        ended = run(name, lambda x, _: 0 * x, x, sigmas, Coefficients(), eta=eta).flatten()
        assert float(9 * ended[0] ** 2 + (ended[1:] ** 2).sum()) == pytest.approx(1.44, rel=1e-14)


def test_lcm_on_an_exact_consistency_function() -> None:
    mixture = Mixture.line()

    def consistency(x: Tensor, sigma: Tensor) -> Tensor:
        return mixture.flow(x, float(sigma[0]), 0.0)

    x = 12 * unit(6, 1, 1, 1)
    one = run("lcm", consistency, x, torch.tensor([12.0, 0.0]), NoNoise())
    assert torch.equal(one, mixture.flow(x, 12.0, 0.0))
    two = run("lcm", consistency, x, torch.tensor([12.0, 2.0, 0.0]), PictureNoise(range(6)))
    assert torch.equal(two, mixture.flow(one + 2 * PictureNoise(range(6))(x), 2.0, 0.0))


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_lcm_keeps_the_variance_exactly(steps: int) -> None:
    # of Gaussian data N(0, 0.6^2), whose consistency function is linear
    def consistency(x: Tensor, sigma: Tensor) -> Tensor:
        return 0.6 * x / (0.36 + sigma**2).sqrt()[:, None, None, None]

    x = torch.zeros(steps + 1, 1, 1, 1, dtype=torch.float64)
    x[0] = (0.36 + 144) ** 0.5
    ended = run("lcm", consistency, x, karras(steps, 0.05, 12.0), Coefficients())
    assert float((ended**2).sum()) == pytest.approx(0.36, rel=1e-13)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_picture_does_not_depend_on_its_batch(name: str) -> None:
    # odd sizes, so that vectorised kernels have remainders, and levels between the schedule's steps

    def network(x: Tensor, label: Tensor) -> Tensor:
        return x * x * 0.01 - x * (label / 999)[:, None, None, None]

    denoiser = as_denoiser(network, Velocity(COSINE))
    sigmas = karras(6, 0.05, 12.0)
    seeds = [5, 0, 2**40, 17, 99]

    def pictures(seeds: list[int]) -> Tensor:
        noise = PictureNoise(seeds)
        x = sigmas[0].float() * noise(torch.zeros(len(seeds), 3, 5, 7))
        return run(name, denoiser, x, sigmas, noise)

    together = pictures(seeds)
    for order in itertools.islice(itertools.permutations(range(5)), 0, 120, 17):
        assert torch.equal(pictures([seeds[i] for i in order]), together[list(order)])
    for i, seed in enumerate(seeds):
        assert torch.equal(pictures([seed])[0], together[i])
        assert torch.equal(pictures(seeds[i:])[0], together[i])


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_run_can_be_taken_up_where_it_stopped(name: str) -> None:
    if name in ("lms", "plms", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m_sde", "unipc"):
        pytest.skip("multistep samplers remember more than their state")
    x = 12 * unit(2, *SHAPE, dtype=torch.float32)
    noise = PictureNoise([1, 2])
    steps = []
    for step in SAMPLERS[name](shrinking, x, GRID, noise):
        steps.append((step.x, noise.draw))
    state, draw = steps[4]
    assert torch.equal(run(name, shrinking, state, GRID[5:], PictureNoise([1, 2], draw)), steps[-1][0])


@pytest.mark.parametrize("name", ["euler", "ddim", "heun", "lms", "dpmpp_2m", "unipc"])
def test_rising_sigmas_invert(name: str) -> None:
    mixture = Mixture.line()
    x = torch.linspace(-1.4, 2.0, 7, dtype=torch.float64).reshape(-1, 1, 1, 1)
    sigmas = exponential(400, 0.02, 12.0)[:-1].flip(0)
    noisy = run(name, mixture.denoise, x, sigmas, NoNoise())
    torch.testing.assert_close(noisy, mixture.flow(x, 0.02, 12.0), rtol=0.02, atol=0.3)
    back = run(name, mixture.denoise, noisy, sigmas.flip(0), NoNoise())
    torch.testing.assert_close(back, x, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("name", DRAWING)
def test_what_draws_noise_does_not_rise(name: str) -> None:
    with pytest.raises(InputError, match="rising"):
        SAMPLERS[name](shrinking, torch.ones(1, *SHAPE), torch.tensor([0.1, 1.0]), NoNoise())


@pytest.mark.parametrize(
    "sigmas",
    [torch.tensor([1.0]), torch.tensor([1.0, 0.0, 0.0]), torch.ones(2, 2), torch.tensor([-1.0, 0.0])],
)
def test_what_is_no_row_of_sigmas(sigmas: Tensor) -> None:
    with pytest.raises(InputError, match="row"):
        SAMPLERS["euler"](shrinking, torch.ones(1, *SHAPE), sigmas, NoNoise())


def test_options_are_checked_before_the_first_step() -> None:
    with pytest.raises(InputError, match=r"'eta'.*none"):
        SAMPLERS["heun"](shrinking, torch.ones(1, *SHAPE), GRID, NoNoise(), eta=1.0)
    with pytest.raises(InputError, match="whole number"):
        run("lms", shrinking, torch.ones(1, *SHAPE), order=0)
    with pytest.raises(InputError, match="whole number"):
        run("unipc", shrinking, torch.ones(1, *SHAPE), order=1.5)
