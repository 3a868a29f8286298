"""Pictures of unlike shapes in one training: each keeps about its own shape, and a batch is of one.

(Buckets of aspect ratios, as NovelAI describes them: novelai.net/blog, October 2022.)
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calotype.data.shards import ShardPictures
from calotype.training.order import BatchOrder, shuffled

Shape = tuple[int, int]
"""(height, width) in pixels."""


def shapes_of(size: int, unit: int, aspect: float) -> tuple[Shape, ...]:
    """Shapes of at most size * size pixels whose sides are multiples of `unit` and differ at most by the
    factor `aspect`, the square first; of every width the highest.
    """
    found = {(size, size)}
    for width in range(unit, int(size * aspect**0.5) + 1, unit):
        height = size * size // width // unit * unit
        if height and max(height / width, width / height) <= aspect:
            found |= {(height, width), (width, height)}
    return tuple(sorted(found, key=lambda shape: (shape != (size, size), shape)))


def nearest(shapes: Sequence[Shape]) -> Callable[[int, int], Shape]:
    """Of a picture's (width, height) the shape that least of it has to be cut off for."""

    def choose(width: int, height: int) -> Shape:
        own = np.log(width / height)
        return min(shapes, key=lambda shape: abs(np.log(shape[1] / shape[0]) - own))

    return choose


class Grouped:
    """Rows of tensors, alike in shape within a group; in the place of one tensor (N …)."""

    def __init__(self, groups: Sequence[Tensor], members: Sequence[Sequence[int]]) -> None:
        """`groups[g]` (n_g …) are the rows `members[g]` (n_g) of the whole; no group is empty."""
        self.groups = tuple(groups)
        count = sum(map(len, groups))
        self.group = torch.empty(count, dtype=torch.long)
        self._row = torch.empty(count, dtype=torch.long)
        for number, rows in enumerate(members):
            self.group[list(rows)] = number
            self._row[list(rows)] = torch.arange(len(rows))

    def __len__(self) -> int:
        return len(self.group)

    @property
    def nbytes(self) -> int:
        return sum(group.nbytes for group in self.groups)

    def members(self, number: int) -> Tensor:
        """(n_g) rows of the whole that are one group's."""
        return (self.group == number).nonzero()[:, 0]

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Rows (B) of one group: (B …)."""
        return self.groups[int(self.group[rows[0]])][self._row[rows]]

    def split(self, count: int) -> Iterator[Tensor]:
        """All rows, group by group, at most `count` at a time."""
        for group in self.groups:
            yield from group.split(count)

    def with_groups(self, groups: Sequence[Rows]) -> Grouped:
        """The same rows with other tensors, group by group as long."""
        members = [self.members(number).tolist() for number in range(len(self.groups))]
        return Grouped([group for group in groups if isinstance(group, Tensor)], members)


Rows = Tensor | Grouped | ShardPictures


def grouped(pictures: Sequence[NDArray[np.uint8]], shapes: Sequence[Shape]) -> Grouped:
    """Pictures (H W 3), each of one of the shapes, as groups of (n 3 H W)."""
    members = [[i for i, picture in enumerate(pictures) if picture.shape[:2] == shape] for shape in shapes]
    members = [rows for rows in members if rows]
    groups = []
    for rows in members:
        stacked = np.stack([pictures[i] for i in rows])  # (n H W 3)
        groups.append(torch.from_numpy(np.ascontiguousarray(stacked.transpose(0, 3, 1, 2))))  # (n 3 H W)
    return Grouped(groups, members)


def batches_of(rows: Rows, most: int) -> list[Tensor]:
    """The numbers of rows in batches of one shape each, about `most` in all, from all over the rows."""
    stride = max(1, len(rows) // most)
    if isinstance(rows, Grouped):
        return [rows.members(number)[::stride] for number in range(len(rows.groups))]
    return [torch.arange(len(rows))[::stride]]


class ShapeOrder(BatchOrder):
    """As `BatchOrder`, but every batch is of one group of pictures.

    An epoch's pictures, in its order, fall into their groups; each group is cut into batches, the last of
    which is filled up from the group's beginning, and all batches are shuffled.  So a picture may come up
    twice in an epoch, and none is left out.
    """

    def __init__(
        self,
        group: Tensor,
        batch: int,
        seed: int,
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        """`group` (N): the number of each picture's group."""
        super().__init__(len(group), batch, seed, weights)
        self._group = group.numpy()
        self._ends: list[int] = []  # of each epoch, in steps
        self._batches: tuple[int, NDArray[np.int64]] = (-1, np.empty((0, batch), np.int64))

    def batches(self, number: int) -> NDArray[np.int64]:
        """The (steps, batch) picture indices of one epoch."""
        if self._batches[0] != number:
            pictures = self.epoch(number)
            parts = []
            for group in np.unique(self._group[pictures]):
                own = pictures[self._group[pictures] == group]
                parts.append(np.resize(own, (-(-len(own) // self.batch), self.batch)))
            found = shuffled(np.concatenate(parts), self.seed, number, "batches")
            self._batches = (number, found)
        return self._batches[1]

    def indices(self, step: int) -> Tensor:
        # how many steps an epoch has hangs on what it draws; what went before is drawn again after a restart
        while not self._ends or self._ends[-1] <= step:
            before = self._ends[-1] if self._ends else 0
            self._ends.append(before + len(self.batches(len(self._ends))))
        number = bisect.bisect_right(self._ends, step)
        begins = self._ends[number - 1] if number else 0
        return torch.from_numpy(self.batches(number)[step - begins].copy())
