"""What a ControlNet is trained to look at: a folder of control pictures, or the edges of the pictures."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from calotype.data.edges import edges_of
from calotype.data.folder import Record
from calotype.data.pictures import SUFFIXES, UnreadablePictureError, read_picture, upright_size
from calotype.data.shards import ShardPictures
from calotype.errors import DataError, InputError
from calotype.training.prepared import Examples
from calotype.training.sessions import DataSet, Watch
from calotype.training.shapes import Grouped, Rows

SLACK = 1.02
"""By how much the ratio of sides may differ: both sizes are whole pixels."""


class Edges:
    """The edges of pictures, found when they are asked for."""

    def __init__(self, pictures: Rows) -> None:
        self._pictures = pictures

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Rows (B): (B 3 H W) uint8."""
        return edges_of(self._pictures[rows])


def counterparts(records: Sequence[Record], folder: Path, control: Path) -> list[Path]:
    """The file of the same name in `control`, whatever its kind, for every picture of `folder`.

    Raises DataError where there is none.
    """
    if not control.is_dir():
        raise DataError(f"{control} is not a folder: give the folder that holds the control pictures.")
    there = {
        path.relative_to(control).with_suffix("").as_posix(): path
        for path in sorted(control.rglob("*"))
        if path.suffix.lower() in SUFFIXES
    }
    found = []
    for record in records:
        name = record.path.relative_to(folder).with_suffix("").as_posix()
        if name not in there:
            raise DataError(
                f"{record.path} has no control picture {control / name}.png (or .jpg, .webp …): make one for "
                "each picture, by the same name, or train without --control on their edges."
            )
        found.append(there[name])
    return found


def read_control(files: Sequence[Path], records: Sequence[Record], pictures: Rows, watch: Watch) -> Rows:
    """Control pictures scaled and cut as the pictures they belong to were, row for row.

    Raises DataError for one that cannot be read, or has another shape than its picture.
    """
    assert not isinstance(pictures, ShardPictures)
    groups = pictures.groups if isinstance(pictures, Grouped) else (pictures,)
    members: list[Sequence[int]] = [range(len(files))]
    if isinstance(pictures, Grouped):
        members = [pictures.members(number).tolist() for number in range(len(groups))]
    found = [torch.empty_like(group) for group in groups]
    places = [(i, found[group][row]) for group, rows in enumerate(members) for row, i in enumerate(rows)]

    def read(place: tuple[int, Tensor]) -> None:
        i, target = place  # (3 H W)
        target.copy_(_fitting(files[i], records[i].path, (target.shape[1], target.shape[2])))

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for done, _ in enumerate(pool.map(read, places), 1):
            watch("reading control pictures", done, len(places))
    return pictures.with_groups(found) if isinstance(pictures, Grouped) else found[0]


def _fitting(path: Path, picture: Path, shape: tuple[int, int]) -> Tensor:
    """The control picture in `path` at the shape (height, width) of its picture: (3 H W) uint8."""
    (width, height), own = upright_size(path), upright_size(picture)
    if height and own[1] and not 1 / SLACK <= (width / height) / (own[0] / own[1]) <= SLACK:
        raise DataError(
            f"{path} is {width}x{height}, but its picture {picture} {own[0]}x{own[1]}, another shape, so "
            "that they would not lie upon each other; make it again from the whole picture."
        )
    try:
        pixels = read_picture(path, lambda *_: shape)
    except UnreadablePictureError as error:
        raise DataError(f"{path} {error}: repair it, or make it again.") from error
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))  # (H W 3) -> (3 H W)


def with_control(
    data: DataSet,
    training: Examples,
    held_out: Examples | None,
    folder: Path,
    control: Path | None,
    watch: Watch,
) -> tuple[Examples, Examples | None, str]:
    """The examples of a data set with what a ControlNet looks at, from `control` or their edges, and what
    tells it from others.

    Raises DataError where a control picture is missing or does not fit, InputError for tar shards.
    """
    parts = ((training, data.pictures, data.records), (held_out, data.held_out, data.held_out_records))
    if control is None:
        edged = [None if own is None else replace(own, control=Edges(rows)) for own, rows, _ in parts]
        assert edged[0] is not None
        edges_of(
            torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
        )  # without OpenCV the run ends here, not in step 1
        return edged[0], edged[1], "edges"
    if isinstance(data.pictures, ShardPictures):
        raise InputError(
            f"{folder} holds tar shards, beside which no folder of control pictures is read; leave --control "
            "out to train on edges, or give a folder of pictures."
        )
    digest = hashlib.sha256()
    found: list[Examples | None] = []
    for own, rows, records in parts:
        if own is None:
            found.append(None)
            continue
        files = counterparts(records, folder, control)
        found.append(replace(own, control=read_control(files, records, rows, watch)))
        for file in files:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    assert found[0] is not None
    return found[0], found[1], digest.hexdigest()
