"""`calotype audit`: what does a model give away of its training?  Near copies, and membership by the loss."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from calotype.checkpoints import native
from calotype.data.folder import PictureFolder, Record
from calotype.errors import DataError, InputError
from calotype.evaluation.content import Draw, stack
from calotype.evaluation.evaluate import RESIZE, captions_of, thinned, write
from calotype.evaluation.features import Features
from calotype.evaluation.membership import membership
from calotype.evaluation.neighbours import Nearest, nearest, nearness, thumbnails
from calotype.evaluation.protocol import engine, pixels_sha256

Watch = Callable[[str, int, int], None]
FEWEST = 10
"""Held-out pictures: fewer tell nothing about what lies near by chance."""
SHOWN = 12
"""Drawn pictures on the sheet: those nearest to a training picture."""


def silent(what: str, done: int, total: int) -> None:
    """Nobody watches."""
    del what, done, total


@dataclass(frozen=True)
class Audit:
    """`figures` with their protocol; `sheet` uint8 (2N 3 H W): each of the nearest drawn pictures and after
    it the training picture it is nearest to, the nearest first; `captions` (N) and `distances` (N) of them.
    """

    figures: dict[str, Any]
    sheet: Tensor
    captions: tuple[str, ...]
    distances: tuple[float, ...]


def audit(
    model: str | Path,
    dataset: str | Path,
    draw: Draw,
    *,
    samples: int = 400,
    members: int = 400,
    training: int | None = None,
    out: str | Path | None = None,
    watch: Watch = silent,
) -> Audit:
    """Audit a model on the data set it was trained on, whose validation and test splits it never saw.

    Draws `samples` pictures from captions of training pictures, which is where copies are to be expected, and
    measures each one's distance to its nearest training picture, in pixels and in EfficientNet-Lite0's
    features, against held-out pictures' own (see `neighbours`); of the training split at most `training`
    pictures are looked through.  Then tells up to `members` training pictures from as many held-out ones of
    the same kinds by their loss (see `membership`).  `out` writes the figures as JSON.

    Raises InputError, DataError, CheckpointError or OutputError.
    """
    size = native.latent_config(model).size
    whole = PictureFolder(dataset, size)
    known = [r for r in whole.records if r.meta.get("split", "train") == "train"]
    unseen = [r for r in whole.records if r.meta.get("split", "train") != "train"]
    if len(unseen) < FEWEST:
        raise DataError(
            f"{dataset} has {len(unseen)} pictures of a validation or test split; an audit compares with "
            f"pictures that the model never saw, and needs {FEWEST} or more."
        )
    if min(samples, members) < FEWEST:
        raise InputError(f"An audit needs {FEWEST} samples and members or more; raise --count.")
    looked_through, captions = _read(whole, thinned(known, training or len(known)), size, watch)
    # rows evenly through the training pictures, to draw from and to compare with one another
    chosen = torch.linspace(0, len(captions) - 1, min(samples, len(captions))).round().long()
    asked = [captions[int(chosen[i % len(chosen)])] for i in range(samples)]
    drawn = stack(draw(asked, 0))
    held_out, _ = _read(whole, thinned(unseen, samples), size, watch)
    near: dict[str, tuple[Nearest, Nearest, Nearest]] = {}
    for space, points in _SPACES.items():
        among = points(looked_through, watch)
        near[space] = (
            nearest(points(drawn, watch), among),
            nearest(points(held_out, watch), among),
            nearest(among[chosen], among, own=chosen),
        )
    same, other = (_read(whole, some, size, watch) for some in of_same_kinds(known, unseen, members))
    figures: dict[str, Any] = {
        "protocol": {
            "model": native.describe(model).config.name,
            "weights_sha256": native.describe(model).weights_hash,
            **engine(),
            "training_sha256": pixels_sha256(looked_through),
            "held_out_sha256": pixels_sha256(held_out),
            "training": len(looked_through),
            "of_training": len(known),
            "held_out": len(held_out),
            "drawn": len(drawn),
            "members": len(same[1]),
            "others": len(other[1]),
            "size": size,
            "resize": RESIZE,
            "seeds": "drawn picture i, and noise of picture i: i",
        }
    }
    figures["memorisation"] = {space: nearness(*sets) for space, sets in near.items()}
    figures["membership"] = membership(native.load(model), same, other)
    if out is not None:
        write(Path(out), figures)
    found = near["features"][0]
    first = found.distance.argsort()[:SHOWN]
    sheet = torch.stack([drawn[first], looked_through[found.row[first]]], dim=1).flatten(0, 1)
    return Audit(
        figures,
        sheet,  # (N 2 3 H W) -> (2N 3 H W)
        tuple(asked[i] for i in first.tolist()),
        tuple(found.distance[first].tolist()),
    )


def of_same_kinds(
    known: Sequence[Record], unseen: Sequence[Record], count: int
) -> tuple[list[Record], list[Record]]:
    """Up to `count` training records and as many unseen ones, as many of each `kind` on both sides."""
    other = thinned(unseen, count)
    wanted = Counter(str(record.meta.get("kind")) for record in other)
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in known:
        groups[str(record.meta.get("kind"))].append(record)
    same = [record for kind, number in wanted.items() for record in thinned(groups[kind], number)]
    return same, other


def _pixels(pictures: Tensor, watch: Watch) -> Tensor:
    del watch
    return thumbnails(pictures)


def _features(pictures: Tensor, watch: Watch) -> Tensor:
    """Unit features (N 1280), at the pictures' own size: their distance is that of directions, 0 to 2."""
    network = Features(pictures.shape[-1])
    found = []
    for part in pictures.split(256):
        found.append(F.normalize(network(part), dim=1))
        watch("looking at pictures", sum(map(len, found)), len(pictures))
    return torch.cat(found)


_SPACES: dict[str, Callable[[Tensor, Watch], Tensor]] = {"pixels": _pixels, "features": _features}


def _read(
    whole: PictureFolder, records: Sequence[Record], size: int, watch: Watch
) -> tuple[Tensor, list[str]]:
    """Some of a folder's pictures uint8 (N 3 H W) and their plainest captions, the unreadable left out."""
    part = copy.copy(whole)
    part.records, part.skipped = list(records), []
    pictures = part.load_all(size, lambda done, total: watch("reading pictures", done, total))
    return pictures, captions_of(part)
