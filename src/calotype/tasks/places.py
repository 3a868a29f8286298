"""Names of files in a request, and what a picture's metadata keeps of them: no folder, so no user's name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from calotype.checkpoints import hub, shelf
from calotype.tasks.request import ResolvedRequest

WORDS = ("prompts", "negative", "toward", "was")
"""Fields that hold what a person wrote."""

FILES = ("model", "path", "file", "net", "refiner")
"""Fields, at any depth, that name files."""


def without_folders(request: ResolvedRequest) -> dict[str, Any]:
    """The request as JSON has it, every file by its bare name; a hub's id is a name already."""
    dumped: dict[str, Any] = _mapped(request.model_dump(mode="json"), bare)
    return dumped


def shareable(fields: dict[str, Any]) -> dict[str, Any]:
    """What is left of a request's JSON without words and file names: settings, and hashes of the files."""
    kept = {name: value for name, value in fields.items() if name not in WORDS}
    dropped: dict[str, Any] = _without(kept)
    return dropped


def beside(request: ResolvedRequest, first: Iterable[str | Path], last: str | Path) -> ResolvedRequest:
    """The request with its files where they are: in one of the folders `first`, where it says, in `last`."""
    places = [Path(folder).expanduser() for folder in first]

    def found(name: str) -> str:
        if not name or name in shelf.shipped():
            return name
        there = [place / name for place in places if (place / name).exists()]
        if there or Path(name).expanduser().exists() or not (Path(last) / name).exists():
            return str(there[0]) if there else name
        return str(Path(last) / name)

    return ResolvedRequest(**_mapped(request.model_dump(mode="json"), found))


def bare(name: str) -> str:
    """The last part of a path, of Windows' too."""
    if hub.is_id(name) and not Path(name).exists():
        return name
    return name.replace("\\", "/").rstrip("/").rpartition("/")[2] or name


def _mapped(value: Any, change: Callable[[str], str], key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _mapped(part, change, name) for name, part in value.items()}
    if isinstance(value, list):
        return [_mapped(part, change, key) for part in value]
    return change(value) if isinstance(value, str) and key in FILES else value


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without(part) for name, part in value.items() if name not in (*FILES, "word")}
    return [_without(part) for part in value] if isinstance(value, list) else value
