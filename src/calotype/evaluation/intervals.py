"""Intervals by resampling (Efron 1979): how far a figure would move with other pictures of the same kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

RESAMPLES = 1000
LEVEL = 0.95


def of_mean(values: Tensor, *, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean of `values` (N): percentiles of the means of resamples with repeats."""
    generator = torch.Generator().manual_seed(seed)
    count = len(values)
    rounds = max(1, min(RESAMPLES, 4_000_000 // count))  # as many resamples at once as memory takes lightly
    means = [
        values.double()[
            torch.randint(count, (min(rounds, RESAMPLES - done), count), generator=generator)
        ].mean(1)
        for done in range(0, RESAMPLES, rounds)
    ]
    return percentiles(torch.cat(means))


def percentiles(resampled: Tensor) -> tuple[float, float]:
    """The middle 95 % of a figure's values (R) over resamples."""
    ends = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    low, high = resampled.double().quantile(ends).tolist()
    return low, high


def measured(name: str, values: Tensor, *, seed: int = 0) -> dict[str, float]:
    """The mean of `values` (N) under `name`, with its interval and their number."""
    low, high = of_mean(values, seed=seed)
    return {name: float(values.double().mean()), "low": low, "high": high, "count": float(len(values))}


def with_intervals(means: Mapping[str, Tensor]) -> dict[str, object]:
    """{name: mean} of several columns of values (N), and "intervals": {name: [low, high]}."""
    found: dict[str, object] = {name: float(values.double().mean()) for name, values in means.items()}
    return found | {"intervals": {name: list(of_mean(values)) for name, values in means.items()}}


def spread_of_halves(
    statistic: Callable[[Tensor, Tensor], float], counts: tuple[int, int], *, subsets: int, seed: int = 0
) -> float:
    """Standard error of a figure of two sets, from random halves of both, (rows (n), rows (m)) -> figure.

    A half without repeats, unlike a resample, holds no pair of equal pictures, which would pull an unbiased
    estimate up.  Half of n drawn without repeats varies as the mean of n does: var(n/2) * (1 - 1/2) = var(n).
    """
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(subsets):
        first, second = (torch.randperm(n, generator=generator)[: n // 2] for n in counts)
        found.append(statistic(first, second))
    return float(torch.tensor(found, dtype=torch.float64).std())
