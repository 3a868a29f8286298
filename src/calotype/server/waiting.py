"""For dialects whose clients wait in the line: from a request to its finished job."""

from __future__ import annotations

import asyncio

import fastapi

from calotype.server.desk import Desk
from calotype.server.fences import client_of
from calotype.server.refusal import Refusal
from calotype.server.store import Job
from calotype.tasks.request import Request
from calotype.tasks.restoration import Restoration


async def finished(
    desk: Desk, asked: Request | Restoration, request: fastapi.Request, *, partly: bool = False
) -> Job:
    """The job, done; a client that hangs up before cancels it.

    partly  whether a cancelled job is an answer too, with the pictures it has

    Raises InputError and Refusal where it is not accepted, Refusal where it does not end in pictures.
    """
    job = await asyncio.to_thread(desk.submit, asked, client_of(request.scope))

    async def hung_up() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    waiting, gone = asyncio.create_task(desk.finished(job.id)), asyncio.create_task(hung_up())
    try:
        await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            desk.row.cancel(job.id)
        job = await waiting
    finally:
        waiting.cancel()
        gone.cancel()
    if job.state == "failed":
        raise Refusal(422 if job.whose == "request" else 500, "failed", job.error or "The pictures failed.")
    if job.state == "cancelled" and not partly:
        raise Refusal(409, "cancelled", "The pictures were cancelled.")
    return job
