"""Concept recall: does a picture lie nearest to training pictures of what its prompt names?"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from calotype.data.folder import Record

NEIGHBOURS = 5
STYLES = 4


@dataclass(frozen=True)
class Concepts:
    """The concepts asked for, and the training records that show them."""

    names: tuple[str, ...]
    records: tuple[Record, ...]


def chosen_concepts(records: Sequence[Record], count: int = 200) -> Concepts:
    """The `count` concepts drawn in at least four styles whose names have the lowest SHA-256.

    The choice hangs on nothing but the names, so that nobody can tune to it.
    """
    styles: dict[str, set[str]] = defaultdict(set)
    for record in records:
        if "concept" in record.meta and "style" in record.meta:
            styles[str(record.meta["concept"])].add(str(record.meta["style"]))
    enough = [name for name, several in styles.items() if len(several) >= STYLES]
    names = sorted(enough, key=lambda name: hashlib.sha256(name.encode()).hexdigest())[:count]
    wanted = set(names)
    shown = tuple(record for record in records if record.meta.get("concept") in wanted)
    return Concepts(tuple(names), shown)


def other_wordings(concepts: Concepts) -> dict[str, str]:
    """Prompts for the concepts in words that no caption uses: synonyms, plurals, articles, short sentences.

    From the list beside this file, written by hand for the concepts of the icons data set; a wording that a
    caption of the concepts' records does have is left out.
    """
    listed = json.loads((Path(__file__).parent / "wordings.json").read_text(encoding="utf-8"))
    seen = {caption.lower() for record in concepts.records for caption in record.captions}
    return {
        name: text for name, text in listed.items() if name in concepts.names and text.lower() not in seen
    }


def left_out_style(concepts: Concepts) -> str:
    """The style that draws most of the concepts: its pictures give the measure's ceiling."""
    pairs = {(str(r.meta["style"]), str(r.meta["concept"])) for r in concepts.records}
    counts = Counter(style for style, _ in pairs)
    return min(counts, key=lambda style: (-counts[style], style))


def hits(queries: Tensor, asked: Sequence[str], references: Tensor, owners: Sequence[str]) -> list[bool]:
    """For each query (N D): does one of its five nearest references (M D), by cosine, carry its concept?"""
    q = torch.nn.functional.normalize(queries, dim=1)
    r = torch.nn.functional.normalize(references, dim=1)
    nearest = (q @ r.T).topk(NEIGHBOURS, dim=1).indices  # (N D) x (M D) -> (N M) -> (N 5)
    return [
        any(owners[int(i)] == name for i in row) for name, row in zip(asked, nearest.tolist(), strict=True)
    ]


def chinese_name(record: Record) -> str | None:
    """The plainest caption of a record that is written in Chinese, if it has one."""
    return next((text for text in record.captions if any("一" <= letter <= "鿿" for letter in text)), None)


def share(found: Sequence[bool]) -> dict[str, float]:
    """The share of hits with its 95 % interval (Wilson 1927)."""
    n, k, z = len(found), sum(found), 1.96
    middle = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * (k * (n - k) / n + z * z / 4) ** 0.5
    return {"share": k / n, "low": middle - half, "high": middle + half, "count": float(n)}
