"""What is known of jobs while they are drawn, and how those who watch hear of it.

The worker's thread writes a job's latest state; watchers in the event loop are woken and read it.  Nothing is
queued for them, so a watcher that reads slowly, or not at all, costs nothing.
"""

from __future__ import annotations

import asyncio
import base64
import io
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import PIL.Image

GLANCE_SECONDS = 10.0


@dataclass(frozen=True)
class Preview:
    """What picture `place` looks like by now, as a JPEG in a data URL; `number` counts them up."""

    number: int
    place: int
    url: str

    @classmethod
    def of(cls, number: int, place: int, image: PIL.Image.Image) -> Preview:
        image.thumbnail((512, 512))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=80)
        return cls(number, place, "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode())


@dataclass(frozen=True)
class Progress:
    """fraction of the whole job, 0 to 1; `step` of `steps` of the pictures that are being drawn."""

    fraction: float = 0.0
    step: int = 0
    steps: int = 0


@dataclass(frozen=True)
class Sight:
    progress: Progress = Progress()
    preview: Preview | None = None


class Live:
    """Thread-safe; `bind` tells it the loop in which the watchers are."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sights: dict[str, Sight] = {}
        self._watchers: dict[str, set[asyncio.Event]] = {}
        self._curious: dict[str, int] = {}
        self._glances: dict[str, float] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def sight(self, job: str) -> Sight:
        with self._lock:
            return self._sights.get(job, Sight())

    def progress(self, job: str, progress: Progress) -> None:
        with self._lock:
            self._sights[job] = replace(self._sights.get(job, Sight()), progress=progress)
        self.changed(job)

    def preview(self, job: str, preview: Preview) -> None:
        with self._lock:
            self._sights[job] = replace(self._sights.get(job, Sight()), preview=preview)
        self.changed(job)

    def wants_preview(self, job: str) -> bool:
        with self._lock:
            return self._curious.get(job, 0) > 0 or self._glances.get(job, 0) > time.monotonic()

    def glance(self, job: str) -> None:
        """Somebody asks again and again instead of watching: previews for a while."""
        now = time.monotonic()
        with self._lock:
            self._glances = {name: until for name, until in self._glances.items() if until > now}
            self._glances[job] = now + GLANCE_SECONDS

    def forget(self, job: str) -> None:
        """The job is over."""
        with self._lock:
            self._sights.pop(job, None)
            self._glances.pop(job, None)
        self.changed(job)

    def changed(self, job: str | None = None) -> None:
        """Wake who watches the job, or everyone."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake, job)

    def _wake(self, job: str | None) -> None:
        with self._lock:
            groups = list(self._watchers.values()) if job is None else [self._watchers.get(job, set())]
            events = [event for group in groups for event in group]
        for event in events:
            event.set()

    @asynccontextmanager
    async def watching(self, job: str, previews: bool = False) -> AsyncIterator[asyncio.Event]:
        """An event that is set whenever something of the job has changed; clear it before reading."""
        event = asyncio.Event()
        with self._lock:
            self._watchers.setdefault(job, set()).add(event)
            self._curious[job] = self._curious.get(job, 0) + previews
        try:
            yield event
        finally:
            with self._lock:
                self._watchers[job].discard(event)
                self._curious[job] -= previews
                if not self._watchers[job]:
                    del self._watchers[job], self._curious[job]
