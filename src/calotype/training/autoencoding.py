"""Training an autoencoder: pictures through its latents and back."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from calotype.checkpoints import native
from calotype.models.latent_diffusion import LatentDiffusion, seeded
from calotype.networks.autoencoder import Autoencoder
from calotype.networks.discriminator import PatchDiscriminator
from calotype.training.config import AutoencoderTraining
from calotype.training.objective import VALIDATION_STEP, Objective
from calotype.training.order import step_generator
from calotype.training.perceptual import distance
from calotype.training.prepared import to_signed
from calotype.training.shapes import Grouped, Rows, batches_of


class AutoencoderObjective(Objective):
    """Reconstruction of pictures through the autoencoder's sampled latents."""

    not_for_muon = ("autoencoder.encoder.enter.", "autoencoder.decoder.leave.", "discriminator.")

    def __init__(
        self, config: AutoencoderTraining, model: LatentDiffusion, pictures: Rows, held_out: Rows
    ) -> None:
        """`pictures` and `held_out` are uint8 (N 3 H W) on the CPU, or of several shapes."""
        super().__init__()
        assert isinstance(model.autoencoder, Autoencoder)
        self.config = config
        self.autoencoder = model.autoencoder
        for part in (self.autoencoder.encoder, self.autoencoder.quant_conv):
            part.requires_grad_(config.train_encoder)
        self.discriminator = (
            seeded(config.seed, "discriminator", PatchDiscriminator) if config.adversarial_weight else None
        )
        # in a list: what only looks is no part of what trains
        self._eyes = [distance(config.perceptual)] if config.perceptual_weight else []
        self._model = [model]  # in a list: its other networks must not become sub-modules
        self._pictures, self._held_out = pictures, held_out

    def forward(
        self,
        images: Tensor,
        noise: Tensor,
        blur: Tensor | None = None,
        adversarial: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """images (B 3 H W) in [-1, 1]; noise, and what is put on the latents beside it, of their shape;
        adversarial (B), the weight of the discriminator's doubt, while one trains.

        Gives scalars; psnr is the pooled error's.
        """
        config = self.config
        assert isinstance(config, AutoencoderTraining)
        posterior = self.autoencoder.encode(images)
        latents = posterior.sample(noise)
        if blur is not None:
            latents = latents + blur
        again = self.autoencoder.decode(latents).float()
        error = again - images.float()
        l1, l2 = error.abs().mean(), error.square().mean()
        kl = posterior.kl().float().mean() / noise[0].numel()
        # (B 3 H W) -> (B 3 h w)
        coarse = F.avg_pool2d(error, self.autoencoder.config.factor).abs().mean()
        loss = config.l1_weight * l1 + config.l2_weight * l2
        loss = loss + config.coarse_weight * coarse + config.kl_weight * kl
        psnr = 10 * torch.log10(4 / l2.detach())
        parts = {"l1": l1, "coarse": coarse, "kl": kl, "psnr": psnr}
        for eye in self._eyes:
            parts["perceptual"] = eye.to(images.device)(again, images.float()).mean()
            loss = loss + config.perceptual_weight * parts["perceptual"]
        if adversarial is not None:
            doubt, own = self._judged(images.float(), again)
            # the discriminator's own loss moves nothing but it, and its doubt everything but it
            loss = loss + (adversarial * doubt).mean() + own
            parts |= {"doubt": doubt.mean(), "discriminator": own}
        return {"loss": loss} | {name: value.detach() for name, value in parts.items()}

    def _judged(self, images: Tensor, again: Tensor) -> tuple[Tensor, Tensor]:
        """(B) how little the discriminator believes of each reconstruction, and its own hinge loss."""
        judge = self.discriminator
        assert judge is not None
        fixed = {name: value.detach() for name, value in judge.named_parameters()}
        doubt = -functional_call(judge, fixed, (again,)).flatten(1).mean(1)
        real, made = judge(images), judge(again.detach())
        return doubt, 0.5 * (F.relu(1 - real).mean() + F.relu(1 + made).mean())

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
        if self.discriminator is not None:
            weight = config.adversarial_weight if step >= config.adversarial_from else 0.0
            arguments["adversarial"] = torch.full((len(pictures),), weight, device=arguments["noise"].device)
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
        if not len(self._held_out):
            return None
        held_out = self._held_out.groups[0] if isinstance(self._held_out, Grouped) else self._held_out
        shown = held_out[:32]
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
        device = next(self.parameters()).device
        parts = []
        for rows in batches_of(self._pictures, 2048):
            for part in rows.split(64):
                images = to_signed(self._pictures[part]).to(device)
                latents = written.encode(images).sample(torch.zeros(1, device=device)).float()
                parts.append(latents.transpose(0, 1).flatten(1))  # (n C h w) -> (C n*h*w)
        values = torch.cat(parts, dim=1)
        written.fold_statistics(values.mean(dim=1), values.std(dim=1))
