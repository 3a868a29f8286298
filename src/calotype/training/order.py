"""Which pictures a step sees, and the random numbers it uses: functions of (seed, step) alone.

Nothing here has a state that could be lost, which is what makes resuming exact by design.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray


def _key(*parts: object) -> int:
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little")


def step_generator(seed: int, step: int, purpose: str) -> torch.Generator:
    """A CPU generator that depends on nothing but (seed, step, purpose)."""
    return torch.Generator().manual_seed(_key(seed, step, purpose) >> 1)


def _random(seed: int, number: int, purpose: str) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=_key(seed, number, purpose)))


def shuffled(rows: NDArray[np.int64], seed: int, number: int, purpose: str) -> NDArray[np.int64]:
    """The rows in an order that depends on nothing but (seed, number, purpose)."""
    return _random(seed, number, purpose).permutation(rows)


class BatchOrder:
    """The endless sequence of picture indices, shuffled anew every epoch.

    With `weights` (N), an epoch still draws N pictures, each within one of its expected
    number of times (systematic sampling), so that heavier pictures come up more often.
    """

    def __init__(self, count: int, batch: int, seed: int, weights: NDArray[np.float64] | None = None) -> None:
        self.count, self.batch, self.seed = count, batch, seed
        self._edges = None if weights is None else np.cumsum(weights) * (count / weights.sum())
        self._cached: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def epoch(self, number: int) -> NDArray[np.int64]:
        """The (N) picture indices of one epoch, in their order."""
        if self._cached[0] != number:
            random = _random(self.seed, number, "order")
            pictures = np.arange(self.count)
            if self._edges is not None:
                marks = np.arange(self.count) + random.random()
                pictures = np.minimum(np.searchsorted(self._edges, marks, side="right"), self.count - 1)
            self._cached = (number, random.permutation(pictures))
        return self._cached[1]

    def indices(self, step: int) -> torch.Tensor:
        """The (batch) int64 indices of step `step`, counted from 0."""
        taken: list[NDArray[np.int64]] = []
        position, end = step * self.batch, (step + 1) * self.batch
        while position < end:
            number, offset = divmod(position, self.count)
            part = self.epoch(number)[offset : offset + end - position]
            taken.append(part)
            position += len(part)
        return torch.from_numpy(np.concatenate(taken))
