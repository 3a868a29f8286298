"""Any folder of pictures as a data set: `metadata.jsonl`, sidecar .txt captions, or class folders.

Opening a folder reads names and captions only.  Pictures are read, and found to be unreadable, when they
are asked for, or all at once by `verify` and `load_all`.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calotype.data.pictures import SUFFIXES, Pixels, Size, UnreadablePictureError, read_picture
from calotype.errors import DataError

METADATA = "metadata.jsonl"
UNFINISHED = "build.jsonl"  # the journal of `calotype data icons`, whose metadata is written last
SPLITS = ("train", "validation", "test")
_BESIDE = frozenset((".txt", ".md", ".json", ".jsonl", ".csv"))  # files a data set may hold beside pictures
_NO_CAPTION = frozenset(("readme", "license", "licence", "attribution", "notice"))

Progress = Callable[[int, int], None]


def _quiet(done: int, total: int) -> None:
    del done, total


@dataclass(frozen=True)
class Record:
    """One picture: its file, its captions (the plainest first), its class, and whatever else is known."""

    path: Path
    captions: tuple[str, ...] = ()
    label: int | None = None
    meta: dict[str, Any] = field(default_factory=dict)


class PictureFolder:
    """The pictures of a folder with their captions.

    Captions are looked for in this order: `metadata.jsonl` (one JSON object a line: `file_name`, `text`,
    optionally `texts`, `split` and anything else), a .txt file of the same stem (one caption a line), the
    name of the class folder that a picture lies in.  `size` is the side in pixels that pictures are scaled
    and cut to; None leaves them as they are.  `split` keeps the records of one split (the field `split`, or
    a top folder of that name); a folder that knows no splits is all "train".

    `skipped` lists what could not be used as (file, reason); with `strict` the first such file stops with
    a DataError instead.  DataError where there are no pictures, or captions name a picture that is missing.
    """

    def __init__(
        self, path: str | Path, size: int | None = None, split: str | None = None, strict: bool = False
    ) -> None:
        self.path = Path(path)
        self.size = size
        self.strict = strict
        self.skipped: list[tuple[Path, str]] = []
        self.classes: tuple[str, ...] = ()
        if not self.path.is_dir():
            raise DataError(f"{self.path} is not a folder: give the folder that holds the pictures.")
        files = sorted(_walk(self.path))
        metadata = self.path / METADATA
        if metadata.is_file():
            records = list(_from_metadata(metadata, set(files)))
        elif UNFINISHED in files:
            raise DataError(
                f"{self.path} is an unfinished build: run `calotype data icons {self.path}` again."
            )
        else:
            records = self._from_files(files)
        if not records:
            kinds = ", ".join(sorted(SUFFIXES))
            raise DataError(
                f"{self.path} holds no pictures: put some there ({kinds}), or name another folder."
            )
        self.records: list[Record] = _of_split(records, split, self.path)

    def __len__(self) -> int:
        return len(self.records)

    def image(self, index: int) -> Tensor:
        """Picture `index` as (3 H W) uint8, RGB on white; DataError where its file cannot be read."""
        path = self.records[index].path
        try:
            return _tensor(read_picture(path, self.size))
        except UnreadablePictureError as error:
            raise DataError(f"{path} {error}: repair or remove it.") from error

    def verify(self, progress: Progress = _quiet) -> None:
        """Reads every picture once; those that cannot be read leave `records` and join `skipped`."""
        for _ in self._readable(self.size, progress):
            pass

    def load_all(self, size: int | None = None, progress: Progress = _quiet) -> Tensor:
        """All pictures as (N 3 H W) uint8, row i being `records[i]`; `progress` gets (done, total).

        Pictures that cannot be read leave `records` first, as in `verify`.  ValueError without any size.
        """
        side = size or self.size
        if side is None:
            raise ValueError("load_all needs a size: pictures of different sizes cannot be stacked")
        pictures = np.empty((len(self.records), 3, side, side), np.uint8)
        count = 0
        for pixels in self._readable(side, progress):
            pictures[count] = pixels.transpose(2, 0, 1)  # (H W 3) -> (3 H W)
            count += 1
        return torch.from_numpy(pictures[:count])

    def load_shaped(
        self, shape: Callable[[int, int], tuple[int, int]], progress: Progress = _quiet
    ) -> list[Pixels]:
        """All pictures, each (H W 3) uint8 of the (height, width) that `shape` gives of its (width, height);
        otherwise as `load_all`.
        """
        return list(self._readable(shape, progress))

    def content_hash(self) -> str:
        """SHA-256 over file names, captions, labels and the bytes of every picture file."""
        digest = hashlib.sha256()
        for record in self.records:
            name = record.path.relative_to(self.path).as_posix()
            digest.update(json.dumps([name, record.captions, record.label]).encode())
            try:
                digest.update(hashlib.sha256(record.path.read_bytes()).digest())
            except OSError as error:
                raise DataError(
                    f"{record.path} cannot be read ({error.strerror}): make it readable."
                ) from error
        return digest.hexdigest()

    def _readable(self, size: Size, progress: Progress) -> Iterator[Pixels]:
        """The pixels of every readable picture in order; by threads, as Pillow decodes without the lock."""
        kept: list[Record] = []
        total = len(self.records)

        def attempt(record: Record) -> Pixels | str:
            try:
                return read_picture(record.path, size)
            except UnreadablePictureError as error:
                return str(error)

        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for start in range(0, total, 256):  # a batch at a time, so that few pictures wait in memory
                for record, pixels in zip(
                    batch := self.records[start : start + 256], pool.map(attempt, batch), strict=True
                ):
                    if isinstance(pixels, str):
                        self._skip(record.path, pixels)
                    else:
                        kept.append(record)
                        yield pixels
                progress(min(start + 256, total), total)
        if not kept:
            raise DataError(
                f"{self.path} holds no picture that can be read: {self.skipped[0][0]} {self.skipped[0][1]}."
            )
        self.records = kept

    def _skip(self, path: Path, reason: str) -> None:
        if self.strict:
            raise DataError(f"{path} {reason}: repair or remove it, or go on without --strict.")
        self.skipped.append((path, reason))

    def _from_files(self, files: list[str]) -> list[Record]:
        """Records of a folder without metadata: sidecar captions, else class folders, else bare pictures."""
        pictures = [name for name in files if Path(name).suffix.lower() in SUFFIXES]
        for name in files:
            if Path(name).suffix.lower() not in SUFFIXES | _BESIDE:
                self._skip(self.path / name, "is not a picture")
        stems = {_stem(name) for name in pictures}
        captions = {
            _stem(name): name
            for name in files
            if name.endswith(".txt") and Path(name).stem.lower() not in _NO_CAPTION
        }
        if captions and pictures:
            if orphans := sorted(set(captions) - stems):
                orphan = self.path / captions[orphans[0]]
                raise DataError(
                    f"{orphan} captions a picture that is missing: add the picture, or remove the captions."
                )
            return [
                Record(self.path / name, _sidecar(self.path / captions[_stem(name)]), meta=_top_split(name))
                if _stem(name) in captions
                else Record(self.path / name, meta=_top_split(name))
                for name in pictures
            ]
        owners = [_class_of(name) for name in pictures]
        self.classes = tuple(sorted({owner for owner in owners if owner is not None}))
        labels = {name: label for label, name in enumerate(self.classes)}
        return [
            Record(self.path / name, (_spoken(owner),), labels[owner], _top_split(name))
            if owner is not None
            else Record(self.path / name, meta=_top_split(name))
            for name, owner in zip(pictures, owners, strict=True)
        ]


def _walk(folder: Path) -> Iterator[str]:
    """Names of all files below `folder`, relative and with slashes; hidden ones are left out."""
    for parent, below, files in os.walk(folder):
        below[:] = [name for name in below if not name.startswith(".")]
        base = Path(parent).relative_to(folder).as_posix()
        for name in files:
            if not name.startswith("."):
                yield name if base == "." else f"{base}/{name}"


def _from_metadata(metadata: Path, files: set[str]) -> Iterator[Record]:
    try:
        lines = metadata.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{metadata} cannot be read as UTF-8 text ({error}).") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{metadata} line {number}"
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{where} is not JSON ({error.msg}): each line must be one JSON object."
            ) from error
        if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str):
            raise DataError(f"{where} has no `file_name`: each line must name its picture.")
        name = os.path.normpath(entry["file_name"]).replace(os.sep, "/")
        if name not in files:
            raise DataError(
                f"{where} names {entry['file_name']}, which is missing: add the picture or drop the line."
            )
        text, texts = entry.get("text"), entry.get("texts", [])
        if not isinstance(text, str | None) or not isinstance(texts, list) or not all(map(_is_text, texts)):
            raise DataError(
                f"{where} has captions that are not text: `text` is a string, `texts` a list of strings."
            )
        captions = dict.fromkeys(caption for caption in (text or "", *texts) if caption.strip())
        meta = {key: value for key, value in entry.items() if key not in ("file_name", "text", "texts")}
        yield Record(metadata.parent / name, tuple(captions), meta=meta)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _of_split(records: list[Record], split: str | None, path: Path) -> list[Record]:
    if split is None:
        return records
    known = sorted({str(record.meta["split"]) for record in records if "split" in record.meta})
    if not known and split == "train":
        return records
    chosen = [record for record in records if record.meta.get("split") == split]
    if not chosen:
        has = f"it has {', '.join(known)}" if known else "none of its pictures belongs to a split"
        raise DataError(f"{path} has no split named {split} ({has}): choose another split.")
    return chosen


def _stem(name: str) -> str:
    return name.rsplit(".", 1)[0]


def _sidecar(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text ({error}).") from error
    return tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))


def _top_split(name: str) -> dict[str, Any]:
    top = name.split("/")[0]
    return {"split": top} if top in SPLITS else {}


def _class_of(name: str) -> str | None:
    """The class folder of a picture: its topmost folder below the split's own."""
    parents = name.split("/")[:-1]
    if parents and parents[0] in SPLITS:
        parents = parents[1:]
    return parents[0] if parents else None


def _spoken(name: str) -> str:
    return name.replace("_", " ").replace("-", " ").strip()


def _tensor(pixels: Pixels) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))  # (H W 3) -> (3 H W)
