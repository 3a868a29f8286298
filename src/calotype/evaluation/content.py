"""What a text-to-image model draws when it is told: concepts, two at once, colours, kernel distance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from calotype.data.captions import with_article
from calotype.data.folder import PictureFolder, Record
from calotype.errors import DataError, InputError
from calotype.evaluation.colour import dominant, unseen_pairs
from calotype.evaluation.composition import asked as asked_together
from calotype.evaluation.composition import halves, side_by_side, unseen_couples
from calotype.evaluation.concepts import (
    NEIGHBOURS,
    STYLES,
    Concepts,
    chinese_name,
    chosen_concepts,
    hits,
    left_out_style,
    other_wordings,
    share,
)
from calotype.evaluation.features import Features
from calotype.evaluation.kid import kid

Draw = Callable[[Sequence[str], int], Sequence[PIL.Image.Image]]
"""Pictures of prompts, one each, by the model's default settings; picture i from seed + i."""

FEWEST = 10
"""Fewer concepts, or colour pairs, than this give no figure."""


def content(draw: Draw, training: PictureFolder, held_out: Tensor, captions: Sequence[str]) -> dict[str, Any]:
    """Figures on what `draw` makes, against a data set whose records tell concept and style.

    recall          the share of concepts found again (see `concepts`), asked for by their names; beside it
                    "ceiling", the same of real pictures in the style that was then left out of the
                    references, "recall_chinese", asked for by Chinese names where there are any, and
                    "recall_other_words", asked for in words that no caption uses (see `other_wordings`)
    composition     the share of couples, unseen together, both found again, each in its half of the picture
                    (see `composition`); beside it "composition_ceiling", of real pictures put side by side
    colour          the share of unseen pairs of colour and icon whose picture has the colour (see `colour`)
    effnet_lite0_kid  KID of pictures drawn from held-out captions against the held-out pictures uint8
                    (N 3 H W); beside it that of one half of the held-out pictures against the other

    Raises DataError where the data set does not tell, InputError without the network for the features.
    """
    features = Features()
    concepts = chosen_concepts(training.records)
    if len(concepts.names) < FEWEST:
        raise DataError(
            f"{training.path} names only {len(concepts.names)} concepts drawn in {STYLES} styles or more; "
            f"figures on content need records with `concept` and `style`, and at least {FEWEST} of them."
        )
    known = features(_pictures_of(training, concepts.records))
    owners = [str(record.meta["concept"]) for record in concepts.records]

    def recall(asked: Sequence[str], prompts: Sequence[str]) -> dict[str, Any]:
        found = hits(features(stack(draw(prompts, 0))), asked, known, owners)
        return share(found) | {"missed": [name for name, hit in zip(asked, found, strict=True) if not hit]}

    report: dict[str, Any] = {
        "protocol": {"features": "EffNet-Lite0", "neighbours": NEIGHBOURS, "seed": 0},
        "recall": recall(concepts.names, concepts.names),
        "ceiling": _ceiling(concepts.records, known, owners),
    }
    chinese = {
        str(record.meta["concept"]): name
        for record in reversed(concepts.records)
        if record.meta.get("kind") == "emoji" and (name := chinese_name(record)) is not None
    }
    if len(chinese) >= FEWEST:
        report["recall_chinese"] = recall(list(chinese), list(chinese.values()))
    worded = other_wordings(concepts)
    if len(worded) >= FEWEST:
        report["recall_other_words"] = recall(list(worded), list(worded.values()))
    couples = unseen_couples(concepts, training.records)
    if len(couples) >= FEWEST:
        drawn = stack(draw([asked_together(*couple) for couple in couples], 0))
        found = both(features, drawn, couples, known, owners)
        report["composition"] = share(found) | {
            "missed": [asked_together(*couple) for couple, hit in zip(couples, found, strict=True) if not hit]
        }
        ceiling = _composition_ceiling(features, training, concepts.records, couples, known, owners)
        if ceiling is not None:
            report["composition_ceiling"] = ceiling
    pairs = unseen_pairs(training.records)
    if len(pairs) >= FEWEST:
        prompts = [f"{with_article(colour)} {name} icon" for colour, name in pairs]
        seen = dominant(stack(draw(prompts, 0)))
        right = [found == colour for found, (colour, _) in zip(seen, pairs, strict=True)]
        wrong = [
            f"{colour} {name}: {found or 'nothing'}"
            for found, (colour, name) in zip(seen, pairs, strict=True)
            if found != colour
        ]
        report["colour"] = share(right) | {"missed": wrong}
    real = features(held_out)
    report["effnet_lite0_kid"] = kid(features(stack(draw(captions, 0))), real)
    report["effnet_lite0_kid_real"] = kid(real[::2], real[1::2])
    return report


def _pictures_of(folder: PictureFolder, records: Sequence[Record]) -> Tensor:
    """Some of a folder's records as uint8 (N 3 H W), row for row; DataError where one cannot be read."""
    places = {record.path: index for index, record in enumerate(folder.records)}
    return torch.stack([folder.image(places[record.path]) for record in records])


def stack(pictures: Sequence[PIL.Image.Image]) -> Tensor:
    """RGB pictures of one size as uint8 (N 3 H W)."""
    if not pictures:
        raise InputError("There are no pictures to measure.")
    arrays = [np.asarray(picture.convert("RGB")) for picture in pictures]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()  # (N H W 3) -> (N 3 H W)


def both(
    features: Features,
    pictures: Tensor,
    couples: Sequence[tuple[str, str]],
    known: Tensor,
    owners: Sequence[str],
) -> list[bool]:
    """For each picture uint8 (N 3 H W): is the couple's first found in its left half, its second right?"""
    found = [
        hits(features(half), [couple[side] for couple in couples], known, owners)
        for side, half in enumerate(halves(pictures))
    ]
    return [left and right for left, right in zip(*found, strict=True)]


def _composition_ceiling(
    features: Features,
    training: PictureFolder,
    records: Sequence[Record],
    couples: Sequence[tuple[str, str]],
    known: Tensor,
    owners: Sequence[str],
) -> dict[str, Any] | None:
    """The measure on real pictures in the left-out style, two on a page, of the couples it draws."""
    style = left_out_style(Concepts(tuple(dict.fromkeys(owners)), tuple(records)))
    drawn: dict[str, Record] = {}
    for record in records:
        if record.meta["style"] == style:
            drawn.setdefault(str(record.meta["concept"]), record)
    rest = [index for index, record in enumerate(records) if record.meta["style"] != style]
    shown = [couple for couple in couples if couple[0] in drawn and couple[1] in drawn]
    if len(shown) < FEWEST:
        return None
    left, right = (_pictures_of(training, [drawn[couple[side]] for couple in shown]) for side in (0, 1))
    found = both(features, side_by_side(left, right), shown, known[rest], [owners[i] for i in rest])
    return share(found) | {"style": style}


def _ceiling(records: Sequence[Record], known: Tensor, owners: Sequence[str]) -> dict[str, Any]:
    """The measure on real pictures: one style asks, all other styles are the references."""
    style = left_out_style(Concepts(tuple(dict.fromkeys(owners)), tuple(records)))
    asking: dict[str, int] = {}
    for index, record in enumerate(records):
        if record.meta["style"] == style:
            asking.setdefault(owners[index], index)
    rest = [index for index, record in enumerate(records) if record.meta["style"] != style]
    rows = list(asking.values())
    found = hits(known[rows], list(asking), known[rest], [owners[index] for index in rest])
    return share(found) | {"style": style}
