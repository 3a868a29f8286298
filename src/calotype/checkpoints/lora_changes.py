"""From the tensors that a LoRA file has for one layer to the change they make; shapes are checked first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from calotype.checkpoints.weights import WeightsFile
from calotype.errors import CheckpointError
from calotype.networks.lora import Change, Decomposed, Difference, Hadamard, Kronecker, LowRank

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Pieces:
    """What a file has for one layer.

    names   of the tensors, by what they are of the change
    layer   shape of the layer's weight: (O C) or (O C h w)
    biased  whether the layer has a bias
    told    alpha of the metadata, and whether the rank's root divides it
    """

    file: WeightsFile
    names: Mapping[str, str]
    layer: Shape
    biased: bool
    told: tuple[float | None, bool]

    def shape(self, what: str) -> Shape:
        """CheckpointError where the file has no such tensor."""
        if what not in self.names:
            other = next(iter(self.names.values()))
            raise CheckpointError(
                f"{self.file.path} has {other}, but no {what} to go with it; it is damaged."
            )
        return self.file.shapes[self.names[what]].shape

    def take(self, what: str, shape: Shape) -> Tensor:
        """The tensor in this shape; CheckpointError where it has another size, or numbers not finite."""
        name, stored = self.names[what], self.shape(what)
        if math.prod(stored) != math.prod(shape) or _squeezed(stored) != _squeezed(shape):
            raise self.misfit(what)
        value = self.file.tensor(name)
        if not value.is_floating_point() and (what != "alpha" or value.dtype not in _WHOLE):
            raise CheckpointError(
                f"{self.file.path} stores {name} as {value.dtype}; a LoRA's numbers should be floats."
            )
        wide = value.to(value.dtype if value.dtype == torch.float64 else torch.float32)
        if not bool(wide.isfinite().all()):
            raise CheckpointError(
                f"{self.file.path} holds numbers in {name} that are not finite; do not use it."
            )
        return wide.reshape(shape)

    def misfit(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"{self.file.path} has {self.names[what]} in the shape {list(self.shape(what))}, which does not "
            f"fit a layer of {list(self.layer)} and the rest of its change; it is for another model, or "
            "damaged."
        )

    def rank(self, what: str, axis: int) -> int:
        """The rank as this tensor has it; CheckpointError for 0."""
        shape = self.shape(what)
        if len(shape) <= axis:
            raise self.misfit(what)
        if shape[axis] == 0:
            raise CheckpointError(f"{self.file.path} has {self.names[what]} of rank 0; it is damaged.")
        return shape[axis]

    def scale(self, rank: int) -> float:
        """alpha / rank; alpha is the rank where nobody says it."""
        alpha, rooted = self.told
        if "alpha" in self.names:
            alpha, rooted = float(self.take("alpha", ())), False
        if alpha is None:
            return 1.0
        if alpha == 0:
            raise CheckpointError(
                f"{self.file.path} has an alpha of 0 beside {next(iter(self.names.values()))}, which some "
                "programs read as no change and some as the rank; correct the file."
            )
        return alpha / (math.sqrt(rank) if rooted else rank)


def change(pieces: Pieces, model: str) -> Change:
    """The change of one layer; CheckpointError where tensors are missing, too many or misshapen."""
    names = set(pieces.names) - {"alpha", "magnitude"}
    found: Change
    if names & {"up", "down", "mid"}:
        found, used = _low_rank(pieces), {"up", "down", "mid"}
    elif any(name.startswith("hada_") for name in names):
        found, used = _hadamard(pieces), {name for name in names if name.startswith("hada_")}
    elif any(name.startswith("lokr_") for name in names):
        found, used = _kronecker(pieces), {name for name in names if name.startswith("lokr_")}
    elif "difference" in names:
        found, used = _difference(pieces), {"difference", "bias"}
    else:
        lone = next(iter(pieces.names.values()))
        raise CheckpointError(
            f"{pieces.file.path} has {lone}, but nothing that it belongs to; it is damaged."
        )
    rest = names - used
    if rest:
        raise CheckpointError(
            f"{pieces.file.path} changes one layer of {model} in two ways, by {pieces.names[min(rest)]} "
            f"and {pieces.names[min(used & names)]}; Calotype applies one."
        )
    return _decomposed(pieces, found) if "magnitude" in pieces.names else found


def _low_rank(pieces: Pieces) -> LowRank:
    out, into, kernel = pieces.layer[0], pieces.layer[1], pieces.layer[2:]
    rank = pieces.rank("down", 0)
    pieces.rank("up", 1)
    up = pieces.take("up", (out, rank))
    scale = pieces.scale(rank)
    if "mid" in pieces.names:
        if not kernel:
            raise pieces.misfit("mid")
        mid = pieces.take("mid", (rank, rank, *kernel))
        return LowRank(pieces.take("down", (rank, into)), up, scale, mid)
    return LowRank(pieces.take("down", (rank, into, *kernel)), up, scale)


def _hadamard(pieces: Pieces) -> Hadamard:
    out, into, kernel = pieces.layer[0], pieces.layer[1], pieces.layer[2:]
    rank = pieces.rank("hada_w1_b", 0)
    scale = pieces.scale(rank)
    if {"hada_t1", "hada_t2"} & set(pieces.names):
        if not kernel:
            raise pieces.misfit("hada_t1" if "hada_t1" in pieces.names else "hada_t2")
        core = (rank, rank, *kernel)
        pairs = tuple(
            (pieces.take(f"hada_w{i}_a", (rank, out)), pieces.take(f"hada_w{i}_b", (rank, into)))
            for i in (1, 2)
        )
        return Hadamard(pairs, scale, (pieces.take("hada_t1", core), pieces.take("hada_t2", core)))
    wide = into * math.prod(kernel)
    second = pieces.rank("hada_w2_b", 0)
    pairs = (
        (pieces.take("hada_w1_a", (out, rank)), pieces.take("hada_w1_b", (rank, wide))),
        (pieces.take("hada_w2_a", (out, second)), pieces.take("hada_w2_b", (second, wide))),
    )
    return Hadamard(pairs, scale)


def _kronecker(pieces: Pieces) -> Kronecker:
    """Either factor may itself be given as a product; alpha counts only where one is."""
    out, into, kernel = pieces.layer[0], pieces.layer[1], pieces.layer[2:]
    rank: int | None = None
    if "lokr_w1" in pieces.names:
        rows, columns = (pieces.rank("lokr_w1", axis) for axis in (0, 1))
        first = pieces.take("lokr_w1", (rows, columns))
    else:
        rank = pieces.rank("lokr_w1_b", 0)
        rows, columns = pieces.rank("lokr_w1_a", 0), pieces.rank("lokr_w1_b", 1)
        first = pieces.take("lokr_w1_a", (rows, rank)) @ pieces.take("lokr_w1_b", (rank, columns))
    if out % rows or into % columns:
        raise pieces.misfit("lokr_w1" if "lokr_w1" in pieces.names else "lokr_w1_a")
    high, wide = out // rows, into // columns
    if "lokr_w2" in pieces.names:
        second = pieces.take("lokr_w2", (high, wide, *kernel))
    elif "lokr_t2" in pieces.names:
        rank = pieces.rank("lokr_w2_b", 0)
        if not kernel:
            raise pieces.misfit("lokr_t2")
        core = pieces.take("lokr_t2", (rank, rank, *kernel))
        a, b = pieces.take("lokr_w2_a", (rank, high)), pieces.take("lokr_w2_b", (rank, wide))
        second = torch.einsum("pqhw,qc,po->ochw", core, b, a)
    else:
        rank = pieces.rank("lokr_w2_b", 0)
        flat = pieces.take("lokr_w2_b", (rank, wide * math.prod(kernel)))
        second = (pieces.take("lokr_w2_a", (high, rank)) @ flat).reshape(high, wide, *kernel)
    return Kronecker(first, second, 1.0 if rank is None else pieces.scale(rank))


def _difference(pieces: Pieces) -> Difference:
    bias = None
    if "bias" in pieces.names:
        if not pieces.biased:
            raise pieces.misfit("bias")
        bias = pieces.take("bias", pieces.layer[:1])
    return Difference(pieces.take("difference", pieces.layer), bias)


def _decomposed(pieces: Pieces, found: Change) -> Decomposed:
    """PEFT has a length for each channel out, in any shape; a `dora_scale` shows its axis by its shape."""
    out, into, ones = pieces.layer[0], pieces.layer[1], [1] * (len(pieces.layer) - 2)
    shape = pieces.shape("magnitude")
    columns = pieces.names["magnitude"].endswith(".dora_scale") and len(shape) > 1 and shape[0] != out
    if columns:
        return Decomposed(found, pieces.take("magnitude", (1, into, *ones)), 1)
    return Decomposed(found, pieces.take("magnitude", (out, 1, *ones)), 0)


_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def _squeezed(shape: Shape) -> Shape:
    return tuple(n for n in shape if n != 1)
