"""Two models' figures beside each other, where they were measured alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calotype.errors import InputError
from calotype.evaluation.protocol import read, unlike

Interval = tuple[float, float]

LOWER_IS_BETTER = ("loss", "kid", "frechet", "auc", "nearer")
"""Beginnings of the last word of figures that should be small; of the others, larger is better."""
NEITHER = ("latent_mean", "latent_std", "count", "pictures", "expected")


@dataclass(frozen=True)
class Row:
    """One figure of both: its name, values, intervals where there are any, and what may be said of it."""

    name: str
    first: float
    second: float
    first_interval: Interval | None
    second_interval: Interval | None

    @property
    def verdict(self) -> str:
        """ "better", "worse" (the second's, where the intervals are apart), or why neither is said."""
        word = self.name.rsplit(".", 1)[-1]
        if word in NEITHER or self.first_interval is None or self.second_interval is None:
            return ""
        (low, high), (low2, high2) = self.first_interval, self.second_interval
        if low <= high2 and low2 <= high:
            return "within the intervals"
        down = any(part.startswith(LOWER_IS_BETTER) for part in (word, *word.split("_")))
        return "better" if (self.second < self.first) == down else "worse"


def compare(first: str | Path, second: str | Path) -> list[Row]:
    """The figures that both files have; InputError naming the fields where the protocols are not alike."""
    one, other = read(Path(first)), read(Path(second))
    fields = unlike(one, other)
    if fields:
        told = "; ".join(f"{name}: {_at(one, name)} against {_at(other, name)}" for name in fields)
        raise InputError(
            f"{first} and {second} were not measured alike ({told}); measure both with the same options."
        )
    mine, theirs = dict(figures(one)), dict(figures(other))
    return [
        Row(name, mine[name][0], theirs[name][0], mine[name][1], theirs[name][1])
        for name in mine
        if name in theirs
    ]


def figures(found: dict[str, Any], above: str = "") -> Iterator[tuple[str, tuple[float, Interval | None]]]:
    """(name, (value, interval)) of every figure in what `evaluate` gives, named by its path."""
    intervals = found.get("intervals", {})
    own = (found["low"], found["high"]) if "low" in found and "high" in found else None
    for name, value in found.items():
        if name in {"protocol", "intervals", "low", "high"}:
            continue
        if isinstance(value, dict):
            yield from figures(value, f"{above}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            interval = tuple(intervals[name]) if name in intervals else own
            yield f"{above}{name}", (float(value), interval if name != "count" else None)


def _at(found: dict[str, Any], name: str) -> str:
    *sections, field = name.split(".")
    for section in sections:
        found = found[section]
    value = str(found["protocol"].get(field, "not stated"))
    return value if len(value) <= 20 else value[:12] + "…"
