"""Names of tensors, ours and other programs', from one table that works both ways.

A row pairs a name of ours with one of theirs; `{}` stands for the same number in both.  Nearly every row is
a renaming; the few that are not say in `form` how the numbers lie.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from calotype.checkpoints.number_type import NumberType
from calotype.checkpoints.weights_file import TensorInfo

if TYPE_CHECKING:
    from torch import Tensor

Table = tuple[tuple[str, str], ...]
"""Paths of modules (ours, theirs); what lies in a module, weight or bias, keeps its name."""

Form = Literal["same", "transposed", "pointwise", "stacked"]
"""transposed: theirs is the transpose.  pointwise: a matrix of ours, a 1x1 convolution there; either is read.
stacked: theirs is several of ours, one on top of the other.
"""


@dataclass(frozen=True)
class Row:
    """ours    one name, or with `stacked` several
    writes  False for a name that is read where it is met, but never written
    """

    ours: tuple[str, ...]
    theirs: str
    form: Form = "same"
    writes: bool = True


@dataclass(frozen=True)
class Source:
    """Where a tensor of ours lies in a file: under `name`, in `form`; of a stack it is number `place`.

    shape  as ours has it
    """

    name: str
    shape: tuple[int, ...]
    dtype: NumberType
    form: Form = "same"
    place: int = 0

    def take(self, stored: Tensor) -> Tensor:
        """Ours from what is stored; a view, never a copy."""
        if self.form == "transposed":
            return stored.T
        if self.form == "stacked":
            rows = self.shape[0]
            return stored[self.place * rows : (self.place + 1) * rows]
        return stored.reshape(self.shape)


@dataclass(frozen=True)
class Layout:
    """All rows of one network.  `ignored`: theirs that hold nothing of the model, such as buffers."""

    rows: tuple[Row, ...]
    ignored: tuple[str, ...] = ()

    def find(self, stored: Mapping[str, TensorInfo]) -> tuple[dict[str, Source], list[str]]:
        """Ours to where they lie, and the names that no row knows."""
        found: dict[str, Source] = {}
        unknown = []
        for name, info in stored.items():
            met = self._theirs.meet(name)
            if met is None:
                if not self._ignored.meet(name):
                    unknown.append(name)
                continue
            row, numbers = met
            for place, ours in enumerate(row.ours):
                shape = _shape(info.shape, row)
                found[ours.format(*numbers)] = Source(name, shape, info.dtype, row.form, place)
        return found, unknown

    def write(self, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All of ours under their names; KeyError for a name that no row knows."""
        import torch

        written: dict[str, Tensor] = {}
        for name, value in ours.items():
            met = self._ours.meet(name)
            if met is None:
                raise KeyError(name)
            row, numbers = met
            if row.form == "stacked":
                if name == row.ours[0].format(*numbers):
                    value = torch.cat([ours[other.format(*numbers)] for other in row.ours])
                else:
                    continue
            elif row.form == "transposed":
                value = value.T
            elif row.form == "pointwise" and value.ndim == 2:
                value = value[:, :, None, None]  # (C' C) -> (C' C 1 1)
            written[row.theirs.format(*numbers)] = value
        return written

    def name(self, ours: str) -> str:
        """What the file calls a tensor of ours; ours itself where no row knows it."""
        met = self._ours.meet(ours)
        return ours if met is None else met[0].theirs.format(*met[1])

    def below(self, prefix: str) -> Layout:
        """The same where all of theirs begin with `prefix`."""
        rows = (Row(row.ours, prefix + row.theirs, row.form, row.writes) for row in self.rows)
        return Layout(tuple(rows), tuple(prefix + name for name in self.ignored))

    @cached_property
    def _theirs(self) -> _Index:
        return _Index((row.theirs, row) for row in self.rows)

    @cached_property
    def _ours(self) -> _Index:
        return _Index((name, row) for row in self.rows if row.writes for name in row.ours)

    @cached_property
    def _ignored(self) -> _Index:
        return _Index((name, Row((), name)) for name in self.ignored)


class _Index:
    """Rows by pattern.  Names that differ in their numbers only share a drawer, so that few are tried."""

    def __init__(self, rows: Iterable[tuple[str, Row]]) -> None:
        self._drawers: dict[str, list[tuple[list[str], Row]]] = {}
        for pattern, row in rows:
            drawer, numbers = _PLACE.sub("#", pattern), _PLACE.findall(pattern)
            self._drawers.setdefault(drawer, []).append((numbers, row))

    def meet(self, name: str) -> tuple[Row, list[str]] | None:
        """The row whose pattern fits, and the numbers that stand for its `{}`."""
        numbers = _PLACE.findall(name)
        for wanted, row in self._drawers.get(_PLACE.sub("#", name), ()):
            if all(want in ("{}", number) for want, number in zip(wanted, numbers, strict=True)):
                return row, [n for want, n in zip(wanted, numbers, strict=True) if want == "{}"]
        return None


_PLACE = re.compile(r"\d+|\{\}")


def _shape(stored: tuple[int, ...], row: Row) -> tuple[int, ...]:
    if row.form == "transposed":
        return stored[::-1]
    if row.form == "pointwise" and stored[2:] == (1, 1):
        return stored[:2]
    if row.form == "stacked" and stored and stored[0] % len(row.ours) == 0:
        return (stored[0] // len(row.ours), *stored[1:])
    return stored


def nest(prefixes: Table, members: Table) -> Table:
    """Every member below every prefix."""
    return tuple((f"{a}.{c}", f"{b}.{d}") for a, b in prefixes for c, d in members)


def same(*names: str) -> Table:
    """Paths that both sides call the same."""
    return tuple((name, name) for name in names)


def modules(table: Table, form: Form = "same", *, writes: bool = True) -> tuple[Row, ...]:
    """Rows for the weight and the bias of every module."""
    return tuple(
        Row((f"{ours}.{leaf}",), f"{theirs}.{leaf}", form, writes)
        for ours, theirs in table
        for leaf in ("weight", "bias")
    )
