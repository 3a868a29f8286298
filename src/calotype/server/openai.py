"""OpenAI's images interface, for its own client.

https://platform.openai.com/docs/api-reference/images
"""

from __future__ import annotations

import asyncio
import base64
import io
import time
from typing import Any, Literal

import fastapi
import PIL.Image
import PIL.ImageChops
import PIL.ImageOps
from pydantic import BaseModel, ConfigDict, ValidationError

from calotype.safety.content import Verdict
from calotype.server.desk import Desk
from calotype.server.native import AnyDesk
from calotype.server.refusal import Refusal
from calotype.server.sources import form_of, one_upload, unpacked
from calotype.server.store import Job
from calotype.server.uploads import opened, told, unreadable
from calotype.server.waiting import finished
from calotype.tasks.request import Request, ResolvedRequest, parse_size, sentence

router = fastapi.APIRouter(prefix="/v1/images")


class Generation(BaseModel):
    """Theirs, then what `extra_body` may add of ours.

    `quality`, `style`, `moderation`, `user` and an opaque `background` ask for nothing that a diffusion model
    could do, and change nothing.
    """

    model_config = ConfigDict(extra="forbid")

    prompt: str
    model: str | None = None
    n: int | None = 1
    size: str | None = None
    response_format: Literal["url", "b64_json"] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    output_compression: int | None = None
    background: Literal["auto", "opaque"] | None = None
    quality: str | None = None
    style: str | None = None
    moderation: str | None = None
    user: str | None = None
    safety_identifier: str | None = None
    stream: Literal[False] | None = None

    negative: str = ""
    seed: int | None = None
    steps: int | None = None
    guidance: float | None = None
    sampler: str | None = None
    grid: str | None = None

    def request(self, **begun: Any) -> Request:
        """With the picture it begins from; InputError where it is none."""
        fields = {name: getattr(self, name) for name in ("seed", "steps", "guidance", "sampler", "grid")}
        if self.size not in (None, "auto"):
            assert self.size is not None
            fields["width"], fields["height"] = parse_size(self.size)
        if self.model is not None:
            fields["model"] = self.model
        fields["count"] = 1 if self.n is None else self.n
        return Request(prompts=self.prompt, negative=self.negative, **fields, **begun)


class Edit(Generation):
    """The texts of a form; `input_fidelity` asks for nothing here."""

    input_fidelity: str | None = None
    strength: float | None = None


VARIED = 0.6
"""How much of the way from noise a variation goes again: the whole is kept, its parts are not."""


def _form(*names: str) -> dict[str, Any]:
    """OpenAPI's description of a form with pictures."""
    parts: dict[str, Any] = {name: {"type": "string"} for name in ("prompt", "model", "n", "size")}
    parts |= {name: {"type": "string", "format": "binary"} for name in names if name != "prompt"}
    required = [name for name in names if name != "mask"]
    schema = {"type": "object", "properties": parts, "required": required}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


class Image(BaseModel):
    """Theirs, and what the content check said where it was on."""

    b64_json: str | None = None
    url: str | None = None
    content: Verdict | None = None


class Images(BaseModel):
    created: int
    data: list[Image]
    output_format: str
    size: str


@router.post("/generations", response_model_exclude_none=True)
async def generations(body: Generation, request: fastapi.Request, desk: AnyDesk) -> Images:
    """Waits for the pictures; a client that leaves cancels them."""
    return await _answer(body, body.request(), request, desk)


@router.post("/edits", response_model_exclude_none=True, openapi_extra=_form("image", "mask", "prompt"))
async def edits(request: fastapi.Request, desk: AnyDesk) -> Images:
    """Where the mask, or else the image, is transparent, it is drawn anew; with neither, all of it."""
    texts, files = await form_of(request, ("image", "image[]", "mask"))
    body = _read(texts)
    images = [data for name in ("image", "image[]") for data in files.get(name, [])]
    if len(images) != 1:
        raise Refusal(
            422, "invalid_request", f"The form has {len(images)} images; an edit begins from one, send that."
        )
    mask, most = files.get("mask"), desk.settings.limits.upload_pixels

    def begun() -> dict[str, Any]:
        with one_upload:
            holes = _holes(images[0] if mask is None else mask[0], most)
            if mask is not None and holes is None:
                raise Refusal(
                    422, "invalid_request", "The mask is nowhere transparent; make it so where to draw anew."
                )
            return {"image": unpacked(images[0], most), "mask": holes}

    asked = body.request(**await asyncio.to_thread(begun), strength=body.strength)
    return await _answer(body, asked, request, desk)


@router.post("/variations", response_model_exclude_none=True, openapi_extra=_form("image"))
async def variations(request: fastapi.Request, desk: AnyDesk) -> Images:
    """Of a picture that tells its prompt, drawn anew with that; of any other, without words."""
    texts, files = await form_of(request, ("image",))
    if "image" not in files:
        raise Refusal(422, "invalid_request", "A variation needs an image; send it as a part of the form.")
    data, most = files["image"][0], desk.settings.limits.upload_pixels

    def begun() -> tuple[PIL.Image.Image, str | None]:
        with one_upload:
            said = told(data, most).fields.get("prompts")
            return unpacked(data, most), said[0] if said else None

    image, prompt = await asyncio.to_thread(begun)
    # at guidance 0 the picture is drawn as the empty prompt has it, whatever the prompt says
    silent = {} if prompt else {"guidance": "0"}
    body = _read({"prompt": prompt or "variation", **silent, **texts})
    strength = VARIED if body.strength is None else body.strength
    return await _answer(body, body.request(image=image, strength=strength), request, desk)


async def _answer(body: Generation, asked: Request, request: fastapi.Request, desk: Desk) -> Images:
    job = await finished(desk, asked, request)
    assert isinstance(job.request, ResolvedRequest)
    form, quality = body.output_format or "png", body.output_compression
    quality = 100 if quality is None else min(100, max(1, quality))
    data = []
    for place, content in zip(job.pictures, job.content, strict=True):
        image = Image(content=content)
        if body.response_format != "url":
            image.b64_json = base64.b64encode(_encoded(desk, job, place, form, quality)).decode()
        if body.response_format != "b64_json":
            image.url = f"{str(request.base_url).rstrip('/')}/v1/pictures/{job.id}/{place}.png"
        data.append(image)
    size = f"{job.request.width}x{job.request.height}"
    return Images(created=int(time.time()), data=data, output_format=form, size=size)


def _read(texts: dict[str, str]) -> Edit:
    try:
        return Edit.model_validate(texts)
    except ValidationError as error:
        raise Refusal(422, "invalid_request", sentence(error, Edit.model_fields)) from None


def _holes(data: bytes, most_pixels: int) -> PIL.Image.Image | None:
    """White where the picture is transparent; None where it is nowhere.  Refusal (413, 422)."""
    with opened(data, most_pixels) as image:
        try:
            alpha = PIL.ImageOps.exif_transpose(image).convert("RGBA").getchannel("A")
        except Exception:  # whatever a decoder makes of a broken file
            raise unreadable() from None
    return None if alpha.getextrema()[0] == 255 else PIL.ImageChops.invert(alpha)


def _encoded(desk: Desk, job: Job, place: int, form: str, quality: int) -> bytes:
    data = desk.store.path(job.id, place).read_bytes()
    if form == "png":
        return data
    buffer = io.BytesIO()
    with PIL.Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        image.save(buffer, form.upper(), quality=quality)
    return buffer.getvalue()
