"""A recognised checkpoint, whatever its format: what model it is and where each of its tensors lies."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from calotype.checkpoints.misfit import Misfit
from calotype.checkpoints.names import Layout, Source
from calotype.checkpoints.weights import WeightsFile, some
from calotype.checkpoints.weights_file import TensorInfo
from calotype.errors import CheckpointError, InputError
from calotype.models.config import ModelConfig
from calotype.networks import shapes
from calotype.networks.shapes import Shapes

if TYPE_CHECKING:
    import torch

    from calotype.conditioning.tokenizer import Tokenizer
    from calotype.models.latent_diffusion import LatentDiffusion
    from calotype.models.offload import Offload
    from calotype.networks.narrow import Widen

PartName = Literal["autoencoder", "text_encoder", "denoiser", "ControlNet"]

C = TypeVar("C")


class LackingError(CheckpointError):
    """A tensor is missing without which nobody can say what the network is; `name` as the file has it."""

    def __init__(self, sentence: str, name: str) -> None:
        super().__init__(sentence)
        self.name = name


@dataclass(frozen=True)
class Piece:
    """Tensors of one network in one file.

    part, place  which part of the model they belong to, and below which prefix in it
    layout       how the file names them
    sources      where they lie, by their names below `place`
    unknown      names below its prefix for which such a network has no place
    """

    part: PartName
    place: str
    file: WeightsFile
    layout: Layout
    sources: Mapping[str, Source]
    unknown: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        part: PartName,
        place: str,
        file: WeightsFile,
        layout: Layout,
        stored: Mapping[str, TensorInfo] | None = None,
    ) -> Piece:
        """Finds the network's tensors among those `stored`, None for all of the file."""
        sources, unknown = layout.find(file.shapes if stored is None else stored)
        return cls(part, place, file, layout, sources, tuple(unknown))

    def measured(self, sizes: Callable[[Mapping[str, Source]], C]) -> C:
        """The network's config, by a function of `sizes`.

        Raises CheckpointError where a tensor is missing that every such network has.
        """
        try:
            return sizes(self.sources)
        except KeyError as error:
            lacking = self.layout.name(str(error.args[0]))
            raise LackingError(
                f"{self.file.path} lacks {lacking}; it is cut short or damaged.", lacking
            ) from None
        except (IndexError, ValueError, InputError) as error:
            what = self.part.replace("_", " ")
            raise CheckpointError(
                f"{self.file.path} holds tensors whose shapes make no {what} ({error}); it is damaged."
            ) from None

    def refuse_unknown(self) -> None:
        """CheckpointError where the file holds tensors for which such a network has no place."""
        if self.unknown:
            raise CheckpointError(
                f"{self.file.path} holds {len(self.unknown)} tensors for which a "
                f"{self.part.replace('_', ' ')} has no place ({some(self.unknown)}); "
                "it is another kind of model, or damaged."
            )

    def fingerprint(self) -> str:
        """SHA-256 over every tensor's name, dtype, shape and first numbers: it tells weights apart without
        reading gigabytes.
        """
        import torch

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
    unknown    names that belong to no part of the model
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
    unknown: tuple[str, ...] = ()

    def load(
        self,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | str | None = "float32",
        offload: Offload | None = None,
        *,
        widen: Widen | None = "now",
    ) -> LatentDiffusion:
        """The whole model, weights in `dtype`, torch's own or its name, None for as they are stored.

        Weights that need not change are views of the file, which is mapped into memory. With `offload`, which
        then says where and in what they work, they stay in the file until a part is brought to work.

        widen  when large layers' 16-bit weights become float32 or bf16 on a CPU (networks/narrow.py); None
               for "once", or "always" where the model would not fit into memory otherwise

        Raises CheckpointError where tensors are missing, unknown or misshapen.
        """
        from calotype.checkpoints.loading import load

        return load(self, device, dtype, offload, widen)

    @property
    def stored(self) -> dict[str, dict[str, Source]]:
        """Where the tensors of every part lie, by our names."""
        parts: dict[str, dict[str, Source]] = {}
        for piece in self.pieces:
            named = {piece.place + name: source for name, source in piece.sources.items()}
            parts.setdefault(piece.part, {}).update(named)
        return parts

    def refuse_unknown(self) -> None:
        """CheckpointError where the file holds tensors that belong to none of the networks."""
        if self.unknown:
            raise CheckpointError(
                f"{self.path} holds {len(self.unknown)} tensors that belong to no part of a Stable Diffusion "
                f"({some(self.unknown)}); it is another kind of model."
            )

    def without_unknown(self) -> Found:
        """The same as if the tensors for which the model has no place were not there."""
        there = wanted(self.config)
        pieces = tuple(
            dataclasses.replace(
                piece,
                unknown=(),
                sources={
                    name: source
                    for name, source in piece.sources.items()
                    if piece.place + name in there[piece.part]
                },
            )
            for piece in self.pieces
        )
        return dataclasses.replace(self, pieces=pieces, unknown=())

    def misfit(self) -> Misfit:
        """All that `load` would complain of, without reading a tensor."""
        found = Misfit(unknown=(*self.unknown, *(name for piece in self.pieces for name in piece.unknown)))
        for part, below in wanted(self.config).items():
            found += misfit(below, [piece for piece in self.pieces if piece.part == part])
        return found

    def fingerprint(self) -> str:
        """SHA-256 over the config and the pieces' fingerprints."""
        digest = hashlib.sha256(self.config.to_json().encode())
        for piece in self.pieces:
            digest.update(piece.fingerprint().encode())
        return f"sampled-{digest.hexdigest()}"


def misfit(wanted: Mapping[str, tuple[int, ...]], pieces: list[Piece]) -> Misfit:
    """Where the pieces of one part are not what is `wanted`."""
    places = homes(pieces)

    def called(name: str) -> str:
        return places[name][1].name if name in places else _call(pieces, name)

    return Misfit.between(wanted, {name: source.shape for name, (_, source) in places.items()}, called)


def wanted(config: ModelConfig) -> dict[PartName, dict[str, tuple[int, ...]]]:
    """The names and shapes of every tensor of a model, part by part."""
    networks: dict[PartName, dict[str, Shapes]] = {
        "denoiser": {"network.": shapes.unet(config.unet)},
        "autoencoder": {} if config.autoencoder is None else {"": shapes.autoencoder(config.autoencoder)},
        "text_encoder": {f"towers.{i}.": shapes.clip(t.clip) for i, t in enumerate(config.text)},
    }
    return {
        part: {place + name: shape for place, network in below.items() for name, shape in network.items()}
        for part, below in networks.items()
    }


def homes(pieces: list[Piece]) -> dict[str, tuple[Piece, Source]]:
    """Where each of a part's tensors lies, by our names."""
    return {piece.place + name: (piece, source) for piece in pieces for name, source in piece.sources.items()}


def _call(pieces: list[Piece], name: str) -> str:
    """What the file would call one of ours."""
    for piece in pieces:
        if name.startswith(piece.place):
            return piece.layout.name(name.removeprefix(piece.place))
    return name
