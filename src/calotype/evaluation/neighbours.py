"""How near pictures lie to their nearest training picture, and whether that is nearer than chance puts them.

A model that repeats its training pictures draws samples nearer to them than pictures lie which it never saw
(Meehan et al. 2020, arXiv 2004.05675; Carlini et al. 2023, arXiv 2301.13188).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from calotype.evaluation.concepts import share
from calotype.evaluation.intervals import RESAMPLES, percentiles

SIDE = 32
"""Pixels a side at which pictures are compared as they are: small enough to forgive a shift of one pixel."""
NEAR = 0.01
"""A near copy lies nearer to a training picture than this share of held-out pictures do."""
_ROWS = 256


@dataclass(frozen=True)
class Nearest:
    """For every picture asked about: the distance (N) and the row (N) of its nearest training picture."""

    distance: Tensor
    row: Tensor


def thumbnails(pictures: Tensor) -> Tensor:
    """uint8 (N 3 H W) as points (N 3*32*32) whose Euclidean distance is the root mean square difference of
    grey levels, from 0 to 255.
    """
    found = []
    for part in pictures.split(512):
        small = F.interpolate(part.float(), (SIDE, SIDE), mode="area")
        found.append(small.flatten(1) / (3 * SIDE * SIDE) ** 0.5)  # (B 3 S S) -> (B 3*S*S)
    return torch.cat(found)


def nearest(points: Tensor, training: Tensor, own: Tensor | None = None) -> Nearest:
    """Of points (N D) among training points (M D); `own` (N) are rows of `training` that are the point itself
    and do not count.
    """
    distances, rows = [], []
    for start in range(0, len(points), _ROWS):
        found = torch.cdist(points[start : start + _ROWS], training)  # (n M)
        if own is not None:
            found[torch.arange(len(found)), own[start : start + _ROWS]] = torch.inf
        least = found.min(dim=1)
        distances.append(least.values)
        rows.append(least.indices)
    return Nearest(torch.cat(distances), torch.cat(rows))


def nearness(drawn: Nearest, held_out: Nearest, training: Nearest) -> dict[str, Any]:
    """Figures on three sets of distances: of drawn pictures, held-out ones, and training pictures to others.

    "nearer" is the chance that a drawn picture lies nearer than a held-out one (0.5: the same), with its
    interval; "near_copies" the share of drawn pictures nearer than all but one in a hundred held-out ones
    ("threshold"), where 1 % is what pictures drawn like held-out ones give, and "among_training" the share of
    training pictures that lie so near to another one; the medians are of the distances.
    """
    threshold = held_out.distance.double().quantile(NEAR)
    near = (drawn.distance.double() < threshold).tolist()
    among = (training.distance.double() < threshold).tolist()
    return {
        "nearer": auc(-drawn.distance, -held_out.distance),
        "near_copies": share(near) | {"expected": NEAR, "threshold": float(threshold)},
        "among_training": share(among),
        "median_drawn": float(drawn.distance.median()),
        "median_held_out": float(held_out.distance.median()),
        "median_training": float(training.distance.median()),
    }


def auc(positive: Tensor, negative: Tensor, *, seed: int = 0) -> dict[str, float]:
    """Area under the ROC curve of scores (N), (M): the chance that a positive one is higher, ties counting
    half (Hanley & McNeil 1982), with its 95 % interval, both sets resampled.
    """
    generator = torch.Generator().manual_seed(seed)
    positive, negative = positive.double(), negative.double()
    found = [area(_resampled(positive, generator), _resampled(negative, generator)) for _ in range(RESAMPLES)]
    low, high = percentiles(torch.tensor(found))
    return {"auc": area(positive, negative), "low": low, "high": high}


def area(positive: Tensor, negative: Tensor) -> float:
    """The same without its interval."""
    ordered = negative.sort().values
    below = torch.searchsorted(ordered, positive)
    up_to = torch.searchsorted(ordered, positive, right=True)
    return float((below + up_to).double().mean() / (2 * len(negative)))


def _resampled(values: Tensor, generator: torch.Generator) -> Tensor:
    return values[torch.randint(len(values), (len(values),), generator=generator)]
