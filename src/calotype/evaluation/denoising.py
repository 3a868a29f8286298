"""A diffusion model's loss on held-out pictures, told by noise level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from calotype.diffusion.loss import diffusion_loss, uniform_sigmas
from calotype.diffusion.noise import PictureNoise
from calotype.evaluation.intervals import of_mean
from calotype.models.latent_diffusion import LatentDiffusion

LEVELS = 10
BANDS = {"low_noise": (0, 3), "middle_noise": (3, 7), "high_noise": (7, 10)}
"""Tenths of the trained ladder."""
EACH = 2
"""Levels at which a picture is measured.  All ten cost five times this, and as pictures differ more than
their levels' errors do, they narrow no interval by half."""
_BATCH = 64


def denoising_loss(model: LatentDiffusion, pictures: Tensor, captions: Sequence[str]) -> dict[str, Any]:
    """Mean squared error of the network's output (its own target, unweighted) on uint8 pictures (N 3 H W).

    Picture i is measured at levels i and i + 5 of ten, one in each tenth of the ladder, counted round, with
    its own noise (seed i), under its caption and, as "unconditional", under the empty prompt: the difference
    is what words tell.  A level's mean is over its pictures, a band's over its levels; of fewer than ten
    pictures, each is measured at all ten.  "intervals" are 95 %, of resampled pictures.
    """
    rows = torch.arange(len(pictures))
    if len(pictures) < LEVELS:
        which = torch.arange(LEVELS).expand(len(pictures), LEVELS)
    else:
        which = (rows[:, None] + torch.arange(EACH) * (LEVELS // EACH)) % LEVELS  # (N E)
    texts = (captions, [""] * len(pictures))
    told, untold = denoising_errors(model, pictures, texts, (which + 0.5) / LEVELS)
    bands = {"loss": (0, LEVELS)} | {f"loss_{name}": band for name, band in BANDS.items()}
    wanted = {name: (told, band) for name, band in bands.items()}
    wanted["loss_unconditional"] = (untold, (0, LEVELS))
    found: dict[str, Any] = {}
    intervals = {}
    for name, (errors, band) in wanted.items():
        means, low, high = [], [], []
        for level in range(*band):
            values = errors[which == level]
            mean, (a, b) = float(values.mean()), of_mean(values, seed=level)
            means.append(mean)
            low.append(mean - a)
            high.append(b - mean)
        count = len(means)
        found[name] = sum(means) / count
        # levels are measured on different pictures, nearly: their errors add in squares
        below, above = (sum(x * x for x in side) ** 0.5 / count for side in (low, high))
        intervals[name] = [found[name] - below, found[name] + above]
    return found | {"intervals": intervals}


@torch.no_grad()
def denoising_errors(
    model: LatentDiffusion, pictures: Tensor, texts: Sequence[Sequence[str]], levels: Tensor
) -> Tensor:
    """Squared errors of the network's output for uint8 pictures (N 3 H W) at `levels` (N E) in (0, 1), under
    each of C sets of N captions: (C N E).

    A level is a place on the trained ladder, 0 its cleanest; picture i's noise comes from seed i, a new draw
    for each of its levels, the same under all captions.
    """
    # channels-last runs a quarter faster on a CPU, and the network takes nearly all of the time
    network = model.denoiser.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    found = []
    try:
        for rows in torch.arange(len(pictures)).split(_BATCH):
            images = (pictures[rows].float() / 127.5 - 1).to(model.device, memory_format=torch.channels_last)
            x0 = model.autoencoder.encode(images).mode()
            noise = PictureNoise(rows.tolist())
            conditions = [
                model.told([several[i] for i in rows.tolist()]).to(model.device) for several in texts
            ]
            errors = []
            for level in levels[rows].unbind(1):  # (n E) -> E of (n)
                drawn = noise(x0).to(memory_format=torch.channels_last)
                sigma = uniform_sigmas(network.schedule, level).to(model.device)
                losses = [
                    diffusion_loss(network.raw(known), network.parameterization, x0, drawn, sigma)
                    for known in conditions
                ]
                errors.append(torch.stack(losses).cpu())  # (C n)
            found.append(torch.stack(errors, dim=2))  # (C n E)
    finally:
        network.to(memory_format=torch.contiguous_format)
    return torch.cat(found, dim=1)
