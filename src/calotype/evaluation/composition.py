"""Two things asked for side by side: is each found in its half of the picture?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from calotype.data.captions import with_article
from calotype.data.folder import Record
from calotype.data.pairs import couple
from calotype.evaluation.concepts import Concepts

COUPLES = 50
_WHITE = 245
"""Pixels whose darkest channel is above this are ground."""


def unseen_couples(concepts: Concepts, records: Sequence[Record]) -> list[tuple[str, str]]:
    """Up to 50 couples of the concepts that are emoji, none of which a training picture shows together.

    The concepts are in the order of their names' hashes: the first goes with the one half-way on, and so
    forth, so that nobody can choose them.
    """
    emoji = {str(r.meta["concept"]) for r in concepts.records if r.meta.get("kind") == "emoji"}
    names = [name for name in concepts.names if name in emoji]
    shown = {str(record.meta.get("concept")) for record in records}
    half = len(names) // 2
    couples = zip(names, names[half:] + names[:half], strict=True)
    return [(a, b) for a, b in couples if a != b and couple(a, b) not in shown][:COUPLES]


def asked(first: str, second: str) -> str:
    """The prompt for a couple."""
    return f"{with_article(first)} left of {with_article(second)}"


def halves(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """What lies left and right in pictures uint8 (N 3 H W), each fitted into a white square (N 3 H W).

    The drawing is cut out at the edges of what is not white, so that its size does not count.
    """
    middle = pictures.shape[-1] // 2
    return _fitted(pictures[..., :middle]), _fitted(pictures[..., middle:])


def side_by_side(left: Tensor, right: Tensor) -> Tensor:
    """Pictures uint8 (N 3 S S) at half their size beside each other on white (N 3 S S)."""
    size = left.shape[-1]
    page = torch.full_like(left, 255)
    top = size // 4
    for start, pictures in ((0, left), (size - size // 2, right)):
        page[:, :, top : top + size // 2, start : start + size // 2] = _scaled(pictures, size // 2, size // 2)
    return page


def _fitted(parts: Tensor) -> Tensor:
    """(N 3 H W), H the longer side, to squares (N 3 H H)."""
    side = parts.shape[-2]
    squares = torch.full((len(parts), 3, side, side), 255, dtype=torch.uint8)
    for square, part in zip(squares, parts, strict=True):
        ink = part.amin(dim=0) <= _WHITE  # (3 H W) -> (H W)
        if not ink.any():
            continue
        rows, columns = ink.any(dim=1).nonzero(), ink.any(dim=0).nonzero()
        cut = part[:, int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1]
        scale = side / max(cut.shape[-2:])
        height, width = (max(1, round(n * scale)) for n in cut.shape[-2:])
        top, left = (side - height) // 2, (side - width) // 2
        square[:, top : top + height, left : left + width] = _scaled(cut[None], height, width)[0]
    return squares


def _scaled(pictures: Tensor, height: int, width: int) -> Tensor:
    """uint8 (N 3 H W) to (N 3 height width)."""
    scaled = F.interpolate(
        pictures.float(), (height, width), mode="bilinear", antialias=True, align_corners=False
    )
    return scaled.round().clamp(0, 255).byte()
