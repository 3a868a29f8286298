import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta as scipy_beta

from calotype.diffusion.grids import (
    AYS_SIGMAS,
    GRIDS,
    align_your_steps,
    beta,
    exponential,
    flow_shift,
    karras,
    lcm,
    leading,
    linspace,
    raised,
    trailing,
)
from calotype.diffusion.schedule import SIGMA_FAR, SIGMA_LIMIT, FlowSchedule, NoiseSchedule
from calotype.errors import InputError

SD = NoiseSchedule.scaled_linear()
COSINE = NoiseSchedule.cosine()
SCHEDULES = {"sd": SD, "cosine": COSINE, "zero": COSINE.zero_terminal_snr(), "flow": FlowSchedule(3.0)}
FULL = (SD.sigma_min, SD.sigma_max)


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("of", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20, 50, 333])
def test_every_grid_falls_to_zero(name: str, of: str, steps: int) -> None:
    schedule = SCHEDULES[of]
    sigmas = GRIDS[name](schedule)(steps, schedule.sigma_min, schedule.sigma_max)
    assert sigmas.shape == (steps + 1,)
    assert sigmas.dtype == torch.float64
    assert (sigmas.diff() < 0).all()
    assert sigmas.isfinite().all()
    assert sigmas[-1] == 0
    assert sigmas[0] <= schedule.sigma_max
    if steps > 1 and not name.startswith(("leading", "ays")):
        start = SIGMA_FAR if name in ("karras", "exponential") else SIGMA_LIMIT
        assert float(sigmas[0]) == pytest.approx(min(schedule.sigma_max, start), rel=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8, 16, 33, 50])
def test_lcm_timesteps_are_diffusers(steps: int) -> None:
    theirs = LCMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    theirs.set_timesteps(steps)
    assert SD.step_at(lcm(SD)(steps, *FULL)[:-1]).tolist() == theirs.timesteps.tolist()


def test_raised_is_trailing_times_three_far_below_the_top() -> None:
    top = COSINE.sigma_max
    plain = trailing(COSINE)(20, COSINE.sigma_min, top)
    higher = raised(COSINE)(20, COSINE.sigma_min, top)
    assert float(higher[0]) == pytest.approx(top)
    assert higher[1:-1].tolist() == pytest.approx((3 * plain[1:-1]).tolist(), rel=0.01)
    assert raised(SD, 1.0)(7, *FULL).tolist() == pytest.approx(trailing(SD)(7, *FULL).tolist())


@pytest.mark.parametrize("steps", [1, 2, 4, 9, 10, 20, 25, 27, 30, 50, 100, 999, 1000])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_timesteps_are_diffusers(spacing: str, steps: int) -> None:
    offset = 1 if spacing == "leading" and steps < 1000 else 0
    theirs = DDIMScheduler(timestep_spacing=spacing, steps_offset=offset)
    theirs.set_timesteps(steps)
    made = {"leading": leading(SD, offset), "trailing": trailing(SD), "linspace": linspace(SD)}[spacing]
    ours = SD.step_at(made(steps, *FULL)[:-1])
    if (
        spacing == "linspace" and steps == 1
    ):  # numpy's single point is the start of its range; ours is the noise
        assert ours.tolist() == [999]
    else:
        assert ours.tolist() == theirs.timesteps.tolist()


def test_final_sigma_ends_the_row() -> None:
    for made in (leading(SD, 1, SD.sigma_min), trailing(SD, SD.sigma_min), linspace(SD, SD.sigma_min)):
        assert float(made(20, *FULL)[-1]) == SD.sigma_min


def test_part_of_a_schedule() -> None:
    # the last 600 steps, as a picture that starts from step 599 needs them
    high = float(SD.sigmas[599])
    assert SD.step_at(trailing(SD)(6, FULL[0], high)[:-1]).tolist() == [599, 499, 399, 299, 199, 99]
    assert SD.step_at(leading(SD)(6, FULL[0], high)[:-1]).tolist() == [500, 400, 300, 200, 100, 0]
    assert SD.step_at(linspace(SD)(2, FULL[0], high)[:-1]).tolist() == [599, 0]
    start = align_your_steps("sd1")(5, FULL[0], 1.886)
    assert float(start[0]) == pytest.approx(1.886)
    assert float(flow_shift(3)(4, 0.003, 1.0)[0]) == pytest.approx(1.0)


@settings(deadline=None, derandomize=True)
@given(steps=st.integers(2, 60), low=st.floats(0.002, 0.5), high=st.floats(1, 700))
def test_karras_and_exponential_by_their_formulas(steps: int, low: float, high: float) -> None:
    sigmas = karras(steps, low, high)
    assert float(sigmas[0]) == pytest.approx(high)
    assert float(sigmas[-2]) == pytest.approx(low)
    gaps = (sigmas[:-1] ** (1 / 7)).diff()
    torch.testing.assert_close(gaps, gaps[:1].expand_as(gaps), rtol=1e-7, atol=1e-9)
    ratios = exponential(steps, low, high)[:-1].log().diff()
    torch.testing.assert_close(ratios, ratios[:1].expand_as(ratios), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("a", "b"), [(0.6, 0.6), (0.5, 1.7), (3.0, 2.0), (1.0, 1.0)])
def test_beta_quantiles_are_scipys(a: float, b: float) -> None:
    for steps in (1, 8, 31):
        chances = torch.arange(steps, 0, -1) / steps
        expected = torch.from_numpy(scipy_beta.ppf(chances.double().numpy(), a, b)) * 999
        ours = SD.step_at(beta(SD, a, b)(steps, *FULL)[:-1])
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("table", AYS_SIGMAS)
def test_align_your_steps(table: str) -> None:
    published = torch.tensor(AYS_SIGMAS[table], dtype=torch.float64)
    grid = align_your_steps(table)
    high = float(published[0])
    torch.testing.assert_close(grid(10, 0.002, high)[:-1], published[:-1])
    twenty = grid(20, 0.002, high)
    torch.testing.assert_close(twenty[:-1:2], published[:-1])
    torch.testing.assert_close(twenty[1::2], (published[1:] * published[:-1]).sqrt())


def test_flow_shift_in_time() -> None:
    sigmas = flow_shift(3.0)(4, 0.003, SIGMA_LIMIT)
    time = sigmas / (1 + sigmas)
    torch.testing.assert_close(time[1:], torch.tensor([0.9, 0.75, 0.5, 0.0], dtype=torch.float64))
    assert sigmas[0] == SIGMA_LIMIT
    even = GRIDS["trailing"](FlowSchedule(3.0))(4, FlowSchedule(3.0).sigma_min, SIGMA_LIMIT)
    torch.testing.assert_close(even, sigmas)


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize(("steps", "low", "high"), [(0, 0.03, 14.6), (5, 0.0, 14.6), (5, 3.0, 2.0)])
def test_what_cannot_be_placed(name: str, steps: int, low: float, high: float) -> None:
    with pytest.raises(InputError):
        GRIDS[name](SD)(steps, low, high)


@pytest.mark.parametrize("name", ["leading", "trailing", "linspace", "beta"])
def test_more_steps_than_the_schedule_has(name: str) -> None:
    with pytest.raises(InputError, match="1000 steps"):
        GRIDS[name](SD)(1001, *FULL)


def test_no_such_table() -> None:
    with pytest.raises(InputError, match="'sd9'"):
        align_your_steps("sd9")
