"""Training a denoiser of pictures: crops of a folder's pictures, turned and mirrored, at all noise levels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calotype.checkpoints import native
from calotype.data.shards import ShardPictures
from calotype.diffusion.loss import diffusion_loss, mixed_sigmas
from calotype.errors import InputError
from calotype.models.pixel_config import PixelConfig
from calotype.models.pixel_diffusion import PixelDiffusion, build_pixel
from calotype.training.config import PixelTraining
from calotype.training.fit import Plan, Run, settled
from calotype.training.objective import VALIDATION_STEP, Objective
from calotype.training.order import BatchOrder, step_generator
from calotype.training.prepared import to_signed
from calotype.training.sessions import DataSet
from calotype.training.shapes import Grouped

MEASURED = (15, 25, 50)
"""Noise levels, of 255, at which held-out crops are denoised."""
HELD_OUT, MIDDLE = 32, 128
"""Held-out pictures that are measured, at most, and the side of their middles that is looked at."""


class PixelObjective(Objective):
    """The denoising loss of crops (EDM's: weight 1 on the network's own output)."""

    not_for_muon = ("denoiser.network.enter.", "denoiser.network.leave.", "denoiser.network.embed.")

    def __init__(
        self,
        config: PixelTraining,
        model: PixelDiffusion,
        pictures: Tensor | ShardPictures,
        held_out: Tensor | ShardPictures,
    ) -> None:
        """`pictures` and `held_out` are uint8 (N 3 S S) on the CPU; InputError for a crop larger than S."""
        super().__init__()
        self.config = config
        if not 8 <= config.crop <= pictures.shape[-1]:
            raise InputError(
                f"Training option crop is {config.crop}; give 8 to {pictures.shape[-1]}, the pictures' side."
            )
        self.denoiser = model.denoiser
        self._model = [model]
        self._pictures = pictures
        edge = max(0, held_out.shape[-1] - MIDDLE) // 2
        chosen = held_out[:: -(-len(held_out) // HELD_OUT) or 1]
        self._held_out = chosen[..., edge : edge + MIDDLE, edge : edge + MIDDLE]

    def forward(self, pictures: Tensor, noise: Tensor, sigma: Tensor) -> dict[str, Tensor]:
        """pictures (B 3 c c) in [-1, 1], unit noise of their shape, sigma (B)."""
        losses = diffusion_loss(self.denoiser.network, self.denoiser.parameterization, pictures, noise, sigma)
        return {"loss": losses.mean()}

    def batch(self, indices: Tensor, step: int, share: slice) -> dict[str, Tensor]:
        config = self.config
        assert isinstance(config, PixelTraining)
        count, crop = len(indices), config.crop
        random = step_generator(config.seed, step, "pixels")
        noise = torch.randn(count, 3, crop, crop, generator=random)[share]
        uniforms = torch.rand(6, count, generator=random)
        room = self._pictures.shape[-1] - crop + 1
        tops, lefts = ((u * room).long().clamp(max=room - 1).tolist() for u in uniforms[:2])
        turns = (uniforms[2] * 8).long().clamp(max=7).tolist()
        crops = []
        for i in range(count)[share]:
            piece = self._pictures[indices[i]][:, tops[i] : tops[i] + crop, lefts[i] : lefts[i] + crop]
            piece = torch.rot90(piece, turns[i] % 4, (1, 2))
            crops.append(piece.flip(2) if turns[i] >= 4 else piece)
        x0 = to_signed(torch.stack(crops))  # (B 3 c c)
        grey = (uniforms[5] < config.grey_share)[share]
        x0 = torch.where(grey[:, None, None, None], x0.mean(1, keepdim=True), x0)
        network = self._model[0].config
        sigma = mixed_sigmas(
            uniforms[3],
            uniforms[4],
            config.fine_share,
            config.fine_sigma,
            network.sigma_min,
            network.sigma_max,
        )[share]
        return self._placed(x0, noise, sigma)

    def _placed(self, x0: Tensor, noise: Tensor, sigma: Tensor) -> dict[str, Tensor]:
        device = next(self.parameters()).device
        return {
            "pictures": x0.to(device, memory_format=torch.channels_last),
            "noise": noise.to(device, memory_format=torch.channels_last),
            "sigma": sigma.to(device),
        }

    def validation(self) -> list[dict[str, Tensor]]:
        return []  # `evaluate` measures PSNR instead of the loss

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """PSNR in dB, the mean over held-out pictures, at each level of MEASURED."""
        found: dict[str, float] = {}
        if not len(self._held_out):
            return found
        x0 = to_signed(self._held_out)
        for level in MEASURED:
            random = step_generator(self.config.seed, VALIDATION_STEP, f"pixels {level}")
            noise = torch.randn(x0.shape, generator=random)
            sigma = torch.full((len(x0),), level / 127.5)
            errors = []
            for rows in torch.arange(len(x0)).split(8):
                clean = self._denoised(**self._placed(x0[rows], noise[rows], sigma[rows]))
                errors.append((clean.cpu() - x0[rows]).square().flatten(1).mean(1))  # (b)
            found[f"psnr_{level}"] = float((10 * torch.log10(4 / torch.cat(errors))).mean())
        return found

    def _denoised(self, pictures: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        clean: Tensor = self.denoiser(pictures + sigma[:, None, None, None] * noise, sigma)
        return clean.float()

    @torch.no_grad()
    def samples(self) -> Tensor | None:
        """Held-out pictures with noise of 50 of 255, each beside what was made of it."""
        shown = to_signed(self._held_out[:8])
        if not len(shown):
            return None
        noise = torch.randn(shown.shape, generator=step_generator(0, VALIDATION_STEP, "samples"))
        placed = self._placed(shown, noise, torch.full((len(shown),), 50 / 127.5))
        noisy = shown + 50 / 127.5 * noise
        pair = torch.stack([noisy, self._denoised(**placed).cpu()], dim=1)
        return pair.flatten(0, 1)  # (N 2 3 S S) -> (2N 3 S S)

    @torch.no_grad()
    def export(self, path: Path, recipe: Mapping[str, Any]) -> None:
        native.save_pixel(path, self._model[0], recipe=recipe)


def prepare_pixels(
    config: PixelTraining,
    model_config: PixelConfig,
    data: DataSet,
    plan: Plan,
    *,
    init_from: Path | None = None,
) -> Run:
    """A run that trains a pixel model, from fresh weights or those of a checkpoint."""
    assert not isinstance(data.pictures, Grouped)  # the configuration knows no other shapes
    assert not isinstance(data.held_out, Grouped)
    config = settled(config, plan)
    model = native.load_pixel(init_from) if init_from else build_pixel(model_config, seed=config.seed)
    objective = PixelObjective(config, model, data.pictures, data.held_out)
    order = BatchOrder(len(data.pictures), config.batch, config.seed, data.weights(config.balance))
    facts = {"data": data.content, "pictures": len(data.pictures), "model": model.config.name}
    return Run(objective, config, plan, order, facts)
