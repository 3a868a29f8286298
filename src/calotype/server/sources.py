"""Pictures that requests begin from: taken out of bodies, checked, and laid into the request.

A client sends a picture, never its place: what a request says of it is its fingerprint, and the file lies
under a name of the server's until the job is over.
"""

from __future__ import annotations

import base64
import binascii
import json
import threading
from collections.abc import Collection, Mapping
from typing import Any

import fastapi
import PIL.Image
import PIL.ImageOps
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from calotype.data.pictures import on_white
from calotype.errors import InputError
from calotype.server.refusal import Refusal
from calotype.server.store import CONTROLS, PICTURES
from calotype.server.uploads import opened, unreadable
from calotype.tasks.request import Request
from calotype.tasks.restoration import Restoration

one_upload = threading.Lock()
"""Held while a picture is unpacked: one in memory, however many come."""


def decoded(text: str, name: str = "image") -> bytes:
    """The bytes of base64, as it is or in a data URL; Refusal (422) where it is none."""
    try:
        return base64.b64decode(text.rpartition(",")[2], validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(
            422, "unreadable_picture", f"{name} is no base64; send a picture's file in it."
        ) from None


def unpacked(data: bytes, most_pixels: int) -> PIL.Image.Image:
    """The picture upright, RGB of 8 bits, on white.  Refusal (413, 422) as `uploads.opened`."""
    with opened(data, most_pixels) as image:
        try:
            return on_white(PIL.ImageOps.exif_transpose(image))
        except Exception:  # whatever a decoder makes of a broken file
            raise unreadable() from None


async def body_of(request: fastapi.Request) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The fields of a JSON object, or of the part `request` of a form, and the pictures sent with them.

    Raises Refusal (422) for anything else.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    pictures: dict[str, bytes] = {}
    text = b""
    if kind == "multipart/form-data":
        pictures, text = await _form(request)
    elif kind == "application/json":
        text = await request.body()
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise Refusal(
            422,
            "invalid_request",
            "The body is no JSON object; send one, with Content-Type: application/json, or a form whose "
            "part `request` is one.",
        )
    for name, value in _taken(fields):
        if isinstance(value, str):
            pictures[name] = decoded(value, name)
        elif value is not None:
            raise Refusal(422, "invalid_request", f"{name} is no picture; send its file as base64.")
    return fields, pictures


def _taken(fields: dict[str, Any]) -> list[tuple[str, Any]]:
    """What stands where pictures belong, taken out of the fields."""
    found = [(name, fields.pop(name, None)) for name in PICTURES]
    controls = fields.get("controls")
    for name, control in zip(CONTROLS, controls if isinstance(controls, list) else [], strict=False):
        if isinstance(control, dict):
            found.append((name, control.pop("picture", None)))
    return found


async def _form(request: fastapi.Request) -> tuple[dict[str, bytes], bytes]:
    texts, files = await form_of(request, (*PICTURES, *CONTROLS))
    return {name: data[0] for name, data in files.items()}, texts.get("request", "").encode()


async def form_of(
    request: fastapi.Request, taken: Collection[str]
) -> tuple[dict[str, str], dict[str, list[bytes]]]:
    """The texts of a form and the files named in `taken`, one of each.  Refusal (422)."""
    texts: dict[str, str] = {}
    files: dict[str, list[bytes]] = {}
    try:
        async with request.form(max_files=16, max_fields=64) as form:
            for name, part in form.multi_items():
                if isinstance(part, UploadFile):
                    files.setdefault(name, []).append(await part.read())
                else:
                    texts[name] = part
    except HTTPException as error:
        raise Refusal(422, "invalid_request", f"The form cannot be read: {error.detail}") from None
    unknown = [name for name, found in files.items() if name not in taken or len(found) > 1]
    if unknown:
        raise Refusal(
            422,
            "invalid_request",
            f"The form has a file {unknown[0][:40]!r} too much; send one each of {', '.join(taken)}.",
        )
    return texts, files


def asked_of(
    fields: Mapping[str, Any], uploads: Mapping[str, bytes], most_pixels: int
) -> Request | Restoration:
    """`request_of` of pictures still to be unpacked, one after the other.  Refusal (413, 422), InputError."""
    with one_upload:
        pictures = {name: unpacked(data, most_pixels) for name, data in uploads.items()}
    return request_of(fields, pictures)


def request_of(fields: Mapping[str, Any], pictures: Mapping[str, PIL.Image.Image]) -> Request | Restoration:
    """What is asked for: a restoration where there is a `task`, else pictures to draw.  InputError."""
    kind = Restoration if "task" in fields else Request
    controls, begun = fields.get("controls"), dict(pictures)
    guided = list(controls) if isinstance(controls, list) else []
    for name in pictures:
        if name in CONTROLS:
            place = CONTROLS.index(name)
            if place >= len(guided) or not isinstance(guided[place], dict):
                raise InputError(f"There is a picture {name} and no ControlNet for it; name it in controls.")
            guided[place] = {**guided[place], "picture": begun.pop(name)}
        elif name not in kind.model_fields:
            raise InputError(f"A request without task has no {name}; leave it out.")
    return kind(**{**fields, **({"controls": guided} if guided else {}), **begun})


def _body() -> dict[str, Any]:
    """OpenAPI's description of the body: pictures as base64, or as parts of a form."""
    place = "#/paths/~1v1~1jobs/post/requestBody/content/application~1json/schema/$defs/{model}"
    shapes: list[dict[str, Any]] = []
    known: dict[str, Any] = {}
    for kind in (Request, Restoration):
        shape = kind.model_json_schema(ref_template=place)
        known |= shape.pop("$defs", {})
        for name in PICTURES:
            if name in shape["properties"]:
                shape["properties"][name] = {"type": "string", "contentEncoding": "base64"}
        shapes.append(shape)
    known["Control"]["properties"]["picture"] = {"type": "string", "contentEncoding": "base64"}
    form = {"request": {"type": "string", "contentMediaType": "application/json"}}
    files = {name: {"type": "string", "format": "binary"} for name in (*PICTURES, *CONTROLS)}
    content = {
        "application/json": {"schema": {"anyOf": shapes, "$defs": known}},
        "multipart/form-data": {"schema": {"type": "object", "properties": form | files}},
    }
    return {"requestBody": {"required": True, "content": content}}


BODY = _body()
