"""What numbers a network's config may hold: configs come out of files, which may say anything."""

from __future__ import annotations

import dataclasses
from typing import Any

from calotype.errors import InputError

MOST_LEVELS = 16  # entries of a tuple, one for each level
MOST = 2**20  # of any other number; the largest in use is CLIP's vocabulary, 49,408
MOST_OF = {"layers_per_block": 32, "blocks": 64, "transformer_depth": 64, "layers": 256}
"""Numbers of layers, which are built one by one."""
MAY_BE_0 = ("context_width", "outline_cells", "transformer_depth", "end_token")


def check_sizes(config: Any) -> None:
    """InputError where a whole number in a config dataclass, or in a tuple of it, is one no network has."""
    for entry in dataclasses.fields(config):
        value = getattr(config, entry.name)
        values = value if isinstance(value, tuple) else (value,)
        least, most = int(entry.name not in MAY_BE_0), MOST_OF.get(entry.name, MOST)
        if not 1 <= len(values) <= MOST_LEVELS:
            raise InputError(
                f"{type(config).__name__}.{entry.name} has {len(values)} entries; give 1 to {MOST_LEVELS}."
            )
        for number in values:
            if type(number) is int and not least <= number <= most:
                raise InputError(
                    f"{type(config).__name__}.{entry.name} is {_short(value)}; "
                    f"give numbers from {least} to {most}."
                )


def _short(value: object) -> str:
    try:
        text = str(value)
    except ValueError:  # of a number of thousands of digits
        return "beyond all bounds"
    return text if len(text) <= 80 else text[:77] + "..."
