"""Textual inversions (Gal et al. 2022, arXiv:2208.01618): vectors for a word that a model did not know.

AUTOMATIC1111  .pt with `string_to_param`, .safetensors with `emb_params`
SDXL           `clip_l` and `clip_g`, one tensor for each text encoder
diffusers      one tensor, named as the word is written in a prompt
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from calotype.checkpoints.weights import WeightsFile, some, write_safetensors
from calotype.checkpoints.weights_file import open_weights
from calotype.errors import CheckpointError
from calotype.models.latent_diffusion import LatentDiffusion

MOST_VECTORS = 1024

EmbeddingLayout = Literal["a1111", "diffusers"]

_SDXL = ("clip_l", "clip_g")
_A1111 = ("emb_params", "string_to_param.")


@dataclass(frozen=True)
class Embedding:
    """word: as the file or its name has it; vectors: (N D), one for each of the model's text encoders."""

    word: str
    vectors: tuple[Tensor, ...]


def word_of(path: Path) -> str:
    """The word that a prompt says unless the person chose one; no tensor is read.

    Raises CheckpointError where the file is no textual inversion.
    """
    (name, *_), word = _names(open_weights(path))
    return name if word is None else word


def read(path: Path, model: LatentDiffusion) -> Embedding:
    """The vectors for this model.

    Raises CheckpointError: no textual inversion, one for another model (number or width of its vectors),
    none or too many vectors, numbers that are not finite.
    """
    file = open_weights(path)
    names, word = _names(file)
    widths = [text.clip.width for text in model.config.text]
    if len(names) == 2 and len(widths) == 1 and model.config.sizes is not None:
        names = names[1:]  # the refiner has SDXL's second text encoder only
    if len(names) != len(widths):
        raise CheckpointError(
            f"{path} has vectors for {_encoders(len(names))}, but the model {model.config.name} has "
            f"{_encoders(len(widths))}; use one that was made for it."
        )
    vectors = tuple(_vectors(file, name, width, model) for name, width in zip(names, widths, strict=True))
    if len({len(found) for found in vectors}) > 1:
        counts = " and ".join(str(len(found)) for found in vectors)
        raise CheckpointError(f"{path} has {counts} vectors for two text encoders; they should be as many.")
    return Embedding(names[0] if word is None else word, vectors)


def write(
    path: Path, word: str, vectors: Sequence[Tensor], layout: EmbeddingLayout, recipe: Mapping[str, Any]
) -> None:
    """The vectors (N D) of a word, one tensor for each text encoder.

    Of two encoders both layouts are SDXL's `clip_l` and `clip_g`.  Of one, a1111's calls the tensor
    `emb_params`, and the word is the file's name; diffusers' calls it by the word.
    Raises OutputError where it cannot be written.
    """
    names = list(_SDXL) if len(vectors) == 2 else ["emb_params" if layout == "a1111" else word]
    tensors = {name: value.contiguous() for name, value in zip(names, vectors, strict=True)}
    told = {"format": "pt", "word": word, "recipe": json.dumps(recipe, ensure_ascii=False)}
    write_safetensors(path, tensors, told)


def _names(file: WeightsFile) -> tuple[list[str], str | None]:
    """The tensors that hold the vectors, and the word; None for the tensor's own name."""
    names = list(file.shapes)
    if set(names) == set(_SDXL):
        return list(_SDXL), file.path.stem
    old = [name for name in names if name.startswith(_A1111)]
    if len(old) == 1:
        return old, file.path.stem
    if len(names) == 1 and not old and (names[0].startswith("<") or "." not in names[0]):
        return names, None
    raise CheckpointError(
        f"{file.path} is no textual inversion ({some(names) or 'it is empty'}); name a file with emb_params, "
        "string_to_param, clip_l and clip_g, or one tensor."
    )


def _vectors(file: WeightsFile, name: str, width: int, model: LatentDiffusion) -> Tensor:
    shape = file.shapes[name].shape
    if len(shape) not in (1, 2) or not 1 <= (1 if len(shape) == 1 else shape[0]) <= MOST_VECTORS:
        raise CheckpointError(
            f"{file.path} has {name} in the shape {list(shape)}; a word has 1 to {MOST_VECTORS} vectors."
        )
    if shape[-1] != width:
        raise CheckpointError(
            f"{file.path} has vectors {shape[-1]} wide, but the text encoder of {model.config.name} reads "
            f"{width}; use one that was made for it."
        )
    value = file.tensor(name)
    if not value.is_floating_point():
        raise CheckpointError(f"{file.path} stores {name} as {value.dtype}; its numbers should be floats.")
    value = value.to(value.dtype if value.dtype == torch.float64 else torch.float32)
    if not bool(value.isfinite().all()):
        raise CheckpointError(f"{file.path} holds numbers in {name} that are not finite; do not use it.")
    return value.reshape(-1, width)  # (D) or (N D) -> (N D)


def _encoders(count: int) -> str:
    return f"{count} text encoder{'' if count == 1 else 's'}"
