"""From the sizes of its networks and its family to a model's config."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from calotype.checkpoints.detect import Family
from calotype.checkpoints.diffusers_scheduler import FEW_STEPS
from calotype.checkpoints.prediction import Prediction
from calotype.conditioning.config import TextConfig
from calotype.conditioning.sizes import SizeConfig
from calotype.errors import CheckpointError
from calotype.models.config import Defaults, LowResConfig, ModelConfig, ScheduleConfig
from calotype.networks.config import AutoencoderConfig, ClipTextConfig, UNetConfig

UPSCALER = ScheduleConfig("scaled_linear", beta_start=1e-4, beta_end=0.02)
"""The x4 upscaler's noise levels, of its latents and of its small picture alike (x4-upscaling.yaml)."""


def text_configs(
    family: Family, towers: list[ClipTextConfig], pads: list[str | None]
) -> tuple[TextConfig, ...]:
    """Which layer of each tower the family reads; `pads`: what fills a short prompt, tower by tower."""
    if not family.sized:
        return tuple(TextConfig(clip, pad_token=pad) for clip, pad in zip(towers, pads, strict=True))
    last = len(towers) - 1
    return tuple(
        TextConfig(clip, layer=-2, final_norm=False, pooled=i == last, pad_token=pad)
        for i, (clip, pad) in enumerate(zip(towers, pads, strict=True))
    )


def model_config(
    path: Path,
    family: Family,
    decided: Prediction,
    unet: UNetConfig,
    autoencoder: AutoencoderConfig,
    text: tuple[TextConfig, ...],
    *,
    schedule: ScheduleConfig | None = None,
    defaults: Defaults | None = None,
    zero_negative: bool | None = None,
    low_res: LowResConfig | None = None,
) -> ModelConfig:
    """The whole; what is None is the family's own.

    Raises CheckpointError where text towers and U-Net do not fit each other.
    """
    told = sum(tower.clip.width for tower in text)
    if unet.context_width not in (0, told):
        raise CheckpointError(
            f"{path} has a U-Net for text {unet.context_width} wide, but text encoders of {told} in all; "
            "its parts are from different models."
        )
    upscales = unet.classes is not None
    usual = UPSCALER if upscales else ScheduleConfig("scaled_linear")
    return ModelConfig(
        name=family.name,
        about=family.title,
        size=family.v_size if decided.kind == "v" else family.size,
        autoencoder=autoencoder,
        text=text,
        unet=unet,
        parameterization=decided.kind,
        schedule=schedule or dataclasses.replace(usual, zero_terminal_snr=decided.zero_terminal_snr),
        defaults=defaults or family_defaults(family, decided),
        sizes=_sizes(path, family, unet, text) if family.sized else None,
        zero_negative=family.zero_negative if zero_negative is None else zero_negative,
        low_res=(low_res or LowResConfig(UPSCALER)) if upscales else None,
    )


FEW = {"turbo": ("euler_a", "trailing"), "lightning": ("euler", "trailing"), "lcm": ("lcm", "lcm")}
"""Models distilled for few steps without guidance, by a word of their title: sampler and grid."""


def family_defaults(family: Family, decided: Prediction, title: str = "") -> Defaults:
    """A family's usual way; one that begins in pure noise needs a grid that begins there.

    title  what the file's metadata call the model, which tells one that was distilled for few steps
    """
    words = re.findall(r"[a-z]+", title.lower())
    few = next((FEW[word] for word in words if word in FEW), None)
    if few is None or family.sampler == "lcm":
        sampler, grid = family.sampler, "trailing" if decided.zero_terminal_snr else family.grid
        steps, guidance = family.steps, family.guidance
    else:
        (sampler, grid), steps, guidance = few, FEW_STEPS, 1.0
    return Defaults(
        steps,
        guidance,
        sampler,
        grid,
        prompt_syntax="a1111",
        offset=1,
        ends_at_first=True,
    )


def _sizes(path: Path, family: Family, unet: UNetConfig, text: tuple[TextConfig, ...]) -> SizeConfig:
    """How the vector is divided: the pooled text, and as many features for each number."""
    clip = text[-1].clip
    pooled = clip.projection_width or clip.width
    aesthetic = family.name == "sdxl-refiner"
    rest, over = divmod((unet.vector_width or 0) - pooled, 5 if aesthetic else 6)
    if over or rest < 2 or rest % 2:
        raise CheckpointError(
            f"{path} has a conditioning vector {unet.vector_width} wide, which does not hold the pooled text "
            f"({pooled}) and {5 if aesthetic else 6} sizes; its parts are from different models."
        )
    return SizeConfig(rest, aesthetic)
