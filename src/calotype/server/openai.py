"""OpenAI's images interface, for its own client: generations now, edits and variations with their tasks.

https://platform.openai.com/docs/api-reference/images
"""

from __future__ import annotations

import base64
import io
import time
from typing import Literal

import fastapi
import PIL.Image
from pydantic import BaseModel, ConfigDict

from calotype.safety.content import Verdict
from calotype.server.desk import Desk
from calotype.server.native import AnyDesk
from calotype.server.refusal import Refusal
from calotype.server.store import Job
from calotype.server.waiting import finished
from calotype.tasks.request import Request, parse_size

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

    def request(self) -> Request:
        """InputError where it is none."""
        fields = {name: getattr(self, name) for name in ("seed", "steps", "guidance", "sampler", "grid")}
        if self.size not in (None, "auto"):
            assert self.size is not None
            fields["width"], fields["height"] = parse_size(self.size)
        if self.model is not None:
            fields["model"] = self.model
        return Request(prompts=self.prompt, negative=self.negative, count=self.n or 1, **fields)


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
    job = await finished(desk, body.request(), request)
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


@router.post("/edits")
@router.post("/variations")
def not_yet() -> None:
    """Refused until the server has image to image."""
    raise Refusal(
        422, "not_served", "This server makes pictures from words only; use /v1/images/generations."
    )


def _encoded(desk: Desk, job: Job, place: int, form: str, quality: int) -> bytes:
    data = desk.store.path(job.id, place).read_bytes()
    if form == "png":
        return data
    buffer = io.BytesIO()
    with PIL.Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        image.save(buffer, form.upper(), quality=quality)
    return buffer.getvalue()
