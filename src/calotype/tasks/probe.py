"""What a U-Net predicts, asked of the network itself: one run, two rows, and nothing of its weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from calotype.checkpoints.prediction import Parameterization
from calotype.diffusion.noise import PictureNoise
from calotype.diffusion.parameterization import expand
from calotype.errors import CheckpointError, InputError
from calotype.models.latent_diffusion import LatentDiffusion
from calotype.tasks.adapted import Adapted
from calotype.tasks.condition import encode
from calotype.tasks.request import Request

LOW = 0.3
"""The lower noise level: noise that a trained network sees clearly on a white picture."""

SIDE = 32
"""Latent pixels a side, at most: enough for noise to be told from anything else."""

FAR, CLEAR = 0.45, 2.0
"""How far an answer may be from the one expected, and how many times nearer to it than to the next."""


@dataclass(frozen=True)
class Answer:
    """kind  eps, v or x0; None where the answer is none of theirs
    high, low  how much of the noise that was put in comes out, at the highest level and at `LOW`
    picture    how much of the picture comes out at `LOW`
    """

    kind: Parameterization | None
    high: float
    low: float
    picture: float

    def required(self, model: LatentDiffusion) -> Parameterization:
        """The kind; CheckpointError where the network did not tell."""
        if self.kind is None:
            raise CheckpointError(
                f"The network of {model.config.name} answers like none of eps, v and x0 (of the noise, "
                f"{self.high:.2f} comes out at the highest level, {self.low:.2f} at a low one, where "
                f"{self.picture:.2f} of the picture does); say it by --prediction."
            )
        return self.kind


@torch.no_grad()
def probe(model: LatentDiffusion) -> Answer:
    """Shows the network a white picture x0 under noise n, at two levels at once, and measures the shares of
    both in its output, <output, n> / <n, n> and <output, x0> / <x0, x0>.

    A network trained for the noise answers n at both levels; one trained for
    v = (n - sigma x0) / sqrt(1 + sigma^2) (arXiv 2202.00512) answers n where there is little noise, but its
    guess of the picture at the highest level; one trained for x0 answers x0 and never n.

    Raises InputError for a model that predicts something else by its own config, or that draws none from
    words.
    """
    config = model.config
    if config.parameterization not in ("eps", "v", "x0"):
        raise InputError(f"The model {config.name} is a {config.parameterization} model; leave --probe out.")
    side = min(SIDE * config.factor, config.size)
    request = Request(prompts="a picture", width=side, height=side, seed=0, guidance=1.0).resolved(config)
    condition = encode(Adapted(model, request), request)["a picture", False].repeat(2)
    ones = torch.ones(1, 3, side, side, device=model.device, dtype=model.dtype)
    white = model.autoencoder.encode(ones).mode().float()  # (1 C h w)
    noise = PictureNoise([0])(white)  # (1 C h w)
    schedule = model.denoiser.schedule
    sigmas = torch.tensor([schedule.sigma_max, LOW], dtype=torch.float64)
    labels = schedule.step_at(sigmas).to(noise)
    levels = expand(sigmas, noise).to(noise)  # (2) -> (2 1 1 1)
    x = (white + levels * noise) / (1 + levels**2).sqrt()  # (2 C h w)
    network = model.denoiser.raw(condition.to(model.device, model.dtype))
    raw = network(x.to(model.dtype), labels).float()  # (2 C h w)
    shares = (raw * noise).flatten(1).sum(dim=1) / noise.square().sum()  # (2)
    high, low = shares.tolist()
    picture = float((raw[1:] * white).sum() / white.square().sum())
    return Answer(_nearest((high, low, picture), schedule.sigma_max), high, low, picture)


def _nearest(shares: tuple[float, float, float], sigma_max: float) -> Parameterization | None:
    """high, low and picture to the kind whose shares are the nearest, where they are near enough."""
    expected: dict[Parameterization, tuple[float, float, float]] = {
        "eps": (1.0, 1.0, 0.0),
        "v": ((1 + sigma_max**2) ** -0.5, (1 + LOW**2) ** -0.5, -LOW * (1 + LOW**2) ** -0.5),
        "x0": (0.0, 0.0, 1.0),
    }
    away = {kind: math.dist(shares, point) for kind, point in expected.items()}
    best, second = sorted(away, key=lambda kind: away[kind])[:2]
    return best if away[best] < FAR and away[second] > CLEAR * away[best] else None
