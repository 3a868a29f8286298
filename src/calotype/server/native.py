"""The native interface: /v1/jobs, /v1/pictures, and what a picture says of itself."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio.to_thread
import fastapi
from fastapi import Depends, Path, Query
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import BaseModel

from calotype.safety.content import Verdict
from calotype.safety.policy import Metadata
from calotype.server.desk import Desk
from calotype.server.fences import client_of
from calotype.server.refusal import Refusal
from calotype.server.sources import BODY, asked_of, body_of, one_upload
from calotype.server.store import OVER, Job, State
from calotype.server.uploads import told
from calotype.tasks.picture import shared
from calotype.tasks.places import without_folders
from calotype.tasks.request import ResolvedRequest
from calotype.tasks.restoration import Kind

PING_SECONDS = 15.0

JobId = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]


class PictureView(BaseModel):
    """A finished picture: where it is, the seed that makes it alone, the content check's verdict.

    `kind` says what it is of a restoration.
    """

    index: int
    url: str
    seed: int
    prompt: str
    kind: Kind = "picture"
    content: Verdict | None = None


class ProgressView(BaseModel):
    fraction: float
    step: int
    steps: int


class JobView(BaseModel):
    """A job as clients see it; `position` is the number of jobs before it, null when it is over."""

    id: str
    number: int
    state: State
    position: int | None
    created: float
    started: float | None
    finished: float | None
    progress: ProgressView
    pictures: list[PictureView]
    notices: list[str]
    error: str | None
    request: dict[str, Any]


class JobList(BaseModel):
    jobs: list[JobView]
    next: int | None


def desk_of(request: fastapi.Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


AnyDesk = Annotated[Desk, Depends(desk_of)]
router = fastapi.APIRouter(prefix="/v1")


def view(desk: Desk, job: Job) -> JobView:
    over, asked = job.state in OVER, job.request
    done = len(job.pictures) / job.request.pictures
    seen = desk.live.sight(job.id).progress
    return JobView(
        id=job.id,
        number=job.number,
        state=job.state,
        # it may have ended since it was read, and what was read says that it has not
        position=None if over else desk.row.position(job.id) or 0,
        created=job.created,
        started=job.started,
        finished=job.finished,
        progress=ProgressView(
            fraction=done if over else max(done, seen.fraction), step=seen.step, steps=seen.steps
        ),
        pictures=[
            PictureView(
                index=place,
                url=f"/v1/pictures/{job.id}/{place}.png",
                seed=job.request.seed_of(place),
                prompt=asked.prompt_of(place) if isinstance(asked, ResolvedRequest) else asked.task,
                kind="picture" if isinstance(asked, ResolvedRequest) else asked.kind_of(place),
                content=content,
            )
            for place, content in zip(job.pictures, job.content, strict=True)
        ],
        notices=list(job.notices),
        error=job.error,
        request=without_folders(asked)
        if isinstance(asked, ResolvedRequest)
        else asked.model_dump(mode="json"),
    )


@router.post("/jobs", status_code=202, openapi_extra=BODY)
async def submit(request: fastapi.Request, response: fastapi.Response, desk: AnyDesk) -> JobView:
    """Accept a request; the pictures are made later, and the job says how far they are."""
    fields, uploads = await body_of(request)

    def accept() -> Job:
        asked = asked_of(fields, uploads, desk.settings.limits.upload_pixels)
        return desk.submit(asked, client_of(request.scope))

    job = await asyncio.to_thread(accept)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return await asyncio.to_thread(view, desk, job)


@router.get("/jobs")
def jobs(
    desk: AnyDesk,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: Annotated[int | None, Query(ge=0, lt=2**62)] = None,
    state: State | None = None,
) -> JobList:
    """The newest first; `next` is what to give as `before` for the page after."""
    found = desk.store.page(limit, before, state)
    return JobList(
        jobs=[view(desk, job) for job in found], next=found[-1].number if len(found) == limit else None
    )


@router.get("/jobs/{job_id}")
def job(job_id: JobId, desk: AnyDesk) -> JobView:
    return view(desk, desk.job(job_id))


@router.post("/jobs/{job_id}/cancel")
def cancel(job_id: JobId, desk: AnyDesk) -> JobView:
    """Over at once; pictures that were finished stay."""
    return view(desk, desk.cancel(job_id))


@router.delete("/jobs/{job_id}", status_code=204)
def delete(job_id: JobId, desk: AnyDesk) -> None:
    """Forget the job, its words and its pictures."""
    desk.delete(job_id)


_streams: Counter[str] = Counter()


@router.get("/jobs/{job_id}/events", response_class=StreamingResponse)
async def events(
    job_id: JobId, desk: AnyDesk, request: fastapi.Request, previews: bool = False
) -> StreamingResponse:
    """Server-sent events: `job` at a change of state, `progress`, `preview`, `picture`; the last is `end`."""
    await asyncio.to_thread(desk.job, job_id)
    client = client_of(request.scope)
    if _streams[client] >= desk.settings.limits.streams_by_client:
        raise Refusal(429, "too_many_streams", "You watch too many jobs at once; close some.")

    async def counted() -> AsyncIterator[str]:
        _streams[client] += 1
        try:
            async for event in _events(desk, job_id, previews):
                yield event
        finally:
            _streams[client] -= 1
            if not _streams[client]:
                del _streams[client]

    return StreamingResponse(counted(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def _events(desk: Desk, job_id: str, previews: bool) -> AsyncIterator[str]:
    shown: JobView | None = None
    preview, pictures = 0, 0
    async with desk.live.watching(job_id, previews) as changed:
        while True:
            changed.clear()
            try:
                now = await anyio.to_thread.run_sync(lambda: view(desk, desk.job(job_id)))
            except Refusal:  # deleted while it was watched
                return
            if shown is None or now.state != shown.state:
                yield _event("job", now.model_dump(mode="json"))
            for picture in now.pictures[pictures:]:
                yield _event("picture", picture.model_dump(mode="json"))
            pictures = len(now.pictures)
            if shown is None or (now.progress, now.position) != (shown.progress, shown.position):
                yield _event("progress", {**now.progress.model_dump(), "position": now.position})
            seen = desk.live.sight(job_id).preview
            if previews and seen is not None and seen.number != preview:
                preview = seen.number
                yield _event("preview", {"index": seen.place, "image": seen.url})
            shown = now
            if now.state in OVER or desk.stopping.is_set():
                yield _event("end", now.model_dump(mode="json"))
                return
            try:
                await asyncio.wait_for(changed.wait(), PING_SECONDS)
            except TimeoutError:
                yield ": still here\n\n"


def _event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


@router.get(
    "/pictures/{job_id}/{index}.png",
    response_class=fastapi.Response,
    responses={200: {"content": {"image/png": {}}}},
)
def picture(
    job_id: JobId,
    index: Annotated[int, Path(ge=0, lt=10_000)],
    desk: AnyDesk,
    metadata: Metadata = "full",
) -> fastapi.Response:
    """The PNG, its record inside: as full as the owner lets it be, or without words and file names."""
    if index not in desk.job(job_id).pictures:
        raise Refusal(404, "picture_not_found", f"The job has no finished picture {index}.")
    path = desk.store.path(job_id, index)
    headers = {"Cache-Control": "private, max-age=31536000, immutable"}
    if metadata == "full":
        return FileResponse(path, media_type="image/png", headers=headers)
    data = shared(path.read_bytes(), desk.settings.safety.signer)
    return fastapi.Response(data, media_type="image/png", headers=headers)


@router.post(
    "/read",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def read(request: fastapi.Request, desk: AnyDesk) -> dict[str, Any]:
    """What a picture, sent as the body, says of its making: a `Request`'s fields, and A1111's text."""
    data = await request.body()

    def one() -> dict[str, Any]:
        with one_upload:  # one decoded picture in memory, however many come
            found = told(data, desk.settings.limits.upload_pixels)
        return {"request": found.fields, "parameters": found.text}

    return await asyncio.to_thread(one)
