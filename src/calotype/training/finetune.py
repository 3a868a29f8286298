"""A finished model that goes on learning, whole or in part: what all fine-tuning has in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from calotype.checkpoints import native, single_file
from calotype.conditioning.conditioning import Conditioning
from calotype.diffusion.grids import GRIDS
from calotype.diffusion.guidance import guided
from calotype.diffusion.noise import PictureNoise
from calotype.diffusion.samplers import SAMPLERS
from calotype.errors import InputError
from calotype.models.latent_diffusion import LatentDiffusion
from calotype.training.denoising import DiffusionObjective
from calotype.training.prepared import Examples
from calotype.training.tune_config import FineTuning


class FineTune(DiffusionObjective):
    """The denoising loss of a loaded model by its own parameterization, schedule and text encoders.

    What does not train is no sub-module, so that it lies in no checkpoint; it moves along all the same.
    """

    def __init__(
        self,
        config: FineTuning,
        model: LatentDiffusion,
        training: Examples,
        held_out: Examples | None,
        *,
        text_changes: bool = False,
        single_file: bool = False,
    ) -> None:
        """single_file: the layout of a whole model's file, else Calotype's own.

        Raises InputError for a model that is told more than words: inpainting, upscaling, classes, LCM.
        """
        _refuse_conditions(model)
        self._zero = model.config.zero_negative
        super().__init__(config, model, training, held_out, text_changes=text_changes)
        self._single_file = single_file
        self._still: dict[str, nn.Module] = {}
        if not config.train_text_encoder:
            self.keep_still("text_encoder")
        model.autoencoder.requires_grad_(False)
        for parameter in self.parameters():
            parameter.data = parameter.data.clone()  # loaded weights may be views of their file
        self._nothing = model.text_encoder.tokenize([""]).transpose(0, 1)  # (T 1 L) -> (1 T L)

    def keep_still(self, name: str) -> None:
        """Takes a part out of what trains and is saved; it stays at hand under its name."""
        module = self._modules.pop(name, None)
        if module is not None:
            self.__dict__[name] = self._still[name] = module.requires_grad_(False)

    def still(self) -> Sequence[nn.Module]:
        return tuple(self._still.values())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FineTune:
        for module in self.still():
            module._apply(fn)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def features(self, examples: Examples) -> dict[str, Tensor]:
        found = super().features(examples)
        if self._zero:
            for value in found.values():
                value[0] = 0  # the row of no caption, which such a model hears as zeros
        return found

    def known(
        self,
        latents: Tensor,
        tokens: Tensor | None = None,
        context: Tensor | None = None,
        vector: Tensor | None = None,
        label: Tensor | None = None,
    ) -> Conditioning:
        found = super().known(latents, tokens, context, vector, label)
        if tokens is not None and self._zero:
            said = (tokens != self._nothing.to(tokens.device)).flatten(1).any(1)  # (B T L) -> (B)
            zeroed = {
                name: value * said.view(-1, *[1] * (value.ndim - 1))
                for name, value in (("tokens", found.tokens), ("vector", found.vector))
                if value is not None
            }
            found = dataclasses.replace(found, **zeroed)
        height, width = (side * self._model[0].config.factor for side in latents.shape[-2:])
        return sized(self._model[0], found, width, height)

    @torch.no_grad()
    def samples(self) -> Tensor | None:
        """One picture for each of the config's prompts by the model's own sampler, seeds from 0."""
        config = self.config
        assert isinstance(config, FineTuning)
        prompts = config.sample_prompts
        if not prompts:
            return None
        return pictures(self._model[0], prompts, self._training.latents.shape, range(len(prompts)))

    @torch.no_grad()
    def export(self, path: Path, recipe: Mapping[str, Any]) -> None:
        """The whole model in float16."""
        if self._single_file:
            single_file.write(path, self._model[0], torch.float16, recipe)
        else:
            native.save(path, self._model[0], recipe=recipe)


def _refuse_conditions(model: LatentDiffusion) -> None:
    config = model.config
    unet = config.unet
    for what, wanted in (
        ("a mask and a picture beside the noise", unet.in_channels != unet.out_channels),
        ("a class or noise level", unet.classes is not None),
        ("a guidance embedding", unet.guidance_width is not None),
    ):
        if wanted:
            raise InputError(
                f"The model {config.name} is told {what}, which this training does not give it; "
                "fine-tune the plain model of its family."
            )


def sized(
    model: LatentDiffusion, known: Conditioning, width: int, height: int, *, negative: bool = False
) -> Conditioning:
    """SDXL's numbers of an uncropped picture of that size, joined to the pooled text; others unchanged."""
    sizes, vector = model.config.sizes, known.vector
    if sizes is None or vector is None:
        return known
    told = sizes.vector(width, height, negative=negative).to(vector).expand(len(vector), -1)
    # (B P), (B S) -> (B P+S)
    return dataclasses.replace(known, vector=torch.cat([vector, told], dim=1))


@torch.no_grad()
def pictures(
    model: LatentDiffusion,
    prompts: Sequence[str],
    shape: Sequence[int],
    seeds: Sequence[int],
    steps: int | None = None,
    told: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Pictures (N 3 H W) in [-1, 1], one a prompt and seed, from latents of `shape` (C h w), by the model's
    own sampler, grid, steps and guidance; `told` are further fields of their conditions, N rows each.
    """
    config = model.config
    usual, schedule = config.defaults, model.denoiser.schedule
    device = next(model.denoiser.network.parameters()).device
    noise, blank = PictureNoise(seeds), torch.zeros(len(prompts), *shape, device=device)
    sigmas = GRIDS[usual.grid](schedule)(steps or usual.steps, schedule.sigma_min, schedule.sigma_max)
    height, width = (side * config.factor for side in shape[-2:])
    said = model.text_encoder(list(prompts))
    against = model.text_encoder([""] * len(prompts)).scaled(0.0 if config.zero_negative else 1.0)
    conditions = (
        sized(model, said, width, height),
        sized(model, against, width, height, negative=True),
    )
    if told is not None:
        said, against = (dataclasses.replace(condition, **told) for condition in conditions)
        conditions = (said, against)
    denoiser = guided(model.denoiser, conditions, usual.guidance)
    latents = blank
    for step in SAMPLERS[usual.sampler](denoiser, noise(blank) * sigmas[0], sigmas, noise):
        latents = step.x
    return model.autoencoder.decode(latents).float()
