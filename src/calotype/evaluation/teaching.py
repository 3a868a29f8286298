"""Figures by networks that a data set's training split teaches: labels recognised, captions matched."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from calotype.checkpoints.cache import cached
from calotype.data.folder import PictureFolder
from calotype.errors import InputError
from calotype.evaluation.alignment import BATCH, STEPS, alignment_figures, taught
from calotype.evaluation.features import Features
from calotype.evaluation.recognition import label_figures
from calotype.models.config import ModelConfig
from calotype.models.pixel_config import PixelConfig

PAIRS = 20_000
"""Pictures that a dual encoder is taught by, at most: their features take most of its time."""


def classes_of(config: ModelConfig | PixelConfig) -> tuple[str, ...]:
    """The classes that a model draws, if it does."""
    return config.classes if isinstance(config, ModelConfig) else ()


def check_classes(config: ModelConfig | PixelConfig, folder: PictureFolder) -> None:
    """InputError where a model's classes are not those of a folder's pictures."""
    classes = classes_of(config)
    if not classes:
        raise InputError(f"The model {config.name} draws no classes, so no labels can be recognised.")
    if classes != folder.classes or any(record.label is None for record in folder.records):
        listed = ", ".join(folder.classes) or "none"
        raise InputError(
            f"The model {config.name} draws {', '.join(classes)}, but the class folders of "
            f"{folder.path} are {listed}; name the folder that it was trained on."
        )


class Teaching:
    """The training split of a data set, at `size` pixels a side."""

    def __init__(self, folder: PictureFolder, size: int) -> None:
        self.folder, self.size = folder, size

    @cached_property
    def content(self) -> str:
        """The hash of the pictures, captions and labels."""
        return self.folder.content_hash()

    def labels(self, drawn: Tensor, meant: Tensor, real: Tensor, truth: Tensor) -> dict[str, Any]:
        """`label_figures` of drawn and real pictures uint8 (N 3 H W), (M 3 H W) with labels (N), (M)."""
        pictures = self.folder.load_all(self.size)
        labels = torch.tensor([record.label for record in self.folder.records])
        return label_figures(
            drawn, meant, (pictures, labels), (real, truth), self.folder.classes, self.content
        )

    def alignment(
        self, drawn: Tensor, asked: Sequence[str], real: Tensor, captions: Sequence[str]
    ) -> dict[str, Any]:
        """`alignment_figures` of pictures uint8 (N 3 H W), (M 3 H W), by a dual encoder on EffNet-Lite0."""
        look = Features()
        records = self.folder.records
        self.folder.records = records[:: max(1, len(records) // PAIRS)][:PAIRS]
        known = cached(
            f"effnet-lite0 {self.content} {self.size} {PAIRS}",
            lambda: {"features": look(self.folder.load_all(self.size))},
        )["features"]
        model = taught(known, [record.captions for record in self.folder.records], steps=STEPS)
        self.folder.records = records
        protocol = {
            "encoder": "EffNet-Lite0 and two layers of text, width 128",
            "taught_by": len(known),
            "steps": STEPS,
            "batch": BATCH,
            "drawn": len(drawn),
        }
        return {"protocol": protocol} | alignment_figures(model, look(drawn), asked, look(real), captions)
