"""Inversion, on data whose denoiser is known exactly."""

import pytest
import torch
from oracle import Mixture, NoNoise, fitted_slope, unit
from torch import Tensor

from calotype.diffusion.grids import karras
from calotype.diffusion.noise import Between, PictureNoise, slerp
from calotype.diffusion.samplers import SAMPLERS
from calotype.diffusion.schedule import AdditiveProcess
from calotype.diffusion.walk import PATHS, Found, Given

MIXTURE = Mixture.example(2, 4, 4)
LOW, HIGH = 0.03, 14.0


def grid(steps: int) -> Tensor:
    """Falling, and ending at LOW, where the picture stands."""
    return karras(steps + 1, LOW, HIGH)[:-1]


def follow(sampler: str, x: Tensor, sigmas: Tensor, noise: object = None, denoiser: object = None) -> Tensor:
    run = SAMPLERS[sampler](denoiser or MIXTURE.denoise, x, sigmas, noise or NoNoise())  # type: ignore[arg-type]
    return list(run)[-1].x


def test_euler_inversion_and_back_is_of_first_order() -> None:
    x0 = MIXTURE.sample(8) + LOW * unit(8, 2, 4, 4)
    counts = [64, 128, 256, 512]
    errors = []
    for count in counts:
        sigmas = grid(count)
        again = follow("euler", follow("euler", x0, sigmas.flip(0)), sigmas)
        errors.append(float((again - x0).square().mean().sqrt()))
    assert fitted_slope(counts, errors) == pytest.approx(1.0, abs=0.15)
    assert errors[-1] < 0.05


def test_euler_inversion_finds_the_noise_of_the_probability_flow() -> None:
    line = Mixture.line()
    x0 = line.sample(50)
    exact = line.flow(x0, LOW, HIGH)
    counts = [50, 100, 200, 400]
    errors = [
        float((follow("euler", x0, grid(n).flip(0), denoiser=line.denoise) - exact).abs().mean())
        for n in counts
    ]
    assert fitted_slope(counts, errors) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
def test_the_exact_walk_gives_the_input_back(name: str, dtype: torch.dtype, limit: float) -> None:
    x0, sigmas = MIXTURE.sample(3).to(dtype), grid(20)
    path, draws = PATHS[name](x0, sigmas, PictureNoise([1, 2, 3])), []
    found = follow("ddpm", path[0], sigmas, Found(path, sigmas, draws))
    assert (found - x0).abs().max() < limit
    assert torch.equal(follow("ddpm", path[0], sigmas, Given(draws)), found)
    assert len(draws) == 20


@pytest.mark.parametrize("name", PATHS)
def test_another_denoiser_makes_something_else_of_the_same_noise(name: str) -> None:
    x0, sigmas, draws = MIXTURE.sample(3), grid(20), []
    path = PATHS[name](x0, sigmas, PictureNoise([1, 2, 3]))
    follow("ddpm", path[0], sigmas, Found(path, sigmas, draws))
    other = Mixture(MIXTURE.means + 3, [0.3, 0.6, 0.15], [0.5, 0.2, 0.3])
    edited = follow("ddpm", path[0], sigmas, Given(draws), other.denoise)
    # the layout, what is left without the means, stays; the means move by 3
    assert float((edited - x0).mean()) == pytest.approx(3, abs=0.3)


def test_the_paths_have_the_marginals_of_the_process() -> None:
    x0, sigmas = torch.zeros(400, 1, 4, 4, dtype=torch.float64), grid(6)
    noise = PictureNoise(range(400))
    wanted = (sigmas**2 - LOW**2).sqrt()
    for name, correlated in (("walk", True), ("edit_friendly", False)):
        path = torch.stack(PATHS[name](x0, sigmas, noise)).flatten(1)  # (levels, numbers)
        torch.testing.assert_close(path.square().mean(1).sqrt(), wanted, rtol=0.05, atol=1e-6)
        # neighbours of the plain process share all but the last increment; the others share nothing
        shared = float((path[0] * path[1]).mean() / path[1].square().mean())
        assert shared == pytest.approx(1.0 if correlated else 0.0, abs=0.1)


def test_on_the_plain_process_the_noise_found_is_that_of_ddpm() -> None:
    """Data of one point: there DDPM's posterior is the plain process turned round, its noise unit noise."""
    point = Mixture(torch.zeros(1, 1, 8, 8), [1e-6], [1.0])
    sigmas, draws = grid(10), []
    path = PATHS["walk"](torch.zeros(200, 1, 8, 8, dtype=torch.float64), sigmas, PictureNoise(range(200)))
    follow("ddpm", path[0], sigmas, Found(path, sigmas, draws), point.denoise)
    deviations = torch.stack([draw.std() for draw in draws[:-3]])  # the last know that the picture is exact
    torch.testing.assert_close(deviations, torch.ones_like(deviations), rtol=0.03, atol=0)
    assert abs(float((draws[0] * draws[1]).mean())) < 0.03


def test_what_was_added_is_taken_away() -> None:
    process = AdditiveProcess(torch.tensor([0.2, 0.5, 1.3, 4.0]))
    x0 = MIXTURE.sample(2)
    noises = [unit(2, 2, 4, 4, seed=i) for i in range(4)]
    forth = list(process.walk(x0, iter(noises)))
    back = list(process.back(forth[-1], iter(noises[::-1])))
    for state, again in zip([x0, *forth[:-1]], back[::-1], strict=True):
        torch.testing.assert_close(again, state, rtol=0, atol=1e-14)


def test_slerp_keeps_its_ends_and_its_length() -> None:
    one, other = unit(3, 4, 16, 16), unit(3, 4, 16, 16, seed=1)
    torch.testing.assert_close(slerp(one, other, 0.0), one)
    torch.testing.assert_close(slerp(one, other, 1.0), other)
    torch.testing.assert_close(slerp(one, one, 0.3), one)
    for amount in (0.2, 0.5, 0.9):
        mixed = slerp(one, other, amount)
        assert float(mixed.std()) == pytest.approx(1.0, abs=0.03)
        # half way is equally far from both
        near, far = (float((mixed * end).mean()) for end in (one, other))
        assert near == pytest.approx(torch.cos(torch.tensor(amount * torch.pi / 2)).item(), abs=0.05)
        assert far == pytest.approx(torch.sin(torch.tensor(amount * torch.pi / 2)).item(), abs=0.05)


def test_noise_between_two_seeds() -> None:
    x = torch.zeros(2, 4, 8, 8)
    first, second = PictureNoise([1, 2])(x), PictureNoise([5, 6])(x)
    between = Between(PictureNoise([1, 2]), PictureNoise([5, 6]), 0.3)
    assert torch.equal(between(x), slerp(first, second, 0.3))
    assert not torch.equal(between(x), slerp(first, second, 0.3))  # the next draw
