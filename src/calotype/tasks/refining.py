"""A second model that takes over from the first near the end, as Stable Diffusion XL's refiner does."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from pydantic import BaseModel, ConfigDict, model_validator

from calotype.checkpoints import native, shelf
from calotype.diffusion.grids import SigmaGrid
from calotype.errors import CheckpointError, InputError
from calotype.models.config import ModelConfig
from calotype.models.latent_diffusion import LatentDiffusion, NetworkDenoiser
from calotype.models.offload import Offload

_loaded: WeakKeyDictionary[NetworkDenoiser, tuple[object, LatentDiffusion]] = WeakKeyDictionary()
"""The refiner of a model's last request, so that the next need not load it again."""


class Refining(BaseModel):
    """Fields of every `Request`.

    refiner       a model of the same latents, as `model` names one
    refiner_at    above 0, below 1: where it takes over, counted in trained noise levels as diffusers'
                  `denoising_end` does; SDXL's was trained on the last fifth alone (arXiv 2307.01952)
    refiner_hash  of its weights; None until resolved
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    refiner: str | None = None
    refiner_at: float = 0.8
    refiner_hash: str | None = None

    @model_validator(mode="after")
    def _check_refining(self) -> Refining:
        if not 0 < self.refiner_at < 1:
            raise InputError(
                f"refiner_at is {self.refiner_at}; give a part of the way above 0 and below 1, usually 0.8."
            )
        given = vars(self)
        for name in ("mask", "margin", "invert"):
            if self.refiner is not None and given.get(name) is not None:
                raise InputError(f"A refiner takes over from plain drawing, not with {name}; leave one out.")
        return self

    def refined(self, config: ModelConfig) -> dict[str, Any]:
        """The refiner's hash.

        Raises InputError where it is missing or another than the hash says, CheckpointError where it does not
        draw in the model's latents.
        """
        if self.refiner is None:
            return {}
        path = shelf.find(self.refiner)
        found = shelf.recognise(path)
        _check_fit(path, found.config, config)
        its = native.describe(path).weights_hash if isinstance(found, shelf.Native) else found.fingerprint()
        if self.refiner_hash not in (None, its):
            raise InputError(
                f"{self.refiner} is not the refiner this picture was made with: the hash of its weights "
                f"begins with {its[:12]}, not {(self.refiner_hash or '')[:12]}."
            )
        return {"refiner_hash": its}


def _check_fit(path: Path, refiner: ModelConfig, model: ModelConfig) -> None:
    def latents(config: ModelConfig) -> tuple[object, ...]:
        scale = None if config.autoencoder is None else config.autoencoder.scale
        return config.unet.out_channels, config.factor, scale, config.schedule

    if refiner.unet.in_channels != refiner.unet.out_channels or latents(refiner) != latents(model):
        raise CheckpointError(
            f"{path}, a {refiner.name}, draws in other latents or noise levels than {model.name}, so that it "
            "cannot go on where that stops; name a refiner of the same family."
        )


def loaded(model: LatentDiffusion, refining: Refining) -> LatentDiffusion:
    """The refiner, beside the model and in its precision."""
    assert refining.refiner is not None
    key = (refining.refiner_hash, model.device, model.dtype)
    known = _loaded.get(model.denoiser)
    if known is None or known[0] != key:
        one_by_one = (
            None if model.offload is None else Offload(model.device, model.dtype, beside=model.offload)
        )
        path = shelf.find(refining.refiner)
        known = (key, shelf.load(path, model.device, model.dtype, offload=one_by_one, widen=None))
        _loaded[model.denoiser] = known
    return known[1]


def turn(model: LatentDiffusion, sigmas: SigmaGrid, at: float) -> int:
    """After how many steps of the grid the refiner takes over.

    Raises InputError where one of the two would have nothing to do.
    """
    steps = model.denoiser.schedule.step_at(sigmas[:-1])
    total = model.config.schedule.steps
    turned = int((steps >= round(total * (1 - at)) - 1e-6).sum())
    if not 0 < turned < len(steps):
        raise InputError(
            f"With refiner_at {at:g}, the {'refiner' if turned else 'model'} has none of the {len(steps)} "
            "steps; take more steps, or move it."
        )
    return turned
