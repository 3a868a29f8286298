"""Fidelity and diversity told apart, by nearest neighbours among features.

Precision and recall: Kynkäänniemi et al. 2019 (arXiv 1904.06991).  Density and coverage: Naeem et al. 2020
(arXiv 2002.09797), which outliers among the real pictures deceive less.
"""

from __future__ import annotations

import torch
from torch import Tensor

from calotype.errors import InputError
from calotype.evaluation.intervals import measured

PRECISION_NEIGHBOURS = 3
DENSITY_NEIGHBOURS = 5
"""The papers' own choices of k."""
_ROWS = 1024


def manifold(drawn: Tensor, real: Tensor) -> dict[str, dict[str, float]]:
    """precision, recall, density and coverage of features (N D) against real ones (M D).

    Each is a mean over pictures (precision and density over the drawn, recall and coverage over the real);
    its interval resamples them, the neighbourhoods staying as they are.  InputError with too few pictures.
    """
    fewest = max(PRECISION_NEIGHBOURS, DENSITY_NEIGHBOURS) + 1
    if min(len(drawn), len(real)) < fewest:
        raise InputError(
            f"Precision, recall, density and coverage need {fewest} pictures of both kinds or more; "
            f"there are {len(drawn)} drawn and {len(real)} real ones."
        )
    return {name: measured(name, values) for name, values in per_picture(drawn, real).items()}


def per_picture(
    drawn: Tensor, real: Tensor, k: int = PRECISION_NEIGHBOURS, k_density: int = DENSITY_NEIGHBOURS
) -> dict[str, Tensor]:
    """What the four figures are means of: float64 (N) for precision and density, (M) for recall, coverage."""
    drawn, real = drawn.double(), real.double()
    radius, radius_density = radii(real, k), radii(real, k_density)  # (M), (M)
    around_drawn = radii(drawn, k)  # (N)
    precision, density = [], []
    recalled = torch.zeros(len(real), dtype=torch.bool)
    covered = torch.zeros(len(real), dtype=torch.bool)
    for part, around in zip(drawn.split(_ROWS), around_drawn.split(_ROWS), strict=True):
        distances = _distances(part, real)  # (n M)
        precision.append((distances <= radius).any(dim=1))
        inside = distances <= radius_density
        density.append(inside.double().sum(dim=1) / k_density)
        covered |= inside.any(dim=0)
        recalled |= (distances <= around[:, None]).any(dim=0)
    return {
        "precision": torch.cat(precision).double(),
        "recall": recalled.double(),
        "density": torch.cat(density),
        "coverage": covered.double(),
    }


def radii(features: Tensor, k: int) -> Tensor:
    """The distance of each row (N D) to its k-th nearest neighbour, itself left aside: (N)."""
    found = []
    for start in range(0, len(features), _ROWS):
        distances = _distances(features[start : start + _ROWS], features)  # (n N)
        distances[torch.arange(len(distances)), torch.arange(start, start + len(distances))] = torch.inf
        found.append(distances.kthvalue(k, dim=1).values)
    return torch.cat(found)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
