"""A person's own folder of models, LoRAs and the like: what lies in it, by name."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from calotype.errors import InputError

VARIABLE = "CALOTYPE_MODELS"
SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
"""Of files with weights; the first is taken where files differ in nothing else."""


def models_folder() -> Path | None:
    """The folder that the environment names in CALOTYPE_MODELS; None where it names none.

    Raises InputError where that is no folder.
    """
    told = os.environ.get(VARIABLE)
    if not told:
        return None
    folder = Path(told).expanduser()
    if not folder.is_dir():
        raise InputError(f"{VARIABLE} is {told}, which is no folder; name the folder your models lie in.")
    return folder


def entries(folder: Path) -> dict[str, Path]:
    """All weights files and diffusers folders below the folder, by their path in it without suffix; sorted.

    Hidden folders are passed by; links are followed, each folder once.
    """
    found: dict[str, Path] = {}
    for path in sorted(_walk(folder), key=_order):
        name = path.relative_to(folder)
        known = name if path.is_dir() else name.with_suffix("")
        # of twins the first by SUFFIXES has the plain name
        found[known.as_posix() if known.as_posix() not in found else name.as_posix()] = path
    return dict(sorted(found.items()))


def find(name: str, folder: Path, suffixes: Sequence[str] = SUFFIXES) -> Path:
    """What people call `name` below the folder: its path in it or its file name, with or without suffix.

    suffixes  of the files that will do; a diffusers folder will do where all of them are asked for

    Raises InputError with the nearest name where there is none, and where there are several.
    """
    known = {
        label: path
        for label, path in entries(folder).items()
        if (suffixes == SUFFIXES if path.is_dir() else path.suffix.lower() in suffixes)
    }
    if name in known:
        return known[name]
    met = {label: path for label, path in known.items() if name in names(folder, path)}
    twins = {path.with_suffix("") for path in met.values()}
    if len(twins) > 1:
        raise InputError(f"{folder} has several models called {name!r}; name one of {', '.join(met)}.")
    for path in met.values():
        return path
    asked = name if name.endswith(tuple(suffixes)) else name + suffixes[0]
    raise InputError(f"There is no {asked} in {folder}; {_nearest(name, known)}")


def names(folder: Path, path: Path) -> set[str]:
    """What a file or folder in the collection may be called."""
    inside = path.relative_to(folder)
    if path.is_dir():
        return {inside.as_posix(), path.name}
    return {inside.as_posix(), inside.with_suffix("").as_posix(), path.name, path.stem}


def _nearest(name: str, known: dict[str, Path]) -> str:
    """A hint for a name that is none: the nearest one, or what there is."""
    short = {Path(label).name: label for label in known}
    near = difflib.get_close_matches(name, [*known, *short], n=1, cutoff=0.4)
    if near:
        return f"did you mean {near[0]!r}?"
    listed = list(known)
    more = f" and {len(listed) - 8} more" if len(listed) > 8 else ""
    return f"there are: {', '.join(listed[:8])}{more}." if listed else "it holds no models."


def _order(path: Path) -> tuple[str, int]:
    rank = SUFFIXES.index(path.suffix.lower()) if path.suffix.lower() in SUFFIXES else -1
    return path.with_suffix("").as_posix().lower(), rank


def _walk(folder: Path) -> Iterator[Path]:
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        if "model_index.json" in files and Path(place) != folder:
            folders.clear()
            yield Path(place)
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                yield Path(place, name)
