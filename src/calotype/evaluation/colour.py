"""Does a picture have the colour its prompt names?  Judged by a fixed table, not by a learnt model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from calotype.data.folder import Record
from calotype.data.sources import COLOURS

TABLE = {colour.name: colour.value for colour in COLOURS}
"""The colours of the data's one-colour icons, which the judging takes as the words' meaning."""

ASKED = tuple(name for name in TABLE if name != "grey")
CONCEPTS = 20
GROUND = 12.0
"""Pixels closer than this to white, in CIE 1976 units, are ground."""


def unseen_pairs(records: Sequence[Record]) -> list[tuple[str, str]]:
    """(colour, concept) for ten colours and, with each, the twenty concepts of lowest SHA-256.

    The concepts are those of one-colour icons; a pair that any of `records` shows is passed over.
    """
    shown: dict[str, set[str]] = {}
    for record in records:
        if record.meta.get("kind") == "glyph" and "colour" in record.meta:
            shown.setdefault(str(record.meta["concept"]), set()).add(str(record.meta["colour"]))
    names = sorted(shown, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    return [
        (colour, name)
        for colour in ASKED
        for name in [name for name in names if colour not in shown[name]][:CONCEPTS]
    ]


def lab(pictures: Tensor) -> Tensor:
    """sRGB 0..255 (N 3 ...) to CIE 1976 L*a*b* (N 3 ...) under D65 (IEC 61966-2-1; CIE 15)."""
    rgb = pictures.double() / 255
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    matrix = torch.tensor(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]], dtype=torch.float64
    )
    xyz = torch.einsum("ij,nj...->ni...", matrix / matrix.sum(dim=1, keepdim=True), linear)
    f = torch.where(xyz > 216 / 24389, xyz.clamp(min=1e-12) ** (1 / 3), (24389 / 27 * xyz + 16) / 116)
    x, y, z = f.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def dominant(pictures: Tensor) -> list[str]:
    """The table's colour that most of each uint8 picture (N 3 H W) has, its white ground left aside.

    A pixel counts for the colour nearest in L*a*b*, by its distance from white, so that the pale rims
    of strokes weigh little; a picture that is all ground has none, "".
    """
    table = torch.tensor([[int(code[i : i + 2], 16) for i in (1, 3, 5)] for code in TABLE.values()])
    centres = lab(table)  # (K 3)
    pixels = lab(pictures).flatten(2).transpose(1, 2)  # (N 3 H W) -> (N H*W 3)
    white = torch.tensor([100.0, 0.0, 0.0], dtype=torch.float64)
    weight = (pixels - white).norm(dim=-1)  # (N H*W)
    weight = torch.where(weight > GROUND, weight, 0.0)
    nearest = torch.cdist(pixels, centres.expand(len(pixels), -1, -1)).argmin(dim=-1)  # (N H*W)
    sums = torch.zeros(len(pixels), len(TABLE), dtype=torch.float64).scatter_add_(1, nearest, weight)
    names = list(TABLE)
    return [names[int(row.argmax())] if float(row.sum()) > 0 else "" for row in sums]
