"""Pictures that clients send: opened with care, and what they say of how they were made."""

from __future__ import annotations

import io
import json
import warnings
from dataclasses import dataclass
from typing import Any

import PIL.Image

from calotype.errors import InputError
from calotype.server.refusal import Refusal
from calotype.server.store import PICTURES
from calotype.tasks import parameters
from calotype.tasks.picture import KEY, Record
from calotype.tasks.restoration import OWN, Restoration

FORMATS = ("PNG", "JPEG", "WEBP")


@dataclass(frozen=True)
class Told:
    """fields of a `Request`, empty where the picture says nothing; `text` in A1111's form, "" for none."""

    fields: dict[str, Any]
    text: str


def told(data: bytes, most_pixels: int) -> Told:
    """What a picture tells of its making.

    Raises Refusal (413) for one of too many pixels, (422) for what is no picture.
    """
    with opened(data, most_pixels) as image:
        try:
            image.load()  # a PNG's texts may come after its pixels
            info = dict(image.info)
        except Exception:  # whatever a decoder makes of a broken file
            raise unreadable() from None
    record, text = info.get(KEY), info.get(parameters.KEY)
    text = text if isinstance(text, str) else ""
    if isinstance(record, str):
        try:
            found = Record.from_json(record)
        except InputError:
            return Told(_restoration(record), text)
        return Told(
            found.request.model_dump(mode="json", exclude_defaults=True), text or parameters.write(found)
        )
    return Told(parameters.read(text), text)


def _restoration(record: str) -> dict[str, Any]:
    """The fields of a restoration's record but for its pictures; none where it is not one's."""
    try:
        fields = json.loads(record)["request"]
        task = fields["task"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    known = Restoration.model_fields.keys() - {*PICTURES}
    return {name: fields[name] for name in known & fields.keys()} if task in OWN else {}


def opened(data: bytes, most_pixels: int) -> PIL.Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the size is checked below
        try:
            image = PIL.Image.open(io.BytesIO(data), formats=FORMATS)
        except PIL.Image.DecompressionBombError:
            raise _too_many(most_pixels) from None
        except Exception:
            raise unreadable() from None
    if image.width * image.height > most_pixels:
        raise _too_many(most_pixels)
    return image


def _too_many(most: int) -> Refusal:
    return Refusal(
        413, "picture_too_large", f"The picture is too large; at most {most} pixels are read here."
    )


def unreadable() -> Refusal:
    return Refusal(422, "unreadable_picture", "The upload is no readable picture; send a PNG, JPEG or WebP.")
