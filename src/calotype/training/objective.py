"""What a run trains: modules whose forward is the loss, with their batches, samples and export."""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from calotype.training.config import TrainConfig

VALIDATION_STEP = -1
"""The step number that keys the fixed random numbers of validation batches."""


class Objective(nn.Module, ABC):
    """A module whose forward returns the scalars of a batch, `loss` among them."""

    config: TrainConfig
    not_for_muon: tuple[str, ...] = ()
    """Beginnings of the names of parameters that see pictures, not features."""
    product = "model.safetensors"
    """The name of the file that a run ends with."""

    @abstractmethod
    def batch(self, indices: Tensor, step: int, share: slice) -> dict[str, Tensor]:
        """Keyword arguments of forward for the rows `share` of the pictures `indices` (B).

        Random numbers are drawn for the whole batch and then cut, so that they do not depend
        on how many processes share it.
        """

    @abstractmethod
    def samples(self) -> Tensor | None:
        """A contact sheet's pictures (N 3 H W) in [-1, 1], or None when there is nothing to show."""

    @abstractmethod
    def validation(self) -> list[dict[str, Tensor]]:
        """Held-out batches with fixed noise; empty when nothing is held out."""

    @abstractmethod
    def export(self, path: Path, recipe: Mapping[str, Any]) -> None:
        """Write what the module has learned, as it is at present, as a file for use."""

    def still(self) -> Sequence[nn.Module]:
        """Networks that take part and do not learn: they lie in no checkpoint."""
        return ()

    def kept(self) -> tuple[int, int]:
        """Bytes that are held beside the pictures: what was made of each of them, and of each caption."""
        return 0, 0

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Means of forward's scalars over the validation batches, weighted by their sizes."""
        sums: dict[str, float] = {}
        count = 0
        for batch in self.validation():
            rows = len(next(iter(batch.values())))
            for name, value in self(**batch).items():
                sums[name] = sums.get(name, 0.0) + float(value) * rows
            count += rows
        return {f"validation_{name}": total / count for name, total in sums.items()}


def recipe_of(config: TrainConfig, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What is written into the weights' metadata about how they were made."""
    return {"training": json.loads(json.dumps(dataclasses.asdict(config))), **facts}
