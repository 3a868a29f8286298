"""Builds the photographs data set: square tiles cut from a few large photographs, at several scales.

A denoiser learns from texture, not from subjects, so few photographs go a long way (the classical networks
learnt from 400 small ones).  Most tiles come from photographs made smaller, which takes away the noise and
the blocks that camera and JPEG left in them; some are as the camera took them.  `metadata.jsonl` is written
last: where it is, the data set is whole.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from calotype.data.fetch import fetch
from calotype.data.icons import ATTRIBUTION, JOURNAL, METADATA, SUMMARY
from calotype.data.openclipart import data_member
from calotype.data.pages import page
from calotype.data.photo_sources import PHOTO_PACKAGES
from calotype.data.pictures import SUFFIXES, on_white
from calotype.data.render import pixel_hash, write_text
from calotype.errors import DataError, FetchError, InputError, OutputError

SCALES = (1.0, 0.7, 0.5)
"""Of what remains after the first shrinking, by 2 or, where a photograph is small, by 1.5."""
AS_TAKEN_KEPT = 3
"""Of the tiles cut before any shrinking, without those of sky and blur, one in so many is kept.  Photographs
that people bring are such: softer, and coarser in their colours, than what was made smaller."""
LARGE = 1800
"""From this longer side on, a photograph is shrunk by 2."""
FLAT, BLANK, FLAT_KEPT = 1.2, 0.1, 3
"""Tiles whose mean step from pixel to pixel is below FLAT, of 255, are sky or blur: one in FLAT_KEPT is kept,
as calm is learnt too, and none below BLANK."""
PAGES = 160
"""Tiles of drawn print that lie beside the packages' photographs."""
HELD_OUT = 12
"""One photograph in so many is held out whole."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Photo:
    """One photograph, its file still packed, and whom to thank."""

    name: str
    data: bytes
    author: str
    licence: str
    source: str


def make_photos(folder: Path, cache: Path, size: int, own: Path | None, progress: Progress) -> dict[str, Any]:
    """Cuts photographs into tiles of `size` pixels in `folder`; returns the data set's summary.

    own  a folder of photographs to use instead of the packages', which are fetched into `cache`

    InputError, DataError, FetchError and OutputError as their names say.
    """
    if not 32 <= size <= 1024:
        raise InputError(f"size is {size}: give the tiles' side in pixels, from 32 to 1024.")
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file: choose a new or empty folder.")
    if folder.is_dir() and not (folder / JOURNAL).exists() and any(folder.iterdir()):
        raise DataError(f"{folder} is not empty and holds no photos build: choose a new or empty folder.")
    photos = list(packaged(cache, progress) if own is None else _own(own))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / METADATA).unlink(missing_ok=True)
        write_text(folder / JOURNAL, json.dumps({"photos": len(photos), "size": size}) + "\n")
        records: list[dict[str, Any]] = []
        hashes: dict[str, str] = {}
        for i, photo in enumerate(photos):
            progress("cutting", i, len(photos))
            taken = opened(photo)
            picture = shrunk(taken)
            pixels = pixel_hash(np.asarray(picture))
            if pixels not in hashes.values():
                hashes[photo.name] = pixels
                records += list(_cut(folder, photo, taken, picture, size))
        if own is None:
            records += list(_pages(folder, size))
        if not records:
            raise DataError(
                f"No photograph is large and detailed enough for tiles of {size} pixels; add larger ones."
            )
        return _finish(folder, photos, hashes, records, size)
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written ({error.strerror or error}): make room or choose another folder."
        ) from error


def packaged(cache: Path, progress: Progress) -> Iterator[Photo]:
    """The photographs of the listed packages, by name."""
    for source in PHOTO_PACKAGES:
        progress(f"fetching {source.package.name}", 0, 0)
        archive = fetch(source.package, cache)
        wanted = {f"./{source.folder}/{name}": name for name in source.files}
        found: dict[str, bytes] = {}
        try:
            with tarfile.open(fileobj=io.BytesIO(data_member(archive.read_bytes())), mode="r|*") as tar:
                for member in tar:
                    file = tar.extractfile(member) if member.isfile() and member.name in wanted else None
                    if file:
                        found[wanted[member.name]] = file.read()
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            raise FetchError(
                f"{archive} cannot be unpacked ({error}): delete it and fetch it again."
            ) from error
        if missing := sorted(set(source.files) - set(found)):
            raise FetchError(f"{archive} holds no {missing[0]}: delete the file and fetch it again.")
        for name, (author, licence) in source.files.items():
            told = f"{source.package.name} {source.package.version}"
            yield Photo(name.replace("/contents/images/", "-"), found[name], author, licence, told)


def _own(folder: Path) -> Iterator[Photo]:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: give one that holds photographs.")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"{folder} holds no pictures: put some there, or name another folder.")
    for path in files:
        name = path.relative_to(folder).as_posix().replace("/", "-")
        yield Photo(name, path.read_bytes(), "", "", str(folder.name))


def opened(photo: Photo) -> Image.Image:
    """The photograph as RGB, upright; DataError names a damaged one."""
    try:
        with Image.open(io.BytesIO(photo.data)) as picture:
            return on_white(ImageOps.exif_transpose(picture))
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        raise DataError(f"{photo.name} is no readable picture ({error}): remove it.") from error


def shrunk(taken: Image.Image) -> Image.Image:
    """A photograph without the noise of camera and JPEG."""
    return _scaled(taken, 1 / (2.0 if max(taken.size) >= LARGE else 1.5))


def _scaled(picture: Image.Image, scale: float) -> Image.Image:
    if scale == 1.0:
        return picture
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _cut(
    folder: Path, photo: Photo, taken: Image.Image, picture: Image.Image, size: int
) -> Iterator[dict[str, Any]]:
    """Writes a photograph's tiles, side by side, the last ones flush with the edge."""
    mark = int.from_bytes(hashlib.sha256(photo.name.encode()).digest()[:4], "little")
    split = "validation" if mark % HELD_OUT == 0 else "train"
    stem = Path(photo.name).stem
    for scale in (*SCALES, None):
        whole = taken if scale is None else _scaled(picture, scale)
        kind = "taken" if scale is None else str(round(100 * scale))
        for top in _places(whole.height, size):
            for left in _places(whole.width, size):
                tile = whole.crop((left, top, left + size, top + size))
                detail, turn = _detail(tile), (top + left) // size
                if scale is None:
                    kept = detail >= FLAT and turn % AS_TAKEN_KEPT == 0
                else:
                    kept = detail >= FLAT or (detail >= BLANK and turn % FLAT_KEPT == 0)
                if kept:
                    name = f"{stem}-{kind}-{top}-{left}.png"
                    _save(tile, folder / name)
                    yield {"file_name": name, "split": split, "photo": photo.name}


def _pages(folder: Path, size: int) -> Iterator[dict[str, Any]]:
    for i in range(PAGES):
        name = f"page-{i}.png"
        _save(page(i, size), folder / name)
        yield {"file_name": name, "split": "train", "page": i}


def _save(tile: Image.Image, path: Path) -> None:
    scratch = path.with_name(f".{path.name}.tmp")
    tile.save(scratch, "PNG", compress_level=1)
    scratch.replace(path)


def _places(length: int, size: int) -> list[int]:
    if length < size:
        return []
    return [*range(0, length - size, size), length - size]


def _detail(tile: Image.Image) -> float:
    """The mean step between neighbouring pixels, of 255."""
    grey = np.asarray(tile.convert("L")).astype(np.float32)
    return float(np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean()) / 2


_HEAD = """# Attribution

The photographs of this data set were made by these authors and are used under these licences, as the
packages that carry them state. They were made smaller and cut into tiles.

| photograph | author | licence | package |
|---|---|---|---|
"""


def _finish(
    folder: Path, photos: list[Photo], hashes: dict[str, str], records: list[dict[str, Any]], size: int
) -> dict[str, Any]:
    metadata = "".join(json.dumps(record) + "\n" for record in records)
    used = {record["photo"] for record in records if "photo" in record}
    rows = [f"| {p.name} | {p.author} | {p.licence} | {p.source} |\n" for p in photos if p.name in used]
    summary = {
        "content": hashlib.sha256(metadata.encode()).hexdigest(),
        "photographs": {name: pixels for name, pixels in hashes.items() if name in used},
        "pictures": len(records),
        "size": size,
        "held_out": sorted({r["photo"] for r in records if r["split"] == "validation"}),
    }
    write_text(folder / ATTRIBUTION, _HEAD + "".join(rows))
    write_text(folder / SUMMARY, json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    write_text(folder / METADATA, metadata)
    return summary
