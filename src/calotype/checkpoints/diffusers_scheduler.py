"""diffusers' scheduler_config.json, to our schedule and defaults and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from calotype.checkpoints.detect import Family
from calotype.checkpoints.diffusers_config import made
from calotype.errors import CheckpointError, shown
from calotype.models.config import Defaults, ModelConfig, ScheduleConfig

SAMPLERS = {
    "DDIMScheduler": ("ddim", "leading"),
    "DDPMScheduler": ("ddpm", "leading"),
    "EulerDiscreteScheduler": ("euler", "linspace"),
    "EulerAncestralDiscreteScheduler": ("euler_a", "linspace"),
    "HeunDiscreteScheduler": ("heun", "linspace"),
    "LMSDiscreteScheduler": ("lms", "linspace"),
    "DPMSolverMultistepScheduler": ("dpmpp_2m", "linspace"),
    "UniPCMultistepScheduler": ("unipc", "linspace"),
    "PNDMScheduler": ("plms", "leading"),
    "LCMScheduler": ("lcm", "lcm"),
}
"""diffusers' class: our sampler, and the spacing of steps it has where the folder names none."""

BETAS: dict[str, Literal["linear", "scaled_linear", "cosine"]] = {
    "linear": "linear",
    "scaled_linear": "scaled_linear",
    "squaredcos_cap_v2": "cosine",
}
FEW_STEPS = 4
"""Usual of LCM, Turbo and Lightning, which were made for 1 to 8."""

PREDICTIONS = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}
SIGMAS = {"use_karras_sigmas": "karras", "use_exponential_sigmas": "exponential", "use_beta_sigmas": "beta"}


def read(path: Path, told: Mapping[str, Any], family: Family) -> tuple[ScheduleConfig, Defaults]:
    """Of scheduler/scheduler_config.json.

    The sampler is the scheduler's where Calotype has it, else the family's; `remarks` says so.
    Raises CheckpointError for noise levels that Calotype does not make.
    """
    schedule = levels(path, told)
    zero = schedule.zero_terminal_snr
    sampler, spacing = SAMPLERS.get(str(told.get("_class_name")), (family.sampler, family.grid))
    spaced = told.get("timestep_spacing", spacing) if str(told.get("_class_name")) in SAMPLERS else spacing
    grid = next((grid for key, grid in SIGMAS.items() if told.get(key)), spaced)
    if sampler == "lcm":
        grid = "lcm"
    elif zero:
        grid = "trailing"
    few = sampler == "lcm" or _of_few_steps(told, sampler, grid)
    if sampler == "dpmpp_2m" and told.get("algorithm_type") == "sde-dpmsolver++":
        sampler = "dpmpp_2m_sde"
    return schedule, made(
        path,
        Defaults,
        steps=FEW_STEPS if few else family.steps,
        guidance=1.0 if few and family.sampler != "lcm" else family.guidance,
        sampler=sampler,
        grid=grid,
        prompt_syntax="a1111",
        offset=told.get("steps_offset", 0),
        ends_at_first=not told.get("set_alpha_to_one", True),
    )


def remarks(told: Mapping[str, Any]) -> tuple[str, ...]:
    """What a person should know of a scheduler that Calotype follows in part only, a sentence each."""
    kind = str(told.get("_class_name"))
    if kind not in SAMPLERS:
        return (
            f"Its scheduler is {shown(kind)}, which Calotype does not have; its sampler is its family's.",
        )
    if kind == "PNDMScheduler" and not told.get("skip_prk_steps", False):
        return ("Its scheduler begins with Runge-Kutta steps, which Calotype leaves out, as most do.",)
    order, algorithm = told.get("solver_order", 2), told.get("algorithm_type", "dpmsolver++")
    if kind == "DPMSolverMultistepScheduler" and (order != 2 or not str(algorithm).endswith("dpmsolver++")):
        return (
            f"Its scheduler is {algorithm} of order {order}; Calotype's sampler is dpmsolver++ of order 2.",
        )
    return ()


def _of_few_steps(told: Mapping[str, Any], sampler: str, grid: str) -> bool:
    """Whether a scheduler is that of a model distilled for few steps without guidance: Turbo's (arXiv
    2311.17042) and Lightning's (arXiv 2402.13929) are Euler from the last step, though no schedule that ends
    in pure noise asks for it.
    """
    zero, predicted = told.get("rescale_betas_zero_snr"), told.get("prediction_type", "epsilon")
    return sampler in ("euler", "euler_a") and grid == "trailing" and not zero and predicted != "v_prediction"


def levels(path: Path, told: Mapping[str, Any]) -> ScheduleConfig:
    """The noise levels alone; CheckpointError for some that Calotype does not make."""
    betas = told.get("beta_schedule", "linear")
    if not isinstance(betas, str) or betas not in BETAS or told.get("trained_betas") is not None:
        raise CheckpointError(
            f"{path} has beta_schedule {betas!r} or trained_betas; Calotype makes {', '.join(BETAS)}."
        )
    return made(
        path,
        ScheduleConfig,
        kind=BETAS[betas],
        steps=told.get("num_train_timesteps", 1000),
        beta_start=told.get("beta_start", 0.0001),
        beta_end=told.get("beta_end", 0.02),
        zero_terminal_snr=bool(told.get("rescale_betas_zero_snr", False)),
    )


SPACINGS = {"leading": "leading", "trailing": "trailing", "linspace": "linspace", "raised": "trailing"}


def settings(config: ModelConfig) -> dict[str, Any]:
    """The inverse; CheckpointError for a model that is no diffusion by steps.

    A sampler or grid that diffusers does not have is left out for DDIM's, the raised grid for the one it is
    raised from.
    """
    schedule, own = config.schedule, config.defaults
    if schedule.kind not in BETAS.values() or config.parameterization not in PREDICTIONS:
        raise CheckpointError(
            f"The model {config.name} is trained as {config.parameterization} on a {schedule.kind} schedule, "
            "which diffusers' Stable Diffusion does not sample; convert it to --format native."
        )
    kinds = {sampler: kind for kind, (sampler, _) in SAMPLERS.items()}
    told: dict[str, Any] = level_settings(schedule) | {
        "_class_name": kinds.get(own.sampler.removesuffix("_sde"), "DDIMScheduler"),
        "prediction_type": PREDICTIONS[config.parameterization],
        "timestep_spacing": SPACINGS.get(own.grid, "leading"),
        # Where it means nothing, 1 spares people a warning of the pipeline's.
        "steps_offset": own.offset if own.grid == "leading" else 1,
    }
    if told["_class_name"] == "DDIMScheduler":
        told |= {"clip_sample": False, "set_alpha_to_one": not own.ends_at_first}
    if told["_class_name"] == "PNDMScheduler":
        told |= {"skip_prk_steps": True, "set_alpha_to_one": not own.ends_at_first}
    if own.sampler == "dpmpp_2m_sde":
        told["algorithm_type"] = "sde-dpmsolver++"
    told |= {key: True for key, grid in SIGMAS.items() if grid == own.grid}
    return told


def level_settings(schedule: ScheduleConfig) -> dict[str, Any]:
    """The inverse of `levels`, for a schedule of betas."""
    names: dict[str, str] = {ours: theirs for theirs, ours in BETAS.items()}
    return {
        "num_train_timesteps": schedule.steps,
        "beta_schedule": names[schedule.kind],
        "beta_start": schedule.beta_start,
        "beta_end": schedule.beta_end,
        "rescale_betas_zero_snr": schedule.zero_terminal_snr,
    }
