"""A recognised checkpoint, whatever its format: what model it is and where each of its tensors lies."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from calotype.checkpoints.names import Layout, Source
from calotype.checkpoints.weights import WeightsFile, some
from calotype.checkpoints.weights_file import TensorInfo
from calotype.conditioning.tokenizer import Tokenizer
from calotype.errors import CheckpointError, InputError
from calotype.models.config import ModelConfig
from calotype.models.latent_diffusion import LatentDiffusion, build, unfilled

PartName = Literal["autoencoder", "text_encoder", "denoiser", "ControlNet"]

C = TypeVar("C")


@dataclass(frozen=True)
class Piece:
    """Tensors of one network in one file.

    part, place  which part of the model they belong to, and below which prefix in it
    layout       how the file names them
    sources      where they lie, by their names below `place`
    """

    part: PartName
    place: str
    file: WeightsFile
    layout: Layout
    sources: Mapping[str, Source]

    @classmethod
    def of(
        cls,
        part: PartName,
        place: str,
        file: WeightsFile,
        layout: Layout,
        stored: Mapping[str, TensorInfo] | None = None,
    ) -> Piece:
        """Finds the network's tensors among those `stored`, None for all of the file.

        Raises CheckpointError where one is none of its.
        """
        sources, unknown = layout.find(file.shapes if stored is None else stored)
        if unknown:
            raise CheckpointError(
                f"{file.path} holds {len(unknown)} tensors for which a {part.replace('_', ' ')} has no place "
                f"({some(unknown)}); it is another kind of model, or damaged."
            )
        return cls(part, place, file, layout, sources)

    def measured(self, sizes: Callable[[Mapping[str, Source]], C]) -> C:
        """The network's config, by a function of `sizes`.

        Raises CheckpointError where a tensor is missing that every such network has.
        """
        try:
            return sizes(self.sources)
        except KeyError as error:
            lacking = self.layout.name(str(error.args[0]))
            raise CheckpointError(f"{self.file.path} lacks {lacking}; it is cut short or damaged.") from None
        except (IndexError, ValueError, InputError) as error:
            what = self.part.replace("_", " ")
            raise CheckpointError(
                f"{self.file.path} holds tensors whose shapes make no {what} ({error}); it is damaged."
            ) from None

    def fingerprint(self) -> str:
        """SHA-256 over every tensor's name, dtype, shape and first numbers: it tells weights apart without
        reading gigabytes.
        """
        digest = hashlib.sha256()
        for name, source in sorted(self.sources.items()):
            digest.update(f"{self.part}.{self.place}{name} {source.dtype} {source.shape}\n".encode())
            first = source.take(self.file.tensor(source.name)).flatten()[:64].contiguous()
            digest.update(first.view(torch.uint8).numpy().data)
        return digest.hexdigest()


@dataclass(frozen=True)
class Found:
    """No tensor has been read yet.

    title      the family, as people call it
    decided    how the prediction type was found, in words
    tokenizer  makes the tokenizer, when it is wanted
    notes      what else a person may want to know, one sentence each
    recipe     how it was made, where Calotype made it
    """

    path: Path
    format: Literal["single-file", "diffusers"]
    title: str
    config: ModelConfig
    decided: str
    pieces: tuple[Piece, ...]
    tokenizer: Callable[[], Tokenizer | None]
    notes: tuple[str, ...] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def load(
        self, device: torch.device | str = "cpu", dtype: torch.dtype | None = torch.float32
    ) -> LatentDiffusion:
        """The whole model, weights in `dtype`, None for as they are stored.

        Weights that need not change are views of the file, which is mapped into memory.
        Raises CheckpointError where tensors are missing, unknown or misshapen.
        """
        try:
            with unfilled():
                model = build(self.config, self.tokenizer())
        except InputError as error:
            raise CheckpointError(f"{self.path} makes no model: {error}") from None
        for part, module in model.parts().items():
            fill(self.path, module, [piece for piece in self.pieces if piece.part == part], device, dtype)
        return model.replace(weights_hash=self.fingerprint())

    def fingerprint(self) -> str:
        """SHA-256 over the config and the pieces' fingerprints."""
        digest = hashlib.sha256(self.config.to_json().encode())
        for piece in self.pieces:
            digest.update(piece.fingerprint().encode())
        return f"sampled-{digest.hexdigest()}"


def fill(
    path: Path,
    module: nn.Module,
    pieces: list[Piece],
    device: torch.device | str,
    dtype: torch.dtype | None,
) -> None:
    """Give a module built on the meta device its tensors, strict in names and shapes."""
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    homes = {
        piece.place + name: (piece, source) for piece in pieces for name, source in piece.sources.items()
    }
    called = {name: source.name for name, (_, source) in homes.items()}
    misshapen = [
        f"{called[name]} {homes[name][1].shape} instead of {wanted[name]}"
        for name in sorted(wanted.keys() & homes.keys())
        if homes[name][1].shape != wanted[name]
    ]
    problems = [
        f"{verb} {some(names)}"
        for verb, names in (
            ("lacks", [_call(pieces, name) for name in wanted.keys() - homes.keys()]),
            ("has unknown", [called[name] for name in homes.keys() - wanted.keys()]),
            ("has misshapen", misshapen),
        )
        if names
    ]
    if problems:
        raise CheckpointError(f"{path} {' and '.join(problems)}; its weights are not those of its model.")
    state: dict[str, Tensor] = {}
    for name, (piece, source) in homes.items():
        value = source.take(piece.file.tensor(source.name))
        state[name] = value.to(device, dtype if value.is_floating_point() else None)
    module.load_state_dict(state, assign=True)


def _call(pieces: list[Piece], name: str) -> str:
    """What the file would call one of ours."""
    for piece in pieces:
        if name.startswith(piece.place):
            return piece.layout.name(name.removeprefix(piece.place))
    return name
