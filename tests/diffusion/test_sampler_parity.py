"""The samplers beside k-diffusion, step for step, and beside diffusers' schedulers, on the same denoiser."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers
import pytest
import torch
from oracle import Mixture, Recorded, unit
from torch import Tensor

from calotype.diffusion.grids import exponential, karras, leading, linspace, trailing
from calotype.diffusion.samplers import SAMPLERS
from calotype.diffusion.schedule import NoiseSchedule

MIXTURE = Mixture.example(2, 3, 3)
SD = NoiseSchedule.scaled_linear()
FULL = (SD.sigma_min, SD.sigma_max)


@pytest.fixture(scope="module")
def k_diffusion() -> Iterator[ModuleType]:
    """k_diffusion.sampling alone: its package asks for torchvision, wandb and more that no sampler uses."""
    found = importlib.util.find_spec("k_diffusion")
    assert found is not None, "k-diffusion is missing: pip install --no-deps k-diffusion"
    assert found.submodule_search_locations is not None
    home = Path(next(iter(found.submodule_search_locations)))
    names = ["k_diffusion", "k_diffusion.utils", "torchsde", "torchdiffeq"]
    stand_ins = {name: ModuleType(name) for name in names}
    stand_ins["k_diffusion"].__path__ = [str(home)]
    stand_ins["torchdiffeq"].odeint = None
    stand_ins["k_diffusion.utils"].append_dims = lambda x, ndim: x[(...,) + (None,) * (ndim - x.ndim)]
    before = {name: sys.modules.get(name) for name in [*names, "k_diffusion.sampling"]}
    sys.modules.update(stand_ins)
    try:
        spec = importlib.util.spec_from_file_location("k_diffusion.sampling", home / "sampling.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        for name, module_before in before.items():
            if module_before is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module_before


def drawn(source: Recorded, x: Tensor) -> Any:
    """A k-diffusion noise sampler: it is asked with two levels, which unit noise does not depend on."""
    return lambda *_: source(x)


STEP_FOR_STEP = [
    ("euler", "sample_euler", {}, {}),
    ("ddim", "sample_euler", {}, {}),
    ("heun", "sample_heun", {}, {}),
    ("lms", "sample_lms", {}, {}),
    ("lms", "sample_lms", {"order": 2}, {"order": 2}),
    ("dpmpp_2m", "sample_dpmpp_2m", {}, {}),
    ("dpmpp_3m_sde", "sample_dpmpp_3m_sde", {"eta": 0.0}, {"eta": 0.0}),
    ("dpmpp_sde", "sample_dpmpp_2s_ancestral", {"eta": 0.0}, {"eta": 0.0}),
    ("dpmpp_2m_sde", "sample_dpmpp_2m_sde", {"eta": 0.0}, {"eta": 0.0}),
    ("euler_a", "sample_euler_ancestral", {}, {}),
    ("euler_a", "sample_euler_ancestral", {"eta": 0.6}, {"eta": 0.6}),
    ("ddpm", "sample_euler_ancestral", {}, {}),
    ("dpmpp_2m_sde", "sample_dpmpp_2m_sde", {}, {}),
    ("dpmpp_2m_sde", "sample_dpmpp_2m_sde", {"eta": 0.6, "s_noise": 1.1}, {"eta": 0.6, "s_noise": 1.1}),
    ("dpmpp_3m_sde", "sample_dpmpp_3m_sde", {}, {}),
    ("dpmpp_3m_sde", "sample_dpmpp_3m_sde", {"eta": 0.6}, {"eta": 0.6}),
]


@pytest.mark.parametrize(("name", "theirs", "options", "their_options"), STEP_FOR_STEP)
@pytest.mark.parametrize("grid", [karras, exponential], ids=["karras", "exponential"])
def test_k_diffusion_step_for_step(
    k_diffusion: ModuleType,
    name: str,
    theirs: str,
    options: dict[str, float],
    their_options: dict[str, float],
    grid,
) -> None:
    sigmas = grid(14, 0.03, 14.6)
    x = 14.6 * unit(3, 2, 3, 3)
    seen: list[Tensor] = []
    extra: dict[str, Any] = dict(their_options)
    if SAMPLERS[name].stochastic:
        extra["noise_sampler"] = drawn(Recorded(5), x)
    end = getattr(k_diffusion, theirs)(
        MIXTURE.denoise, x, sigmas, disable=True, callback=lambda info: seen.append(info["x"]), **extra
    )
    ours = [step.x for step in SAMPLERS[name](MIXTURE.denoise, x, sigmas, Recorded(5), **options)]
    for mine, other in zip(ours, [*seen[1:], end], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)


def test_k_diffusion_sde_with_one_brownian_path(k_diffusion: ModuleType) -> None:
    sigmas = karras(14, 0.03, 14.6)
    x = 14.6 * unit(3, 2, 3, 3)
    source = Recorded(5)
    first: list[tuple[Tensor, float]] = []

    def noise_sampler(s: Tensor, t: Tensor) -> Tensor:
        if not first:
            first.append((source(x), float(t)))
            return first[0][0]
        half, middle = first.pop()
        # the path of the whole step: its first half carried on by (t / m)^2, and the rest
        carried = (t / middle) ** 2 * middle * (1 - (middle / s) ** 2) ** 0.5 * half
        rest = t * (1 - (t / middle) ** 2) ** 0.5 * source(x)
        return (carried + rest) / (t * (1 - (t / s) ** 2) ** 0.5)

    end = k_diffusion.sample_dpmpp_sde(MIXTURE.denoise, x, sigmas, disable=True, noise_sampler=noise_sampler)
    *_, last = SAMPLERS["dpmpp_sde"](MIXTURE.denoise, x, sigmas, Recorded(5))
    torch.testing.assert_close(last.x, end, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("steps", [2, 13, 40])
def test_k_diffusion_grids(k_diffusion: ModuleType, steps: int) -> None:
    theirs = k_diffusion.get_sigmas_karras(steps, 0.03, 14.6).double()
    torch.testing.assert_close(karras(steps, 0.03, 14.6), theirs, rtol=1e-5, atol=0)
    theirs = k_diffusion.get_sigmas_exponential(steps, 0.03, 14.6).double()
    torch.testing.assert_close(exponential(steps, 0.03, 14.6), theirs, rtol=1e-5, atol=0)


def eps_network(x: Tensor, step: int) -> Tensor:
    """The mixture's exact noise network on a variance-preserving state."""
    sigma = SD.sigmas[step].expand(len(x))
    scale = (1 + SD.sigmas[step] ** 2).sqrt()
    return (x * scale - MIXTURE.denoise(x * scale, sigma)) / SD.sigmas[step]


BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
PLAIN = {"clip_sample": False}
DIFFUSERS = [
    ("ddim", {}, "DDIMScheduler", PLAIN | {"steps_offset": 1}, leading(SD, 1)),
    (
        "ddim",
        {},
        "DDIMScheduler",
        PLAIN | {"steps_offset": 1, "set_alpha_to_one": False},
        leading(SD, 1, SD.sigma_min),
    ),
    ("ddim", {}, "DDIMScheduler", PLAIN | {"timestep_spacing": "trailing"}, trailing(SD)),
    ("ddim", {"eta": 0.7}, "DDIMScheduler", PLAIN | {"timestep_spacing": "trailing"}, trailing(SD)),
    ("ddim", {"eta": 1.0}, "DDIMScheduler", PLAIN | {"steps_offset": 1}, leading(SD, 1)),
    ("ddpm", {}, "DDPMScheduler", PLAIN, leading(SD)),
    ("dpmpp_2m", {}, "DPMSolverMultistepScheduler", {"timestep_spacing": "trailing"}, trailing(SD)),
    ("unipc", {}, "UniPCMultistepScheduler", {"timestep_spacing": "trailing"}, trailing(SD)),
    (
        "unipc",
        {"order": 1},
        "UniPCMultistepScheduler",
        {"solver_order": 1, "timestep_spacing": "trailing"},
        trailing(SD),
    ),
]


@pytest.mark.parametrize(("name", "options", "scheduler", "config", "grid"), DIFFUSERS)
@pytest.mark.parametrize("steps", [10, 20])
def test_diffusers_on_the_same_timesteps(
    name: str, options: dict[str, float], scheduler: str, config: dict[str, Any], grid, steps: int
) -> None:
    theirs = getattr(diffusers, scheduler)(**BETAS, **config)
    theirs.set_timesteps(steps)
    sigmas = grid(steps, *FULL)
    assert SD.step_at(sigmas[:-1]).tolist() == pytest.approx(theirs.timesteps.tolist())
    scales = (1 + sigmas**2).sqrt()
    state = unit(3, 2, 3, 3)
    ours = SAMPLERS[name](MIXTURE.denoise, state * scales[0], sigmas, Recorded(5), **options)
    source = Recorded(5)
    for step, timestep, scale in zip(ours, theirs.timesteps, scales[1:], strict=True):
        extra: dict[str, Any] = {}
        if scheduler == "DDIMScheduler" and options.get("eta"):
            # it draws at the last step too, where its variance is 0
            extra = {"eta": options["eta"], "variance_noise": source(state)}
        if scheduler == "DDPMScheduler":
            extra = {"generator": source.generator}
        state = theirs.step(eps_network(state, int(timestep)), timestep, state, **extra).prev_sample
        torch.testing.assert_close(step.x / scale, state, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("spacing", "config", "grid"),
    [
        ("trailing", {}, trailing(SD)),
        ("linspace", {}, linspace(SD)),
        ("leading", {"steps_offset": 1}, leading(SD, 1)),
    ],
)
def test_diffusers_euler(spacing: str, config: dict[str, Any], grid) -> None:
    theirs = diffusers.EulerDiscreteScheduler(**BETAS, timestep_spacing=spacing, **config)
    theirs.set_timesteps(10)
    sigmas = grid(10, *FULL)
    state = sigmas[0] * unit(3, 2, 3, 3)
    ours = SAMPLERS["euler"](MIXTURE.denoise, state, sigmas, Recorded(0))
    for step, timestep in zip(ours, theirs.timesteps, strict=True):
        noise = eps_network(theirs.scale_model_input(state, timestep), int(timestep))
        state = theirs.step(noise, timestep, state).prev_sample
        torch.testing.assert_close(step.x, state, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("steps", [1, 2, 4, 20])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("at_one", [False, True])
def test_diffusers_plms(steps: int, spacing: str, at_one: bool) -> None:
    """Stable Diffusion 1.5's own scheduler; its first step takes two calls."""
    theirs = diffusers.PNDMScheduler(
        **BETAS, skip_prk_steps=True, set_alpha_to_one=at_one, timestep_spacing=spacing, steps_offset=1
    )
    theirs.alphas_cumprod = 1 / (1 + SD.sigmas**2)  # our table, in float64
    theirs.final_alpha_cumprod = torch.tensor(1.0) if at_one else theirs.alphas_cumprod[0]
    theirs.set_timesteps(steps)
    final = 0.0 if at_one else SD.sigma_min
    grid = leading(SD, 1, final) if spacing == "leading" else trailing(SD, final)
    sigmas = grid(steps, *FULL)
    scales = (1 + sigmas**2).sqrt()
    state = unit(3, 2, 3, 3)
    ours = [step.x for step in SAMPLERS["plms"](MIXTURE.denoise, state * scales[0], sigmas, Recorded(0))]
    seen = []
    for timestep in theirs.timesteps:
        state = theirs.step(eps_network(state, int(timestep)), int(timestep), state).prev_sample
        seen.append(state)
    if steps > 1:
        del seen[0]  # where the trapezoid looks, no step
    for mine, scale, other in zip(ours, scales[1:], seen, strict=True):
        torch.testing.assert_close(mine / scale, other, rtol=1e-10, atol=1e-10)


def test_diffusers_lcm() -> None:
    # Its boundary scalings (1 and 0 to six digits at these steps) belong to the consistency function.
    theirs = diffusers.LCMScheduler(**BETAS, clip_sample=False)
    theirs.set_timesteps(4)
    sigmas = torch.cat([SD.sigma_at(theirs.timesteps), torch.zeros(1, dtype=torch.float64)])
    scales = (1 + sigmas**2).sqrt()
    state = unit(3, 2, 3, 3)
    source = Recorded(5)
    ours = SAMPLERS["lcm"](MIXTURE.denoise, state * scales[0], sigmas, Recorded(5))
    for step, timestep, scale in zip(ours, theirs.timesteps, scales[1:], strict=True):
        noise = eps_network(state, int(timestep))
        state = theirs.step(noise, timestep, state, generator=source.generator).prev_sample
        torch.testing.assert_close(step.x / scale, state, rtol=0, atol=2e-5)
