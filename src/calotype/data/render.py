"""Draws a plan's pictures into files, by a pool of processes, leaving what is already right."""

import hashlib
import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from calotype import durable
from calotype.data.pictures import Pixels, UnreadablePictureError, read_picture
from calotype.data.plan import Drawing
from calotype.data.svg import draw
from calotype.errors import DataError

_CHUNK = 64
_SCRATCH = ".tmp"
_INK = 0.004  # a picture with less than this share of its pixels off white shows nothing

_Job = tuple[Path, int, list[tuple[Drawing, str | None]]]


@dataclass(frozen=True)
class Made:
    """The outcome of one drawing: the hash of its pixels, or the reason why there is no picture."""

    file_name: str
    pixels: str | None
    reason: str = ""
    fresh: bool = True

    def note(self) -> dict[str, str | None]:
        """The journal's entry."""
        return {"file": self.file_name, "pixels": self.pixels, "reason": self.reason}


def render_all(
    folder: Path, drawings: Sequence[Drawing], size: int, noted: Mapping[str, str], workers: int
) -> Iterator[list[Made]]:
    """The outcomes of all drawings in order, some at a time; `noted` has the pixel hashes of finished ones.

    One worker draws in this process.  OSError where a picture cannot be written.
    """
    chunks = [drawings[start : start + _CHUNK] for start in range(0, len(drawings), _CHUNK)]
    jobs: Iterator[_Job] = (
        (folder, size, [(drawing, noted.get(drawing.file_name)) for drawing in chunk]) for chunk in chunks
    )
    if workers == 1:
        yield from map(_render_chunk, jobs)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_leave_interrupts) as pool:
        try:
            waiting = []
            for job in jobs:
                waiting.append(pool.submit(_render_chunk, job))
                if len(waiting) > 4 * workers:  # so that only a few jobs' drawings are on their way
                    yield waiting.pop(0).result()
            for future in waiting:
                yield future.result()
        except BrokenProcessPool as error:
            raise DataError(
                "A process that draws pictures was killed (out of memory?): run the same command again, "
                "it goes on where it stopped."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _leave_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle


def _render_chunk(job: _Job) -> list[Made]:
    folder, size, items = job
    return [_render_one(folder, drawing, size, known) for drawing, known in items]


def _render_one(folder: Path, drawing: Drawing, size: int, known: str | None) -> Made:
    """Draws one picture into its file, unless the file already holds the pixels noted as `known`."""
    name = drawing.file_name
    path = folder / name
    if known and _file_hash(path) == known:
        return Made(name, known, fresh=False)
    try:
        pixels = draw(drawing.payload, size, drawing.trim)
    except (ValueError, OSError):
        return Made(name, None, "cannot be drawn")
    if np.mean(pixels.min(axis=2) < 245) < _INK:
        return Made(name, None, "blank")
    scratch = path.with_name(path.name + _SCRATCH)
    try:
        Image.fromarray(pixels).save(scratch, format="PNG")
        os.replace(scratch, path)  # not flushed: tens of thousands, and a resumed build looks at each
    finally:
        scratch.unlink(missing_ok=True)
    return Made(name, pixel_hash(pixels))


def pixel_hash(pixels: Pixels) -> str:
    """SHA-256 of the shape and the RGB bytes: independent of how the file is compressed."""
    return hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest()


def _file_hash(path: Path) -> str | None:
    try:
        return pixel_hash(read_picture(path))
    except UnreadablePictureError:
        return None


def remove_scratch(folder: Path) -> None:
    """Removes what a killed run left half written."""
    for path in folder.rglob(f"*{_SCRATCH}"):
        path.unlink()


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    scratch = path.with_name(path.name + _SCRATCH)
    try:
        scratch.write_text(text, encoding="utf-8")
        durable.rename(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
