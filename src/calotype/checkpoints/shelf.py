"""From the name a person gives to the file that is meant."""

from __future__ import annotations

import difflib
from pathlib import Path

import calotype
from calotype.errors import InputError


def shipped() -> dict[str, Path]:
    """The models in the package, by name."""
    folder = Path(calotype.__file__).parent / "weights"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def find(model: str) -> Path:
    """The file of a shipped name, or of a path to a .safetensors file.

    Raises InputError with the nearest name when there is no such model.
    """
    known = shipped()
    if model in known:
        return known[model]
    path = Path(model).expanduser()
    if path.is_file():
        return path
    if path.suffix == ".safetensors" or len(path.parts) > 1:
        raise InputError(
            f"There is no file {model}; name a shipped model or the path of a .safetensors file."
        )
    near = difflib.get_close_matches(model, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"shipped are: {', '.join(known) or 'none'}."
    raise InputError(f"There is no model {model!r}; {hint}")
