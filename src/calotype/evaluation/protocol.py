"""What a figure was measured on and how: it stands beside every one, and only like is compared with like."""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calotype import __version__
from calotype.errors import InputError

MEASURES = 2
"""Number of the formulas' edition; it goes up when a figure of the same pictures would come out otherwise."""

FREE = frozenset(("model", "weights_sha256", "calotype", "torch", "machine"))
"""What two protocols may differ in: the thing that is compared, and what changes last digits only."""


def engine() -> dict[str, Any]:
    """The fields that hold for everything measured in this process."""
    return {
        "measures": MEASURES,
        "calotype": __version__,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "precision": "float32",
    }


def pixels_sha256(pictures: Tensor) -> str:
    """SHA-256 over shape and bytes of uint8 pictures (N 3 H W): the reference as it was looked at."""
    digest = hashlib.sha256(str(tuple(pictures.shape)).encode())
    digest.update(pictures.contiguous().numpy().data)
    return digest.hexdigest()


def read(path: Path) -> dict[str, Any]:
    """Figures that `calotype evaluate` or `audit` wrote; InputError where the file holds none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); name a file of figures.") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON; name a file that `calotype evaluate --out` wrote.") from error
    if not isinstance(found, dict) or not isinstance(found.get("protocol"), dict):
        raise InputError(f"{path} holds no protocol; name a file that `calotype evaluate --out` wrote.")
    return found


def unlike(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """The fields, "section.field" below the top, in which the protocols of two sets of figures differ.

    Sections that only one has are not compared, so their protocols are left aside.
    """
    fields = [
        name
        for name in sorted((first["protocol"].keys() | second["protocol"].keys()) - FREE)
        if first["protocol"].get(name) != second["protocol"].get(name)
    ]
    for section in sorted(first.keys() & second.keys()):
        one, other = first[section], second[section]
        if section != "protocol" and isinstance(one, dict) and isinstance(one.get("protocol"), dict):
            fields += [f"{section}.{name}" for name in unlike(one, {"protocol": {}} | other)]
    return fields
