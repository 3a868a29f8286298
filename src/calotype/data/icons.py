"""Builds the icons data set: an imagefolder of captioned drawings on white.

A build is planned first (which drawings, which captions), then rendered by a pool of processes.  Every
finished picture is noted in `build.jsonl` with the hash of its pixels, so that a build that was killed
goes on where it stopped.  `metadata.jsonl` is written last: where it is, the data set is whole.
"""

import hashlib
import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from calotype.data.plan import Drawing
from calotype.data.svg import Pixels, on_white, render_svg
from calotype.errors import DataError, OutputError

JOURNAL, METADATA, SUMMARY, ATTRIBUTION = "build.jsonl", "metadata.jsonl", "dataset.json", "ATTRIBUTION.md"
_INK = 0.004  # a picture with less than this share of its pixels off white shows nothing


@dataclass(frozen=True)
class Made:
    """The outcome of one drawing: the hash of its pixels, or why it was left out."""

    file_name: str
    pixels: str | None
    reason: str | None = None
    fresh: bool = True


def build(
    folder: Path,
    drawings: list[Drawing],
    size: int,
    about: dict[str, Any],
    attribution: str,
    progress: Callable[[int, int], None] = lambda done, total: None,
    workers: int | None = None,
) -> dict[str, Any]:
    """Renders `drawings` at `size` pixels into `folder` and returns the summary of `dataset.json`.

    `about` is kept in the summary (versions, hashes of archives).  OutputError where the folder cannot be
    written, DataError where it holds another build.
    """
    plan = plan_hash(drawings, size)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for parent in {(folder / d.file_name).parent for d in drawings}:
            parent.mkdir(parents=True, exist_ok=True)
        noted = _read_journal(folder / JOURNAL, plan)
        (folder / METADATA).unlink(missing_ok=True)
        made = _render_all(folder, drawings, size, noted, progress, workers)
        summary = _finish(folder, drawings, made, size, {**about, "plan": plan})
        _write(folder / ATTRIBUTION, attribution)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written ({error.strerror}): choose another folder.") from error
    return summary


def plan_hash(drawings: list[Drawing], size: int) -> str:
    """A hash of everything that goes into a build but the renderer."""
    digest = hashlib.sha256(str(size).encode())
    for drawing in drawings:
        payload = drawing.payload if isinstance(drawing.payload, bytes) else drawing.payload.encode()
        digest.update(hashlib.sha256(payload).digest())
        digest.update(json.dumps(drawing.record, sort_keys=True).encode())
    return digest.hexdigest()


def _read_journal(path: Path, plan: str) -> dict[str, str]:
    """Pixel hashes of what an earlier run finished; a new journal is begun where there is none."""
    if not path.exists():
        if any(path.parent.glob("metadata.*")):
            raise DataError(f"{path.parent} already holds another data set: choose an empty or new folder.")
        _write(path, json.dumps({"plan": plan}) + "\n")
        return {}
    lines = path.read_bytes().split(b"\n")[:-1]  # a line that a kill cut short has no end and is left out
    if not lines or json.loads(lines[0]).get("plan") != plan:
        raise DataError(
            f"{path.parent} holds a build with other options or package versions: choose a new folder, "
            "or delete this one."
        )
    _write(path, b"".join(line + b"\n" for line in lines).decode())
    entries = (json.loads(line) for line in lines[1:])
    return {entry["file"]: entry["pixels"] for entry in entries if entry["pixels"]}


def _render_all(
    folder: Path,
    drawings: list[Drawing],
    size: int,
    noted: dict[str, str],
    progress: Callable[[int, int], None],
    workers: int | None,
) -> list[Made]:
    made: list[Made] = []
    chunks = [drawings[i : i + 64] for i in range(0, len(drawings), 64)]
    jobs = ((folder, size, [(d.file_name, d.payload, noted.get(d.file_name)) for d in chunk]) for chunk in chunks)
    with (folder / JOURNAL).open("a") as journal:
        for results in _pooled(_render_chunk, jobs, workers or os.cpu_count() or 1):
            made += results
            for result in results:
                if result.fresh:
                    entry = {"file": result.file_name, "pixels": result.pixels, "reason": result.reason}
                    journal.write(json.dumps(entry) + "\n")
            journal.flush()
            progress(len(made), len(drawings))
    return made


def _pooled(work: Callable[[Any], list[Made]], jobs: Iterator[Any], workers: int) -> Iterator[list[Made]]:
    """Results in the order of the jobs, with only a few jobs per worker under way at a time."""
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = []
        for job in jobs:
            waiting.append(pool.submit(work, job))
            if len(waiting) > 4 * workers:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


def _render_chunk(job: tuple[Path, int, list[tuple[str, str | bytes, str | None]]]) -> list[Made]:
    folder, size, items = job
    return [_render_one(folder / name, name, payload, size, known) for name, payload, known in items]


def _render_one(path: Path, name: str, payload: str | bytes, size: int, known: str | None) -> Made:
    """Draws one picture into its file, unless the file already holds the pixels noted as `known`."""
    if known and path.is_file() and _file_hash(path) == known:
        return Made(name, known, fresh=False)
    try:
        pixels = _draw(payload, size)
    except (ValueError, OSError) as error:
        return Made(name, None, f"cannot be drawn: {str(error)[:80]}")
    if np.mean(pixels.min(axis=2) < 245) < _INK:
        return Made(name, None, "blank")
    scratch = path.with_name(path.name + ".tmp")
    Image.fromarray(pixels).save(scratch, format="PNG", compress_level=6)
    os.replace(scratch, path)
    return Made(name, pixel_hash(pixels))


def _draw(payload: str | bytes, size: int) -> Pixels:
    if isinstance(payload, str):
        return render_svg(payload, size)
    import io

    with Image.open(io.BytesIO(payload)) as picture:
        return on_white(picture, size)


def pixel_hash(pixels: Pixels) -> str:
    """SHA-256 of the shape and the RGB bytes: independent of how the file is compressed."""
    return hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest()


def _file_hash(path: Path) -> str | None:
    try:
        with Image.open(path) as picture:
            return pixel_hash(np.asarray(picture.convert("RGB")))
    except (OSError, SyntaxError):
        return None


def _finish(
    folder: Path, drawings: list[Drawing], made: list[Made], size: int, about: dict[str, Any]
) -> dict[str, Any]:
    """Drops repeated pictures of one concept and writes the metadata and the summary."""
    left_out: Counter[str] = Counter()
    seen: set[tuple[str, str]] = set()
    digest = hashlib.sha256()
    records = []
    for drawing, result in zip(drawings, made, strict=True):
        if result.pixels is None:
            left_out[(result.reason or "").split(":")[0]] += 1
            continue
        key = (drawing.record["concept"], result.pixels)
        if key in seen:
            left_out["repeated"] += 1
            (folder / drawing.file_name).unlink(missing_ok=True)
            continue
        seen.add(key)
        line = json.dumps({**drawing.record, "pixels": result.pixels}, ensure_ascii=False)
        digest.update(line.encode())
        records.append(line)
    parsed = [drawing.record for drawing in drawings]
    kept = {json.loads(line)["file_name"] for line in records}
    counted = [record for record in parsed if record["file_name"] in kept]
    summary = {
        "content": digest.hexdigest(),
        "pictures": len(records),
        "size": size,
        "concepts": len({record["concept"] for record in counted}),
        **{
            field: dict(sorted(Counter(str(record[field]) for record in counted).items()))
            for field in ("split", "kind", "set", "licence", "colour")
        },
        "left_out": dict(sorted(left_out.items())),
        **about,
    }
    _write(folder / SUMMARY, json.dumps(summary, indent=1) + "\n")
    _write(folder / METADATA, "".join(line + "\n" for line in records))
    return summary


def _write(path: Path, text: str) -> None:
    scratch = path.with_name(path.name + ".tmp")
    scratch.write_text(text)
    os.replace(scratch, path)
