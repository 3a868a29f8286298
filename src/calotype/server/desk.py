"""Where requests are accepted: every limit is decided here, before any work."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import PIL.Image

from calotype.errors import CheckpointError, InputError
from calotype.server.easel import Easel, Here
from calotype.server.live import Live
from calotype.server.models import Models
from calotype.server.refusal import Refusal
from calotype.server.row import Row
from calotype.server.settings import Settings
from calotype.server.store import OVER, Asked, Job, Store, sources
from calotype.server.worker import Worker
from calotype.tasks.finish import wanted
from calotype.tasks.request import Request, ResolvedRequest
from calotype.tasks.restoration import Restoration

log = logging.getLogger("calotype.server")

TAKEN = frozenset(
    {
        *(
            "prompts",
            "negative",
            "prompt_syntax",
            "clip_skip",
            "model",
            "steps",
            "guidance",
            "sampler",
            "grid",
        ),
        *("sampler_options", "seed", "noise", "count", "width", "height", "rescale", "interval", "apg"),
        *("image", "mask", "strength", "margin", "invert", "was", "hires_from", "hires_by", "tile", "wrap"),
        *("vary", "vary_seed", "toward", "blend", "frames", "noise_level"),
        *("loras", "lora_live", "embeddings", "controls", "refiner", "refiner_at"),
    }
)
"""Fields a client may set.  None takes the place of a file: a picture is taken as one, and what lies in the
owner's folder by its name there."""

SMALLEST_TILE = 32
"""Pixels: a picture of many small windows is work without end."""


class Memory(Protocol):
    """Of the process or processes that draw: which models are in it."""

    def loaded(self) -> list[str]: ...

    def load(self, name: str) -> object: ...

    def unload(self, name: str) -> None: ...


class Desk:
    """Accepts, shows and ends jobs."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        models: Models,
        easels: Sequence[Easel] = (),
        memory: Memory | None = None,
    ) -> None:
        """Pictures are drawn in this process, or on `easels`, with models that `memory` holds."""
        self.settings, self.store, self.models = settings, store, models
        self.live, self.memory = Live(), memory or models
        easels = easels or [Here(models)]
        self.row = Row(store, self.live, len(easels), models.without_places, settings.verbose)
        self.worker = Worker(self.row, store, easels, self.live, settings.threads)
        self.stopping = asyncio.Event()

    def submit(self, request: Request | Restoration, client: str) -> Job:
        """Refusal or InputError where it is not accepted; else the queued job."""
        if self.stopping.is_set():
            raise Refusal(503, "stopping", "The server is stopping; ask again in a minute.")
        if not all(source.held for source in sources(request).values()):
            raise Refusal(
                422, "field_not_served", "The server opens no file by name; send the picture itself."
            )
        asked, sizes = (
            self._restoration(request) if isinstance(request, Restoration) else self._drawing(request)
        )
        try:
            asked.model_dump_json()
        except ValueError:
            raise InputError("A text holds half a character (a lone surrogate); send it as UTF-8.") from None
        if isinstance(asked, ResolvedRequest):
            self.settings.safety.refuse_words(wanted(asked))
        limits = self.settings.limits
        for what, value, most in (
            ("pictures", asked.pictures, limits.pictures),
            ("pixels a picture", max(width * height for width, height in sizes), limits.pixels),
            ("steps", asked.steps, limits.steps),
        ):
            if value > most:
                raise Refusal(
                    422, "over_limit", f"The request is for {value} {what}; this server allows {most}."
                )
        for waiting, most, whose in (
            (self.row.queued(client), limits.queued_by_client, "You have"),
            (self.row.queued(), limits.queued, "The server has"),
        ):
            if waiting + asked.pictures > most:
                raise Refusal(
                    429,
                    "queue_full",
                    f"{whose} {waiting} pictures waiting, and at most {most} may; ask again later.",
                    {"Retry-After": "10"},
                )
        for source in sources(asked).values():
            self.admit(source.read())
        job = self.store.add(client, asked)
        said = asked.task if isinstance(asked, Restoration) else repr(asked.prompts[0])
        text = f": {said}" if self.settings.verbose else ""
        log.info("job %s: %d pictures, %d steps%s", job.id, asked.pictures, asked.steps, text)
        self.row.add(job)
        return job

    def admit(self, image: PIL.Image.Image) -> None:
        """Refusal (400) where the content check does not let an upload in.

        It looks at uploads where it withholds pictures that are drawn here, of any model.
        """
        safety = self.settings.safety
        if not (safety.checks(shipped=self.settings.shipped) and safety.content_check != "report"):
            return
        verdict = safety.judge(image)
        if verdict.decision == "withheld":
            raise Refusal(
                400,
                "content_policy_violation",
                f"The content check does not let the picture in (score {verdict.score:g}, threshold "
                f"{verdict.threshold:g}); send another.",
            )

    def _drawing(self, request: Request) -> tuple[Asked, list[tuple[int, int]]]:
        """The request resolved, and the sizes that are drawn on the way."""
        closed = sorted(request.model_fields_set - TAKEN)
        if closed:
            raise Refusal(422, "field_not_served", f"The server does not take {closed[0]}; leave it out.")
        if "model" not in request.model_fields_set:
            request = request.model_copy(update={"model": self.models.default})
        config = self.models.drawing(request.model)
        try:
            asked = self.models.located(request).resolved(config)
        except (CheckpointError, InputError) as error:  # of files that the client chose, and does not know
            raise InputError(self.models.without_places(str(error))) from None
        if asked.tile is not None and asked.tile < SMALLEST_TILE:
            raise Refusal(
                422, "over_limit", f"tile is {asked.tile}; this server takes at least {SMALLEST_TILE}."
            )
        return asked, [(asked.width, asked.height), *([asked.hires_from] if asked.hires_from else [])]

    def _restoration(self, request: Restoration) -> tuple[Asked, list[tuple[int, int]]]:
        if "model" not in request.model_fields_set:
            request = request.model_copy(update={"model": self.models.default_restorer})
        self.models.restoring(request.model)
        return request, [request.size()]

    def job(self, name: str) -> Job:
        """Refusal (404) where there is none."""
        job = self.store.get(name)
        if job is None:
            raise Refusal(404, "job_not_found", f"There is no job {name[:40]!r}; it may have been deleted.")
        if job.state not in OVER and name in self.row.unwritten:
            return replace(job, state="failed", error=self.row.unwritten[name], whose="server")
        return job

    def cancel(self, name: str) -> Job:
        """Over at once; one that was over already stays as it was."""
        self.job(name)
        self.row.cancel(name)
        return self.job(name)

    def delete(self, name: str) -> None:
        """The job, its words and its pictures are gone; one that is not over is cancelled first."""
        self.row.cancel(name)
        self.store.delete(self.job(name))

    async def finished(self, name: str) -> Job:
        """Waits for the job's end.  Cancelled, as when the client has gone, it cancels the job.

        Refusal (503) where the server stops first; the job goes on at the next start.
        """
        try:
            async with self.live.watching(name) as changed:
                while True:
                    changed.clear()
                    job = await asyncio.to_thread(self.job, name)
                    if job.state in OVER:
                        return job
                    if self.stopping.is_set():
                        raise Refusal(
                            503, "stopping", f"The server is stopping; job {name} goes on when it is back."
                        )
                    await changed.wait()
        except asyncio.CancelledError:
            self.row.cancel(name)
            raise
