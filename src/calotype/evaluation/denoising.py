"""A diffusion model's loss on held-out pictures, told by noise level."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from calotype.conditioning.conditioning import Conditioning
from calotype.diffusion.loss import diffusion_loss, uniform_sigmas
from calotype.diffusion.noise import PictureNoise
from calotype.models.latent_diffusion import LatentDiffusion

BANDS = {"low_noise": (0, 3), "middle_noise": (3, 7), "high_noise": (7, 10)}
"""Tenths of the trained ladder."""


@torch.no_grad()
def denoising_loss(model: LatentDiffusion, pictures: Tensor, captions: Sequence[str]) -> dict[str, float]:
    """Mean squared error of the network's output (its own target, unweighted) on uint8 pictures (N 3 H W).

    Every picture is measured at ten levels, one in each tenth of the ladder, with its own noise (seed i),
    under its caption and, as "unconditional", under the empty prompt: the difference is what words tell.
    """
    device = model.device
    levels = (torch.arange(10) + 0.5) / 10
    sums = {True: torch.zeros(10), False: torch.zeros(10)}
    for start in range(0, len(pictures), 64):
        part = pictures[start : start + 64]
        x0 = model.autoencoder.encode((part.float() / 127.5 - 1).to(device)).mode()
        noise = PictureNoise(range(start, start + len(part)))
        condition = model.text_encoder(list(captions[start : start + len(part)]))
        empty = model.text_encoder([""]).repeat(len(part))
        for number, level in enumerate(levels):
            drawn = noise(x0)
            sigma = uniform_sigmas(model.denoiser.schedule, level.expand(len(part))).to(device)
            for told, known in ((True, condition), (False, empty)):
                sums[told][number] += _loss(model, x0, drawn, sigma, known)
    means = {told: total / len(pictures) for told, total in sums.items()}
    found = {"loss": float(means[True].mean()), "loss_unconditional": float(means[False].mean())}
    return found | {f"loss_{name}": float(means[True][a:b].mean()) for name, (a, b) in BANDS.items()}


def _loss(model: LatentDiffusion, x0: Tensor, noise: Tensor, sigma: Tensor, known: Conditioning) -> float:
    losses = diffusion_loss(model.denoiser.raw(known), model.denoiser.parameterization, x0, noise, sigma)
    return float(losses.sum())
