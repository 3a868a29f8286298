"""Training a denoiser: noisy latents or pixels under their captions or class labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calotype.checkpoints import native
from calotype.conditioning.conditioning import Conditioning
from calotype.diffusion.grids import GRIDS
from calotype.diffusion.guidance import guided
from calotype.diffusion.loss import (
    Weighting,
    diffusion_loss,
    even,
    log_normal_sigmas,
    min_snr,
    uniform_sigmas,
)
from calotype.diffusion.noise import PictureNoise
from calotype.diffusion.samplers import SAMPLERS
from calotype.errors import InputError
from calotype.models.latent_diffusion import LatentDiffusion, NetworkDenoiser
from calotype.training.config import DiffusionTraining
from calotype.training.objective import VALIDATION_STEP, Objective
from calotype.training.order import step_generator
from calotype.training.prepared import Examples, shape_of
from calotype.training.shapes import Grouped, batches_of
from calotype.training.words import in_words

LOG_SIGMA = {"logit_normal": (0.0, 1.0), "log_normal": (-1.2, 1.2)}
"""Mean and deviation of ln sigma: SD3's logit-normal times (2403.03206), EDM's levels (2206.00364)."""


def weighting_of(config: DiffusionTraining) -> Weighting:
    """The weight of the network output's squared error that the configuration names."""
    return min_snr(config.gamma) if config.weighting == "min_snr" else even


def until_noise(model: LatentDiffusion) -> LatentDiffusion:
    """The model with noise levels that end in noise alone, to be trained and then drawn on them.

    Raises InputError where its output says nothing there: of noise alone, noise is no news.
    """
    config = model.config
    if config.parameterization not in ("v", "x0") or config.schedule.kind == "flow":
        why = "ends in noise alone as it is" if config.schedule.kind == "flow" else "learns nothing there"
        raise InputError(
            f"Training option zero_terminal_snr is for models of v or x0; {config.name} is one of "
            f"{config.parameterization}, which {why}: leave it out."
        )
    schedule = dataclasses.replace(config.schedule, zero_terminal_snr=True)
    # a grid that does not begin at the last step would never draw from it
    defaults = dataclasses.replace(config.defaults, grid="trailing")
    denoiser = NetworkDenoiser(model.denoiser.network, model.denoiser.parameterization, schedule.build())
    changed = dataclasses.replace(config, schedule=schedule, defaults=defaults)
    return model.replace(config=changed, denoiser=denoiser)


class DiffusionObjective(Objective):
    """The denoising loss of latents under their captions."""

    not_for_muon = ("denoiser.network.enter.", "denoiser.network.leave.")

    def __init__(
        self,
        config: DiffusionTraining,
        model: LatentDiffusion,
        training: Examples,
        held_out: Examples | None,
        *,
        text_changes: bool = False,
    ) -> None:
        """text_changes: what the text encoder says changes, although its own weights do not train."""
        super().__init__()
        self.config = config
        self.text_encoder = model.text_encoder.requires_grad_(config.train_text_encoder)
        self.denoiser = model.denoiser
        self._model = [model]
        self._training, self._held_out = training, held_out
        self._features: dict[int, dict[str, Tensor]] = {}
        self._labelled = bool(model.config.classes)
        once = len(training.captions.texts) <= config.steps * config.batch and not config.rewording
        self._once = once and not (config.train_text_encoder or text_changes or self._labelled)
        for part in (training, held_out):
            if part is not None:
                self.remember(part)

    def remember(self, examples: Examples) -> None:
        """Hears all captions once, where the text encoder will say the same of them ever after."""
        if self._once:
            self._features[id(examples)] = self.features(examples)

    def features(self, examples: Examples) -> dict[str, Tensor]:
        """What the text encoder says of every distinct caption, see `Captions.features`."""
        return examples.captions.features(self.text_encoder)

    def forward(self, latents: Tensor, noise: Tensor, sigma: Tensor, **told: Tensor) -> dict[str, Tensor]:
        """As `losses`."""
        return {"loss": self.losses(latents, noise, sigma, **told).mean()}

    def losses(self, latents: Tensor, noise: Tensor, sigma: Tensor, **told: Tensor) -> Tensor:
        """latents, noise (B C h w), sigma (B), and what `known` takes -> (B)."""
        config = self.config
        assert isinstance(config, DiffusionTraining)
        network = self.denoiser.raw(self.known(latents, **told))
        return diffusion_loss(
            network, self.denoiser.parameterization, latents, noise, sigma, weighting_of(config)
        )

    def known(
        self,
        latents: Tensor,
        tokens: Tensor | None = None,
        context: Tensor | None = None,
        vector: Tensor | None = None,
        label: Tensor | None = None,
    ) -> Conditioning:
        """What the denoiser hears of latents (B C h w): tokens (B T L), or their features (B L D) and (B P),
        or class labels (B).
        """
        del latents  # SDXL hears their size
        if tokens is None:
            return Conditioning(tokens=context, vector=vector, label=label)
        found: Conditioning = self.text_encoder.encode_tokens(tokens.transpose(0, 1))  # (B T L) -> (T B L)
        return found

    def batch(self, indices: Tensor, step: int, share: slice) -> dict[str, Tensor]:
        return self.arguments(self._training, indices, step, share)

    def arguments(self, examples: Examples, indices: Tensor, step: int, share: slice) -> dict[str, Tensor]:
        """As `batch`'s, of any pictures; the numbers drawn are those of the step."""
        config = self.config
        assert isinstance(config, DiffusionTraining)
        random = step_generator(config.seed, step, "diffusion")
        count = len(indices)
        shape = (count, *shape_of(examples.latents.rows, indices))
        noise = torch.randn(shape, generator=random)
        if config.offset_noise and step != VALIDATION_STEP:
            apart = step_generator(config.seed, step, "offset noise")
            noise += config.offset_noise * torch.randn(*shape[:2], 1, 1, generator=apart)  # (B C 1 1)
        noise = noise[share]
        spread = torch.randn(shape, generator=random)[share]
        uniforms = torch.rand(4, count, generator=random)
        normals = torch.randn(count, generator=random)
        if config.noise_levels == "uniform" and config.epsilon is not None:
            # a picture's level must not hang on how many others are there
            sigma = uniform_sigmas(self.denoiser.schedule, uniforms[0], config.noise_shift)
        elif config.noise_levels == "uniform":
            # one level from each of `count` equal parts of the ladder: the same law, less variance
            spaced = (torch.arange(count) + uniforms[0]) / count
            sigma = uniform_sigmas(self.denoiser.schedule, spaced, config.noise_shift)
        else:
            mean, std = LOG_SIGMA[config.noise_levels]
            sigma = log_normal_sigmas(normals, mean, std, config.noise_shift)
        dropped = uniforms[2] < config.caption_dropout
        x0 = examples.latents.draw(indices[share], spread)
        device = next(self.denoiser.network.parameters()).device
        arguments = {
            "latents": x0.to(device, memory_format=torch.channels_last),
            "noise": noise.to(device, memory_format=torch.channels_last),
            "sigma": sigma[share].to(device),
        }
        if self._labelled:
            assert examples.labels is not None  # else the data set was refused
            none = len(self._model[0].config.classes)
            label = torch.where(dropped, none, examples.labels[indices])[share]
            return arguments | {"label": label.to(device)}
        rows = examples.captions.choose(indices, uniforms[1], dropped)[share]
        if id(examples) in self._features:
            features = self._features[id(examples)].items()
            return arguments | {name: part[rows].to(device, torch.float32) for name, part in features}
        reword = uniforms[3, share] < (config.rewording if step != VALIDATION_STEP else 0)
        key, places = f"{config.seed} {step}", torch.arange(count)[share]
        tokens = in_words(examples.captions, rows, reword, key, places, self.text_encoder)
        return arguments | {"tokens": tokens.to(device)}

    def kept(self) -> tuple[int, int]:
        parts = [part.kept for part in (self._training, self._held_out) if part is not None]
        features = sum(value.nbytes for part in self._features.values() for value in part.values())
        return sum(latents for latents, _ in parts), sum(tokens for _, tokens in parts) + features

    def validation(self) -> list[dict[str, Tensor]]:
        if self._held_out is None:
            return []
        held_out = self._held_out.latents.rows
        rows = [torch.arange(min(len(held_out), 512))]
        if isinstance(held_out, Grouped):
            rows = batches_of(held_out, 512)
        return [self.arguments(self._held_out, chosen, VALIDATION_STEP, slice(None)) for chosen in rows]

    @torch.no_grad()
    def samples(self) -> Tensor | None:
        """One picture for each of the config's prompts (or classes), 20 DDIM steps, seeds from 0."""
        config = self.config
        assert isinstance(config, DiffusionTraining)
        model = self._model[0]
        prompts = model.config.classes[:32] or config.sample_prompts
        return draw(model, prompts, self._training.latents.shape) if prompts else None

    @torch.no_grad()
    def export(self, path: Path, recipe: Mapping[str, Any]) -> None:
        native.save(path, self._model[0], recipe=recipe)


@torch.no_grad()
def draw(model: LatentDiffusion, prompts: Sequence[str], shape: Sequence[int]) -> Tensor:
    """Pictures (N 3 H W) in [-1, 1] of the prompts from latents of `shape` (C h w): a training's preview."""
    schedule = model.denoiser.schedule
    noise = PictureNoise(range(len(prompts)))
    device = next(model.denoiser.network.parameters()).device
    blank = torch.zeros(len(prompts), *shape, device=device)
    sigmas = GRIDS["trailing"](schedule)(20, schedule.sigma_min, schedule.sigma_max)
    conditions = (model.told(prompts).to(device), model.told([""] * len(prompts)).to(device))
    denoiser = guided(model.denoiser, conditions, model.config.defaults.guidance)
    latents = blank
    for step in SAMPLERS["ddim"](denoiser, noise(blank) * sigmas[0], sigmas, noise):
        latents = step.x
    return model.autoencoder.decode(latents).float()
