"""Whole ways down the noise, in float64: every family beside diffusers' U-Net, schedulers and pipelines."""

from __future__ import annotations

import dataclasses
import importlib
from types import ModuleType
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from tests.checkpoints.families import CONFIGS, Theirs, written_by_diffusers
from tests.networks.reference import relative_error
from torch import Tensor

from calotype.checkpoints import shelf
from calotype.conditioning.conditioning import Conditioning
from calotype.diffusion import guidance
from calotype.diffusion.grids import GRIDS, SigmaGrid, leading, trailing
from calotype.diffusion.samplers import SAMPLERS
from calotype.models.latent_diffusion import LatentDiffusion
from calotype.tasks.condition import guidance_features

SAME, STEPS, SCALE = 1e-8, 8, 3.0
SCHEDULERS = {
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}),
    "euler": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"timestep_spacing": "trailing"}),
    "unipc": ("UniPCMultistepScheduler", {"timestep_spacing": "trailing"}),
}
MODULES = [
    "ddim",
    "euler_discrete",
    "euler_ancestral_discrete",
    "dpmsolver_multistep",
    "unipc_multistep",
    "lcm",
]
BY_SIGMA = ("Euler",)
"""Their schedulers whose state is x0 + sigma * noise, as ours; that of the others is shrunk to variance 1."""


@pytest.fixture(autouse=True)
def doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their schedulers, which insist on float32, in float64."""
    for name in MODULES:
        module = importlib.import_module(f"diffusers.schedulers.scheduling_{name}")
        for library, there in (("torch", torch), ("np", np)):
            stand_in = ModuleType(library)
            vars(stand_in).update(vars(there), float32=there.float64)
            monkeypatch.setattr(module, library, stand_in)


QUICK = ("sd1",)
FAMILIES = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.verify) for name in CONFIGS]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Theirs:
    return written_by_diffusers(request.param, tmp_path_factory.mktemp(request.param))


def scheduler(theirs: Theirs, model: LatentDiffusion, name: str, **options: Any) -> Any:
    """Theirs with our table of noise levels, whose betas are rounded to float32 as theirs usually are."""
    told = theirs.config.schedule
    made = getattr(diffusers, name)(
        beta_start=told.beta_start,
        beta_end=told.beta_end,
        beta_schedule=told.kind,
        prediction_type={"eps": "epsilon", "v": "v_prediction"}[theirs.config.parameterization],
        **options,
    )
    made.alphas_cumprod = 1 / (1 + model.denoiser.schedule.sigmas**2)
    made.final_alpha_cumprod = made.alphas_cumprod[0]
    return made


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def conditions(theirs: Theirs) -> tuple[Conditioning, Conditioning]:
    """Two random ones, with whatever the family wants to know."""
    unet = theirs.config.unet
    width, more = unet.guidance_width, unet.in_channels - 4
    shared = Conditioning(
        channels=normal(1, more, 6, 4, seed=5) if more else None,
        label=None if unet.classes is None else torch.tensor([7]),
        guidance=None if width is None else guidance_features(SCALE, width).double(),
    )
    vector = None if unet.vector_width is None else unet.vector_width
    return tuple(
        dataclasses.replace(
            shared,
            tokens=normal(1, 5, unet.context_width, seed=seed),
            vector=None if vector is None else normal(1, vector, seed=seed + 10),
        )
        for seed in (1, 2)
    )  # type: ignore[return-value]


def their_network(theirs: Theirs, x: Tensor, timestep: Tensor, condition: Conditioning) -> Tensor:
    unet: Any = theirs.unet
    options: dict[str, Any] = {"class_labels": condition.label, "timestep_cond": condition.guidance}
    if condition.channels is not None:
        x = torch.cat([x, condition.channels], dim=1)
    if condition.vector is not None:
        # The pooled text and the sizes' sinusoids are given as one, behind their embedding of numbers.
        unet.add_time_proj.forward = lambda numbers: condition.vector[:, 64:].reshape(len(numbers), -1)
        numbers = torch.zeros(1, (condition.vector.shape[1] - 64) // 8)
        options["added_cond_kwargs"] = {"text_embeds": condition.vector[:, :64], "time_ids": numbers}
    try:
        out: Tensor = unet(x, timestep, condition.tokens, **options).sample
    finally:
        if condition.vector is not None:
            del unet.add_time_proj.forward
    return out


def ours(
    model: LatentDiffusion,
    sampler: str,
    sigmas: SigmaGrid,
    unit: Tensor,
    told: tuple[Conditioning, ...],
    scale: float,
    noise: Any = None,
) -> Tensor:
    denoiser = guidance.guided(model.denoiser, (told[0], told[-1]), scale)
    x = sigmas[0] * unit
    for step in SAMPLERS[sampler](denoiser, x, sigmas, noise or (lambda like: torch.zeros_like(like))):
        x = step.x
    return x


@pytest.mark.parametrize("sampler", SCHEDULERS)
@torch.no_grad()
def test_latents_after_eight_steps(family: Theirs, sampler: str) -> None:
    model = shelf.load(family.folder, dtype=None)
    name, options = SCHEDULERS[sampler]
    theirs = scheduler(family, model, name, **options)
    theirs.set_timesteps(STEPS)
    schedule = model.denoiser.schedule
    low, high = schedule.sigma_min, schedule.sigma_max
    sigmas = (leading(schedule, 1, low) if sampler == "ddim" else trailing(schedule))(STEPS, low, high)
    unit, told = normal(1, 4, 6, 4, seed=3), conditions(family)
    found = ours(model, sampler, sigmas, unit, told, SCALE)

    shrinks = not name.startswith(BY_SIGMA)
    state = unit * sigmas[0] / ((1 + sigmas[0] ** 2).sqrt() if shrinks else 1)
    for timestep in theirs.timesteps:
        x = theirs.scale_model_input(state, timestep)
        wanted, away = (their_network(family, x, timestep, one) for one in told)
        state = theirs.step(away + SCALE * (wanted - away), timestep, state).prev_sample
    if shrinks:
        state = state * (1 + sigmas[-1] ** 2).sqrt()
    assert state.dtype == torch.float64
    assert relative_error(found, state) <= SAME


class Drawn:
    """Noise of one generator, as their schedulers draw it."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(9)

    def __call__(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator, dtype=torch.float64)


FEW = {
    # at its usual scaling of 10, LCM's boundary condition leaves 4e-8 of the state in the answer; ours none
    "lcm": ("lcm", "LCMScheduler", {"clip_sample": False, "timestep_scaling": 1e6}, "lcm"),
    "turbo": ("sdxl", "EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}, "euler_a"),
    "lightning": ("sdxl", "EulerDiscreteScheduler", {"timestep_spacing": "trailing"}, "euler"),
}


@pytest.mark.parametrize("kind", FEW)
@pytest.mark.parametrize("steps", [pytest.param(1, marks=pytest.mark.verify), 4])
@torch.no_grad()
def test_few_steps_as_their_pipelines_take_them(kind: str, steps: int, tmp_path: Any) -> None:
    name, theirs, options, sampler = FEW[kind]
    family = written_by_diffusers(name, tmp_path)
    model = shelf.load(family.folder, dtype=None)
    condition = model.text_encoder(["a red apple"])
    parts: dict[str, Any] = {
        "vae": family.vae,
        "unet": family.unet,
        "scheduler": scheduler(family, model, theirs, **options),
        "text_encoder": None,
        "tokenizer": None,
        "feature_extractor": None,
    }
    asked: dict[str, Any] = {"prompt_embeds": condition.tokens, "num_inference_steps": steps}
    if name == "lcm":
        pipe: Any = diffusers.LatentConsistencyModelPipeline(
            **parts, safety_checker=None, requires_safety_checker=False
        )
        asked |= {"guidance_scale": SCALE, "original_inference_steps": 50}
        width = family.config.unet.guidance_width or 0
        features = pipe.get_guidance_scale_embedding(torch.tensor([SCALE - 1]), embedding_dim=width)
        torch.testing.assert_close(guidance_features(SCALE, width), features, rtol=0, atol=1e-3)
        condition = dataclasses.replace(condition, guidance=features.double())
        unit = normal(1, 4, 8, 12, seed=4)
    else:
        parts |= {"text_encoder_2": None, "tokenizer_2": None, "add_watermarker": False}
        pipe = diffusers.StableDiffusionXLPipeline(**parts)
        asked |= {"guidance_scale": 0.0, "pooled_prompt_embeds": condition.vector}
        asked |= {"original_size": (16, 24), "target_size": (16, 24)}
        assert family.config.sizes is not None
        assert condition.vector is not None
        sizes = family.config.sizes.vector(24, 16, negative=False).double()
        condition = dataclasses.replace(condition, vector=torch.cat([condition.vector, sizes], dim=1))
        unit = normal(1, 4, 8, 12, seed=4)
    pipe.set_progress_bar_config(disable=True)
    schedule = model.denoiser.schedule
    grid = GRIDS["lcm"](schedule) if kind == "lcm" else trailing(schedule)
    sigmas = grid(steps, schedule.sigma_min, schedule.sigma_max)
    start = unit * sigmas[0] / (1 + sigmas[0] ** 2).sqrt()
    if kind != "lcm":  # which multiplies by its own first level
        start = unit * sigmas[0] / _first(parts["scheduler"], steps)
    wanted = pipe(
        latents=start, output_type="latent", generator=Drawn().generator, height=16, width=24, **asked
    ).images
    found = ours(model, sampler, sigmas, unit, (condition,), 1.0, Drawn())
    assert wanted.dtype == torch.float64
    assert relative_error(found, wanted) <= SAME


def _first(scheduler: Any, steps: int) -> Tensor:
    scheduler.set_timesteps(steps)
    return torch.as_tensor(scheduler.init_noise_sigma, dtype=torch.float64)
