"""A few pictures that stand for a whole folder, to try a run on before all are read."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from calotype.checkpoints.memory import peak
from calotype.data.folder import PictureFolder, Record
from calotype.data.shards import shards_of
from calotype.errors import InputError
from calotype.training.sessions import DataSet, in_memory, parted
from calotype.training.shapes import Shape

TRAINING, HELD_OUT = 256, 1024
"""Pictures that are read, at most; of those held out more, as an evaluation takes them all."""


@dataclass(frozen=True)
class Few:
    """Some pictures of a folder, and how much there is of what they stand for.

    pictures, held_out, captions   of the whole folder; captions are counted once each
    reading                        seconds that one picture took to read
    before                         bytes that the process held at most before it read any
    """

    data: DataSet
    pictures: int
    held_out: int
    captions: int
    reading: float
    before: int

    @property
    def share(self) -> float:
        """The whole folder's pictures for each one here."""
        return (self.pictures + self.held_out) / (len(self.data.pictures) + len(self.data.held_out))

    @property
    def captions_here(self) -> int:
        """Distinct captions of these pictures."""
        return _distinct([*self.data.records, *self.data.held_out_records])

    @property
    def bytes(self) -> int:
        """Of these pictures in memory."""
        return self.data.pictures.nbytes + self.data.held_out.nbytes


def read_few(folder: str | Path, size: int, *, strict: bool, shapes: Sequence[Shape] = ()) -> Few:
    """Names and captions of a folder whole, of its pictures some from everywhere, one of each kind at least.

    Raises what `read_data` raises.
    """
    if shards_of(Path(folder)):
        raise InputError(
            f"{folder} holds tar shards, for which there are no plans: reckon from a folder of "
            "pictures, or try the run with --minutes."
        )
    before = peak()
    everything = PictureFolder(folder, size=size, strict=strict)
    train, held_out = parted(everything.records, everything.path)
    kinds = {str(everything.records[i].meta.get("kind", "")): i for i in reversed(train)}
    chosen = {*_spread(train, TRAINING), *_spread(held_out, HELD_OUT), *kinds.values()}
    texts = tuple(everything.records[i].captions for i in train)
    captions = _distinct(everything.records[i] for i in (*train, *held_out))
    everything.records = [everything.records[i] for i in sorted(chosen)]
    began = time.monotonic()
    data = replace(in_memory(everything, size, lambda *_: None, shapes), texts=texts)
    reading = (time.monotonic() - began) / len(chosen)
    return Few(data, len(train), len(held_out), captions, reading, before)


def _spread(rows: Sequence[int], most: int) -> Sequence[int]:
    """At most so many of the rows, from all over them."""
    return rows[:: -(-len(rows) // most) or 1]


def _distinct(records: Iterable[Record]) -> int:
    return len({caption for record in records for caption in record.captions})
