"""Sets of pictures in tar files, as webdataset lays them out: KEY.png, KEY.json, KEY.txt, KEY.cls in a row.

A set of millions is a few large files then, which file systems and copying tools like better.  Nothing is
unpacked and nothing is held in memory: the headers say where each picture lies, and it is read from there
when a batch asks for it.  So a step's pictures stay a function of its number, which is what resuming to the
bit needs; webdataset's own reader, made for streams, shuffles in a buffer that a killed run would lose.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calotype import durable
from calotype.data.folder import SPLITS, PictureFolder, Record
from calotype.data.pictures import SUFFIXES, Pixels, UnreadablePictureError, read_picture
from calotype.errors import DataError, OutputError

Progress = Callable[[int, int], None]


def _quiet(done: int, total: int) -> None:
    del done, total


PER_SHARD = 10_000


@dataclass(frozen=True)
class Place:
    """Where a picture's bytes lie: in `shard`, from byte `offset` on, `size` of them."""

    shard: Path
    offset: int
    size: int


class ShardPictures:
    """Pictures uint8 (N 3 S S) that stay in their shards until rows are asked for; DataError where one cannot
    be read.
    """

    def __init__(self, places: Sequence[Place], names: Sequence[str], side: int) -> None:
        self._places, self._names, self._side = tuple(places), tuple(names), side
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1)

    def __len__(self) -> int:
        return len(self._places)

    nbytes = 0
    """Of memory taken."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N 3 S S)."""
        return (len(self), 3, self._side, self._side)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """The pictures of `rows` (B) as (B 3 S S), or of one row () as (3 S S)."""
        if isinstance(rows, slice):
            rows = torch.arange(len(self))[rows]
        if rows.ndim == 0:
            return self[rows[None]][0]
        if not len(rows):
            return torch.empty(0, 3, self._side, self._side, dtype=torch.uint8)
        pixels = list(self._pool.map(self._read, rows.tolist()))
        return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()  # (B S S 3) -> (B 3 S S)

    def subset(self, rows: Sequence[int]) -> ShardPictures:
        """Some of the pictures, still unread."""
        return ShardPictures([self._places[i] for i in rows], [self._names[i] for i in rows], self._side)

    def split(self, count: int) -> Iterator[Tensor]:
        """All pictures in parts (count 3 S S), one after the other."""
        for rows in torch.arange(len(self)).split(count):
            yield self[rows]

    def _read(self, row: int) -> Pixels:
        place = self._places[row]
        try:
            with place.shard.open("rb") as file:
                file.seek(place.offset)
                return read_picture(io.BytesIO(file.read(place.size)), self._side)
        except OSError as error:
            raise DataError(f"{place.shard} cannot be read ({error.strerror}): put it back.") from error
        except UnreadablePictureError as error:
            raise DataError(
                f"{self._names[row]} in {place.shard} {error}: repair the shard, or make it again with "
                "`calotype data shards`, which leaves such pictures out."
            ) from error


class ShardFolder:
    """The pictures of a folder of .tar shards, or of one shard, with their captions and classes.

    A sample's captions are its .txt (one a line), else `text` and `texts`, or `caption`, of its .json, whose
    other fields are kept; its class is `class` there, or the number in its .cls, the classes' order.
    A shard whose name begins with train, validation or test is of that split, where the .json names none.
    DataError where a shard cannot be read or holds no picture.
    """

    def __init__(self, path: str | Path, progress: Progress = _quiet) -> None:
        self.path = Path(path)
        self.shards = shards_of(self.path)
        self.records: list[Record] = []
        self._places: list[Place] = []
        owners: list[str | None] = []
        numbered: dict[str, int] = {}
        for number, shard in enumerate(self.shards):
            for place, name, parts in _samples(shard):
                entry = _entry(parts, shard, name)
                owners.append(entry.pop("class", None))
                if owners[-1] is not None and parts.get(".cls", b"").strip().isdigit():
                    numbered[owners[-1]] = int(parts[".cls"])
                meta = {"split": split} if (split := shard.name.split("-")[0]) in SPLITS else {}
                captions = entry.pop("captions")
                self.records.append(Record(shard / name, captions, meta=meta | entry))
                self._places.append(place)
            progress(number + 1, len(self.shards))
        if not self.records:
            raise DataError(f"The shards in {self.path} hold no pictures; name a folder of webdataset's.")
        named = {owner for owner in owners if owner is not None}
        self.classes = tuple(sorted(named, key=lambda name: (numbered.get(name, 0), name)))
        numbers = {name: number for number, name in enumerate(self.classes)}
        if self.classes:
            self.records = [
                Record(record.path, record.captions, None if owner is None else numbers[owner], record.meta)
                for record, owner in zip(self.records, owners, strict=True)
            ]

    def pictures(self, side: int) -> ShardPictures:
        """The pictures, row for row with `records`, at `side` pixels a side."""
        return ShardPictures(self._places, [record.path.name for record in self.records], side)

    def content_hash(self) -> str:
        """SHA-256 over the shards' names and bytes."""
        digest = hashlib.sha256()
        for shard in self.shards:
            with shard.open("rb") as file:
                digest.update(f"{shard.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
        return digest.hexdigest()


def shards_of(path: Path) -> list[Path]:
    """The .tar files of a folder, or the one file itself; none where there are none."""
    if path.is_file():
        return [path] if path.suffix == ".tar" else []
    return sorted(path.glob("*.tar"))


def _samples(shard: Path) -> Iterator[tuple[Place, str, dict[str, bytes]]]:
    """(place, name of the picture, the other members' bytes by suffix) of every sample with a picture."""
    key, found, parts = "", None, dict[str, bytes]()
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                name = PurePosixPath(member.name)
                if not member.isfile() or name.name.startswith("."):
                    continue
                own = str(name.parent / name.name.partition(".")[0])
                if own != key:
                    if found is not None:
                        yield *found, parts
                    key, found, parts = own, None, {}
                if name.suffix.lower() in SUFFIXES:
                    found = (Place(shard, member.offset_data, member.size), member.name)
                elif name.suffix in {".txt", ".json", ".cls"}:
                    file = tar.extractfile(member)
                    parts[name.suffix] = file.read() if file is not None else b""
            if found is not None:
                yield *found, parts
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{shard} is no readable tar file ({error}): copy it again.") from error


def _entry(parts: dict[str, bytes], shard: Path, name: str) -> dict[str, Any]:
    try:
        entry = json.loads(parts.get(".json", b"{}"))
        lines = parts[".txt"].decode().splitlines() if ".txt" in parts else []
        number = parts[".cls"].decode().strip() if ".cls" in parts else None
    except ValueError as error:
        raise DataError(f"What belongs to {name} in {shard} cannot be read ({error}).") from error
    if not isinstance(entry, dict):
        raise DataError(f"The .json of {name} in {shard} is no object; give fields such as `text`.")
    told = [entry.pop("text", None), *(entry.pop("texts", None) or ()), entry.pop("caption", None)]
    captions = [line.strip() for line in lines] or [text for text in told if isinstance(text, str)]
    entry["captions"] = tuple(dict.fromkeys(text for text in captions if text.strip()))
    owner = entry.pop("class", number)
    return entry | ({} if owner is None else {"class": str(owner)})


def write_shards(
    folder: PictureFolder, out: Path, per_shard: int, progress: Progress = _quiet
) -> dict[str, int]:
    """Write a folder's pictures, their files as they are, into `out`, SPLIT-000000.tar and so on.

    Gives the number of pictures of each split.  The order is that of the hashes of their names, so that a
    reader of streams meets a mixture.  Pictures that cannot be read join the folder's `skipped`.
    OutputError where `out` is not empty or cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out} is there already; name a new or empty folder.")
    folder.verify(lambda done, total: progress(done, 2 * total))
    splits: dict[str, list[Record]] = {}
    for record in folder.records:
        splits.setdefault(str(record.meta.get("split", "all")), []).append(record)
    done, total = 0, len(folder.records)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for split, records in sorted(splits.items()):
            records.sort(key=lambda record: hashlib.sha256(_name(record, folder).encode()).digest())
            for start in range(0, len(records), per_shard):
                path = out / f"{split}-{start // per_shard:06d}.tar"
                partial = path.with_suffix(".tmp")
                with tarfile.open(partial, "w", format=tarfile.GNU_FORMAT) as tar:
                    for i, record in enumerate(records[start : start + per_shard], start):
                        _add(tar, f"{i:09d}", record, folder)
                        done += 1
                        progress(total + done, 2 * total)
                durable.rename(partial, path)
    except OSError as error:
        raise OutputError(f"{out} cannot be written ({error.strerror}); free some space.") from error
    return {split: len(records) for split, records in splits.items()}


def _name(record: Record, folder: PictureFolder) -> str:
    return record.path.relative_to(folder.path).as_posix()


def _add(tar: tarfile.TarFile, key: str, record: Record, folder: PictureFolder) -> None:
    entry: dict[str, Any] = dict(record.meta) | {"file_name": _name(record, folder)}
    if record.captions:
        entry |= {"text": record.captions[0], "texts": list(record.captions)}
    parts = {record.path.suffix.lower(): record.path.read_bytes()}
    if record.label is not None:
        entry["class"] = folder.classes[record.label]
        parts[".cls"] = str(record.label).encode()
    if record.captions:
        parts[".txt"] = "\n".join(record.captions).encode()
    parts[".json"] = json.dumps(entry, ensure_ascii=False).encode()
    for suffix, data in parts.items():
        member = tarfile.TarInfo(key + suffix)  # no time and no owner: the same set gives the same bytes
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
