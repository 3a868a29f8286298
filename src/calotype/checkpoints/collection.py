"""The folder in which a person keeps models, LoRAs and textual inversions: the one CALOTYPE_MODELS names."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

from calotype.errors import InputError

VARIABLE = "CALOTYPE_MODELS"


def models_folder() -> Path | None:
    """The folder, None where the environment names none; InputError where there is no such folder."""
    named = os.environ.get(VARIABLE)
    if not named:
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise InputError(f"{VARIABLE} names {folder}, which is no folder; correct it or unset it.")
    return folder


def find(name: str, folder: Path, suffixes: Sequence[str] = (".safetensors",)) -> Path:
    """The file called `name`, with or without its suffix, anywhere under the folder.

    Raises InputError where there is none, with the nearest name, or more than one.
    """
    there: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in suffixes:
            there.setdefault(path.stem, []).append(path)
    stem = next((name.removesuffix(suffix) for suffix in suffixes if name.endswith(suffix)), name)
    found = there.get(stem, [])
    if len(found) > 1:
        places = " and ".join(str(path.relative_to(folder)) for path in found[:2])
        raise InputError(f"There are {len(found)} files {stem!r} in {folder} ({places}); rename or name one.")
    if not found:
        near = difflib.get_close_matches(stem, there, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else "name a file that is there."
        raise InputError(f"There is no {stem}{suffixes[0]} in {folder}; {hint}")
    return found[0]
