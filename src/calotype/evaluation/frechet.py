"""Fréchet distance of features taken as Gaussian: FID's formula (Heusel et al., arXiv 1706.08500).

What it is called depends on the features: "FID" only on Inception's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from calotype.evaluation.intervals import spread_of_halves

SUBSETS = 20


def frechet(a: Tensor, b: Tensor) -> float:
    """|mean_a - mean_b|² + tr(C_a + C_b - 2 (C_a C_b)^½) of features (N D), (M D), eq. 6.

    With centred rows A and B, C_a = A'A / (N-1), the non-zero eigenvalues of C_a C_b are the squared
    singular values of A B' over (N-1)(M-1); so no covariance is made, and no square root of one.
    """
    a, b = a.double(), b.double()
    means = (a.mean(0) - b.mean(0)).square().sum()
    first, second = (_reduced(x - x.mean(0)) / (len(x) - 1) ** 0.5 for x in (a, b))
    product = torch.linalg.svdvals(first @ second.T).sum()  # (n D) x (m D) -> (n m) -> (min(n, m))
    return float(means + first.square().sum() + second.square().sum() - 2 * product)


def _reduced(rows: Tensor) -> Tensor:
    """Rows (N D) with the same A'A in at most D rows."""
    return rows if len(rows) <= rows.shape[1] else torch.linalg.qr(rows, mode="r").R


def frechet_distance(a: Tensor, b: Tensor) -> dict[str, float]:
    """The distance as "frechet", with a 95 % interval of its spread over half-sized subsets.

    The estimate is biased upwards by about 1/N, so only figures of equal counts compare; the interval is of
    what other pictures would change, not of the bias.
    """
    whole = frechet(a, b)

    def of_halves(i: Tensor, j: Tensor) -> float:
        return frechet(a[i], b[j])

    spread = spread_of_halves(of_halves, (len(a), len(b)), subsets=SUBSETS)
    return {"frechet": whole, "low": whole - 1.96 * spread, "high": whole + 1.96 * spread}
