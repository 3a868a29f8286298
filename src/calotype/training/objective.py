"""What a run trains: modules whose forward is the loss, with their batches, samples and export."""

from __future__ import annotations

import copy
import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calotype.checkpoints import native
from calotype.conditioning.text import TextEncoder
from calotype.data.rewording import reworded
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
from calotype.models.latent_diffusion import LatentDiffusion
from calotype.networks.autoencoder import Autoencoder
from calotype.training.config import AutoencoderTraining, DiffusionTraining, TextTraining, TrainConfig
from calotype.training.order import step_generator
from calotype.training.prepared import Captions, Latents, Pixels, to_signed

VALIDATION_STEP = -1
"""The step number that keys the fixed random numbers of validation batches."""


LOG_SIGMA = {"logit_normal": (0.0, 1.0), "log_normal": (-1.2, 1.2)}
"""Mean and deviation of ln sigma: SD3's logit-normal times (2403.03206), EDM's levels (2206.00364)."""


def weighting_of(config: DiffusionTraining) -> Weighting:
    """The weight of the network output's squared error that the configuration names."""
    return min_snr(config.gamma) if config.weighting == "min_snr" else even


class Objective(nn.Module, ABC):
    """A module whose forward returns the scalars of a batch, `loss` among them."""

    config: TrainConfig
    not_for_muon: tuple[str, ...] = ()
    """Beginnings of the names of parameters that see pictures, not features."""

    @abstractmethod
    def batch(self, indices: Tensor, step: int, share: slice) -> dict[str, Tensor]:
        """Keyword arguments of forward for the rows `share` of the pictures `indices` (B).

        Random numbers are drawn for the whole batch and then cut, so that they do not depend
        on how many processes share it.
        """

    @abstractmethod
    def samples(self) -> Tensor | None:
        """A contact sheet's pictures (N 3 H W) in [-1, 1], or None when there is nothing to show."""

    @abstractmethod
    def validation(self) -> list[dict[str, Tensor]]:
        """Held-out batches with fixed noise; empty when nothing is held out."""

    @abstractmethod
    def export(self, path: Path, recipe: Mapping[str, Any]) -> None:
        """Write the module's present weights as a Calotype checkpoint."""

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Means of forward's scalars over the validation batches, weighted by their sizes."""
        sums: dict[str, float] = {}
        count = 0
        for batch in self.validation():
            rows = len(next(iter(batch.values())))
            for name, value in self(**batch).items():
                sums[name] = sums.get(name, 0.0) + float(value) * rows
            count += rows
        return {f"validation_{name}": total / count for name, total in sums.items()}


class AutoencoderObjective(Objective):
    """Reconstruction of pictures through the autoencoder's sampled latents."""

    not_for_muon = ("autoencoder.encoder.enter.", "autoencoder.decoder.leave.")

    def __init__(
        self, config: AutoencoderTraining, model: LatentDiffusion, pictures: Tensor, held_out: Tensor
    ) -> None:
        """`pictures` and `held_out` are uint8 (N 3 H W) on the CPU."""
        super().__init__()
        assert isinstance(model.autoencoder, Autoencoder)
        self.config = config
        self.autoencoder = model.autoencoder
        for part in (self.autoencoder.encoder, self.autoencoder.quant_conv):
            part.requires_grad_(config.train_encoder)
        self._model = [model]  # in a list: its other networks must not become sub-modules
        self._pictures, self._held_out = pictures, held_out

    def forward(self, images: Tensor, noise: Tensor, blur: Tensor | None = None) -> dict[str, Tensor]:
        """images (B 3 H W) in [-1, 1]; noise, and what is put on the latents beside it, of their shape.

        Gives scalars; psnr is the pooled error's.
        """
        config = self.config
        assert isinstance(config, AutoencoderTraining)
        posterior = self.autoencoder.encode(images)
        latents = posterior.sample(noise)
        if blur is not None:
            latents = latents + blur
        error = self.autoencoder.decode(latents).float() - images.float()
        l1, l2 = error.abs().mean(), error.square().mean()
        kl = posterior.kl().float().mean() / noise[0].numel()
        # (B 3 H W) -> (B 3 h w)
        coarse = F.avg_pool2d(error, self.autoencoder.config.factor).abs().mean()
        loss = config.l1_weight * l1 + config.l2_weight * l2
        loss = loss + config.coarse_weight * coarse + config.kl_weight * kl
        psnr = 10 * torch.log10(4 / l2.detach())
        parts = {"l1": l1, "coarse": coarse, "kl": kl, "psnr": psnr}
        return {"loss": loss} | {name: value.detach() for name, value in parts.items()}

    def batch(self, indices: Tensor, step: int, share: slice) -> dict[str, Tensor]:
        config = self.config
        assert isinstance(config, AutoencoderTraining)
        pictures = self._pictures[indices[share]]
        arguments = self._arguments(pictures, len(indices), step, share)
        if config.latent_noise:
            random = step_generator(config.seed, step, "latent noise")
            shape = (len(indices), *arguments["noise"].shape[1:])
            amount = config.latent_noise * torch.rand(len(indices), 1, 1, 1, generator=random)
            arguments["blur"] = (amount * torch.randn(shape, generator=random))[share].to(
                arguments["noise"].device
            )
        return arguments

    def _arguments(self, pictures: Tensor, count: int, step: int, share: slice) -> dict[str, Tensor]:
        factor, channels = self.autoencoder.config.factor, self.autoencoder.config.latent_channels
        height, width = pictures.shape[-2] // factor, pictures.shape[-1] // factor
        noise = torch.randn(
            count, channels, height, width, generator=step_generator(self.config.seed, step, "latents")
        )[share]
        device = next(self.parameters()).device
        images = to_signed(pictures).to(device, memory_format=torch.channels_last)
        return {"images": images, "noise": noise.to(device)}

    def validation(self) -> list[dict[str, Tensor]]:
        parts = self._held_out.split(self.config.batch) if len(self._held_out) else ()
        return [self._arguments(part, len(part), VALIDATION_STEP, slice(None)) for part in parts]

    @torch.no_grad()
    def samples(self) -> Tensor | None:
        """Held-out pictures, each beside its reconstruction from the mean latents."""
        shown = self._held_out[:32]
        if not len(shown):
            return None
        images = to_signed(shown).to(next(self.parameters()).device, memory_format=torch.channels_last)
        again = self.autoencoder.decode(self.autoencoder.encode(images).mode()).float()
        return torch.stack([images, again], dim=1).flatten(0, 1)  # (N 2 3 H W) -> (2N 3 H W)

    @torch.no_grad()
    def export(self, path: Path, recipe: Mapping[str, Any]) -> None:
        """Fold the latents' statistics over training pictures into a copy of the weights, and write it.

        The written autoencoder's latents have mean 0 and standard deviation 1 in each channel, which
        is what the diffusion model wants of its data.  Where the encoder did not train, nothing is folded.
        """
        written = copy.deepcopy(self.autoencoder).eval()
        assert isinstance(self.config, AutoencoderTraining)
        if self.config.train_encoder:
            self._fold(written)
        native.save(path, self._model[0].replace(autoencoder=written), recipe=recipe, parts=("autoencoder",))

    def _fold(self, written: Autoencoder) -> None:
        stride = max(1, len(self._pictures) // 2048)
        device = next(self.parameters()).device
        latents = torch.cat(
            [
                written.encode(to_signed(part).to(device)).sample(torch.zeros(1, device=device)).float()
                for part in self._pictures[::stride].split(64)
            ]
        )
        mean, std = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))  # (N C h w) -> (C)
        written.fold_statistics(mean, std)


@dataclass(frozen=True)
class Examples:
    """Pictures, as latents or pixels, and their captions, row for row."""

    latents: Latents | Pixels
    captions: Captions


def in_words(
    captions: Captions, rows: Tensor, reword: Tensor, key: str, places: Tensor, encoder: TextEncoder
) -> Tensor:
    """Tokens (B T L) of the captions `rows` (B), in other words where `reword` (B) says so.

    The words hang on `key` and on the picture's place in the whole batch, `places` (B).
    """
    tokens = captions.tokens[:, rows].transpose(0, 1)  # (T N L) -> (B T L)
    if reword.any():
        texts = [
            reworded(captions.texts[row], Random(f"{key} {place}"))
            for row, place in zip(rows[reword].tolist(), places[reword].tolist(), strict=True)
        ]
        tokens = tokens.clone()
        tokens[reword] = encoder.tokenize(texts).transpose(0, 1)  # (T R L) -> (R T L)
    return tokens


class TextObjective(Objective):
    """How far the latents are from the outline that their captions foretell."""

    not_for_muon = ("outline.",)

    def __init__(
        self, config: TextTraining, model: LatentDiffusion, training: Examples, held_out: Examples | None
    ) -> None:
        """Raises InputError where the model's U-Net takes no outline, or the latents have another size."""
        super().__init__()
        self.config = config
        network, height, width = model.denoiser.network, *training.latents.shape[1:]
        side = network.config.outline_cells * network.config.outline_side
        if network.outline is None or (height, width) != (side, side):
            raise InputError(
                f"The U-Net of {model.config.name} takes an outline of {side} x {side} from its text, the "
                f"latents are {height} x {width}; give a model whose outline_cells and outline_side fit."
            )
        self.text_encoder = model.text_encoder
        self.outline = network.outline
        self._network = [network]  # in a list: only its outline is trained
        self._model = [model]
        self._training, self._held_out = training, held_out

    def foretold(self, tokens: Tensor) -> Tensor:
        """The outline of texts' tokens (B T L): latents (B C H W)."""
        text = self.text_encoder.encode_tokens(tokens.transpose(0, 1))  # (B T L) -> (T B L)
        assert text.tokens is not None
        return self._network[0].foretold(text.tokens)

    def forward(self, latents: Tensor, tokens: Tensor) -> dict[str, Tensor]:
        """latents (B C H W), tokens (B T L)."""
        return {"loss": (self.foretold(tokens).float() - latents).square().mean()}

    def batch(self, indices: Tensor, step: int, share: slice) -> dict[str, Tensor]:
        return self._arguments(self._training, indices, step, share)

    def _arguments(self, examples: Examples, indices: Tensor, step: int, share: slice) -> dict[str, Tensor]:
        config = self.config
        assert isinstance(config, TextTraining)
        uniforms = torch.rand(3, len(indices), generator=step_generator(config.seed, step, "text"))
        rows = examples.captions.choose(indices, uniforms[0], uniforms[1] < config.caption_dropout)[share]
        latents = examples.latents.draw(indices[share], torch.zeros(1))
        device = self.outline.weight.device
        chosen = uniforms[2, share] < (config.rewording if step != VALIDATION_STEP else 0)
        places = torch.arange(len(indices))[share]
        tokens = in_words(examples.captions, rows, chosen, f"{config.seed} {step}", places, self.text_encoder)
        return {"latents": latents.to(device), "tokens": tokens.to(device)}

    def validation(self) -> list[dict[str, Tensor]]:
        if self._held_out is None:
            return []
        count = min(len(self._held_out.latents), 512)
        return [self._arguments(self._held_out, torch.arange(count), VALIDATION_STEP, slice(None))]

    @torch.no_grad()
    def samples(self) -> Tensor | None:
        """What the config's prompts let one expect, decoded: as blurred as the words are vague."""
        config, model = self.config, self._model[0]
        assert isinstance(config, TextTraining)
        if not config.sample_prompts:
            return None
        tokens = self.text_encoder.tokenize(config.sample_prompts).transpose(0, 1)  # (T B L) -> (B T L)
        return model.autoencoder.decode(self.foretold(tokens).float()).float()

    @torch.no_grad()
    def export(self, path: Path, recipe: Mapping[str, Any]) -> None:
        parts = ("text_encoder", native.OUTLINE.removesuffix("."))
        native.save(path, self._model[0], recipe=recipe, parts=parts)


class DiffusionObjective(Objective):
    """The denoising loss of latents under their captions."""

    not_for_muon = ("denoiser.network.enter.", "denoiser.network.leave.")

    def __init__(
        self, config: DiffusionTraining, model: LatentDiffusion, training: Examples, held_out: Examples | None
    ) -> None:
        super().__init__()
        self.config = config
        self.text_encoder = model.text_encoder.requires_grad_(config.train_text_encoder)
        self.denoiser = model.denoiser
        self._model = [model]
        self._training, self._held_out = training, held_out
        self._features: dict[int, dict[str, Tensor]] = {}
        once = len(training.captions.texts) <= config.steps * config.batch and not config.rewording
        if once and not config.train_text_encoder:
            for part in (training, held_out):
                if part is not None:
                    self._features[id(part)] = part.captions.features(self.text_encoder)

    def forward(
        self,
        latents: Tensor,
        noise: Tensor,
        sigma: Tensor,
        tokens: Tensor | None = None,
        context: Tensor | None = None,
        vector: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """latents, noise (B C h w), sigma (B), and tokens (B T L) or their features (B L D), (B P)."""
        config = self.config
        assert isinstance(config, DiffusionTraining)
        if tokens is not None:
            text = self.text_encoder.encode_tokens(tokens.transpose(0, 1))  # (B T L) -> (T B L)
            context, vector = text.tokens, text.vector
        losses = diffusion_loss(
            lambda x, label: self.denoiser.network(x, label, context, vector=vector),
            self.denoiser.parameterization,
            latents,
            noise,
            sigma,
            weighting_of(config),
        )
        return {"loss": losses.mean()}

    def batch(self, indices: Tensor, step: int, share: slice) -> dict[str, Tensor]:
        return self._arguments(self._training, indices, step, share)

    def _arguments(self, examples: Examples, indices: Tensor, step: int, share: slice) -> dict[str, Tensor]:
        config = self.config
        assert isinstance(config, DiffusionTraining)
        random = step_generator(config.seed, step, "diffusion")
        count = len(indices)
        shape = (count, *examples.latents.shape)
        noise = torch.randn(shape, generator=random)[share]
        spread = torch.randn(shape, generator=random)[share]
        uniforms = torch.rand(4, count, generator=random)
        normals = torch.randn(count, generator=random)
        if config.noise_levels == "uniform":
            # one level from each of `count` equal parts of the ladder: the same law, less variance
            spaced = (torch.arange(count) + uniforms[0]) / count
            sigma = uniform_sigmas(self.denoiser.schedule, spaced, config.noise_shift)
        else:
            mean, std = LOG_SIGMA[config.noise_levels]
            sigma = log_normal_sigmas(normals, mean, std, config.noise_shift)
        rows = examples.captions.choose(indices, uniforms[1], uniforms[2] < config.caption_dropout)[share]
        x0 = examples.latents.draw(indices[share], spread)
        device = next(self.denoiser.network.parameters()).device
        arguments = {
            "latents": x0.to(device, memory_format=torch.channels_last),
            "noise": noise.to(device, memory_format=torch.channels_last),
            "sigma": sigma[share].to(device),
        }
        if self._features:
            features = self._features[id(examples)].items()
            return arguments | {name: part[rows].to(device, torch.float32) for name, part in features}
        reword = uniforms[3, share] < (config.rewording if step != VALIDATION_STEP else 0)
        key, places = f"{config.seed} {step}", torch.arange(count)[share]
        tokens = in_words(examples.captions, rows, reword, key, places, self.text_encoder)
        return arguments | {"tokens": tokens.to(device)}

    def validation(self) -> list[dict[str, Tensor]]:
        if self._held_out is None:
            return []
        count = min(len(self._held_out.latents), 512)
        return [self._arguments(self._held_out, torch.arange(count), VALIDATION_STEP, slice(None))]

    @torch.no_grad()
    def samples(self) -> Tensor | None:
        """One picture for each of the config's prompts, 20 DDIM steps, guidance 4, seeds from 0."""
        config = self.config
        assert isinstance(config, DiffusionTraining)
        if not config.sample_prompts:
            return None
        model = self._model[0]
        return draw(model, config.sample_prompts, self._training.latents.shape)

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
    conditions = (model.text_encoder(list(prompts)), model.text_encoder([""] * len(prompts)))
    denoiser = guided(model.denoiser, conditions, 4.0)
    latents = blank
    for step in SAMPLERS["ddim"](denoiser, noise(blank) * sigmas[0], sigmas, noise):
        latents = step.x
    return model.autoencoder.decode(latents).float()


def recipe_of(config: TrainConfig, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What is written into the weights' metadata about how they were made."""
    return {"training": json.loads(json.dumps(dataclasses.asdict(config))), **facts}
