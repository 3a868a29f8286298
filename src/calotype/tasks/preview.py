"""What latents look like, without the decoder: a linear map from a latent to the mean colour of its pixels.

Latents of Stable Diffusion's autoencoders are nearly a small picture in other colours.  The map is found once
for a model, by least squares over what its own encoder makes of a few pictures of soft colours.
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calotype.models.latent_diffusion import LatentDiffusion
from calotype.tasks.pixels import decode, encode_pixels, to_image

LEAST = 32
"""Latents a side of the smallest picture of which the map shows enough."""

PICTURES, SIDE = 4, 16
"""Whose latents (SIDE x SIDE each) the map is fitted to."""

_maps: WeakKeyDictionary[nn.Module, LatentMap] = WeakKeyDictionary()
"""By autoencoder."""


@dataclass(frozen=True)
class LatentMap:
    """weight (3 C), bias (3): pixels in [-1, 1] of latents."""

    weight: Tensor
    bias: Tensor

    @classmethod
    def fitted(cls, latents: Tensor, pixels: Tensor) -> LatentMap:
        """By least squares from (N C) to (N 3)."""
        known = torch.cat([latents, torch.ones(len(latents), 1)], dim=1).double()  # (N C+1)
        found = torch.linalg.lstsq(known, pixels.double()).solution.float()  # (C+1 3)
        return cls(found[:-1].T.contiguous(), found[-1])

    def __call__(self, latents: Tensor) -> Tensor:
        """(C h w) -> (3 h w)."""
        flat = torch.einsum("oc,chw->ohw", self.weight.to(latents), latents)
        return flat + self.bias.to(latents)[:, None, None]


def latent_map(model: LatentDiffusion) -> LatentMap:
    """The model's own, found at its first preview."""
    known = _maps.get(model.autoencoder)
    if known is None:
        factor = model.config.factor
        pictures = _soft_colours(PICTURES, SIDE * factor)
        latents = torch.cat([encode_pixels(model, picture[None], None) for picture in pictures]).cpu()
        means = F.avg_pool2d(pictures, factor)  # (N 3 h w)
        known = LatentMap.fitted(*(x.movedim(1, -1).flatten(0, 2) for x in (latents, means)))
        _maps[model.autoencoder] = known
    return known


def preview(model: LatentDiffusion, latents: Tensor) -> PIL.Image.Image:
    """What latents (C h w) look like by now, as large as their picture: by the map, or decoded where they are
    too few for the map to show anything.
    """
    factor, (height, width) = model.config.factor, latents.shape[1:]
    if min(height, width) < LEAST or factor == 1:
        return decode(model, latents)
    seen = to_image(latent_map(model)(latents.float()))
    return seen.resize((width * factor, height * factor), PIL.Image.Resampling.BICUBIC)


def _soft_colours(count: int, side: int) -> Tensor:
    """(N 3 side side) in [-1, 1]: random colours, many of them pure, each fading into its neighbours."""
    generator = torch.Generator().manual_seed(0)
    colours = torch.rand(count, 3, 6, 6, generator=generator) * 4 - 2
    return F.interpolate(colours, (side, side), mode="bicubic").clamp(-1, 1)
