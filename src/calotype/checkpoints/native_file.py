"""What a checkpoint of Calotype's own says of itself; no tensor is read, and torch not loaded."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, TypeVar

from calotype.checkpoints.tensor_info import TensorInfo
from calotype.checkpoints.weights_file import open_weights
from calotype.errors import CheckpointError, InputError
from calotype.models.config import ModelConfig
from calotype.models.pixel_config import PixelConfig

Config = TypeVar("Config", ModelConfig, PixelConfig)

PIXEL = "pixel"
"""The `kind` of a model of pictures themselves."""
PARTS = ("autoencoder", "text_encoder", "denoiser")


@dataclass(frozen=True)
class FileInfo:
    """What a checkpoint says of itself, read without its tensors.

    parameters  numbers stored, by part
    dtype       of the tensors on disk ("float16")
    """

    path: Path
    config: ModelConfig | PixelConfig
    parameters: dict[str, int]
    dtype: str
    weights_hash: str
    recipe: dict[str, Any]
    version: str


class NativeFile:
    """An open checkpoint; every failure to read it is a CheckpointError."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.weights = open_weights(self.path)
        self.metadata = self.weights.metadata
        self.shapes = {name: info.shape for name, info in self.weights.shapes.items()}
        if self.metadata.get("format") != "calotype":
            raise CheckpointError(
                f"{self.path} holds weights, but is not a checkpoint of Calotype's (its metadata lack "
                "format=calotype); name a file written by `calotype train`."
            )

    def text(self, key: str) -> str:
        if key not in self.metadata:
            raise CheckpointError(f"{self.path} lacks {key!r} in its metadata; the file is damaged.")
        return self.metadata[key]

    def pixel_config(self) -> PixelConfig:
        if self.metadata.get("kind") != PIXEL:
            raise CheckpointError(
                f"{self.path} draws from words and cannot restore photographs; name a model trained by "
                "`calotype train pixels`."
            )
        return self._told(PixelConfig.from_json)

    def config(self) -> ModelConfig:
        if self.metadata.get("kind") == PIXEL:
            raise CheckpointError(
                f"{self.path} restores photographs and cannot draw from words; use it with "
                "`calotype denoise`, `inpaint`, `upscale` or `deblur`, or name another model."
            )
        return self._told(ModelConfig.from_json)

    def _told(self, parse: Callable[[str], Config]) -> Config:
        try:
            return parse(self.text("config"))
        except (CheckpointError, InputError) as error:
            raise CheckpointError(f"{self.path}: {error}") from None

    def dtype(self) -> str:
        """The first tensor's."""
        return next((info.dtype.name for info in self.weights.shapes.values()), "none")


def by_part(shapes: Mapping[str, TensorInfo]) -> dict[str, dict[str, TensorInfo]]:
    """What such a file holds of every part."""
    parts: dict[str, dict[str, TensorInfo]] = {}
    for name, told in shapes.items():
        part, _, own = name.partition(".")
        parts.setdefault(part, {})[own] = told
    return parts


def describe(path: str | Path) -> FileInfo:
    """What the file says of itself; CheckpointError where it is not a checkpoint of Calotype's."""
    file = NativeFile(path)
    parameters = dict.fromkeys(PARTS, 0)
    for name, shape in file.shapes.items():
        part = name.partition(".")[0]
        parameters[part] = parameters.get(part, 0) + prod(shape)
    try:
        recipe = json.loads(file.metadata.get("recipe", "{}"))
    except (ValueError, RecursionError):
        recipe = None
    if not isinstance(recipe, dict):
        raise CheckpointError(f"{path} holds a damaged recipe; make or fetch the file again.")
    return FileInfo(
        path=file.path,
        config=file.pixel_config() if file.metadata.get("kind") == PIXEL else file.config(),
        parameters={part: count for part, count in parameters.items() if count},
        dtype=file.dtype(),
        weights_hash=file.text("weights_sha256"),
        recipe=recipe,
        version=file.metadata.get("calotype_version", "unknown"),
    )


def latent_config(path: str | Path) -> ModelConfig:
    """The config of a model that draws from words; CheckpointError for any other file."""
    return NativeFile(path).config()
