"""What a replica does: it draws one batch at a time, in a thread of its own, and says how far it is."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import PIL.Image
import torch

from calotype import errors
from calotype.server.easel import Here, Measure
from calotype.server.joined import Joined
from calotype.server.models import Models
from calotype.server.restoring import Abandoned
from calotype.server.settings import Settings
from calotype.tasks.request import ResolvedRequest
from calotype.tasks.restoration import Restoration

log = logging.getLogger("calotype.server")


@dataclass(frozen=True)
class Told:
    """A replica's last word: its name and the models in its memory; or what went wrong."""

    replica: int
    loaded: tuple[str, ...]
    failure: str | None = None
    kind: str = "CalotypeError"

    def check(self) -> None:
        """Raises the error of that kind, where there was one."""
        if self.failure is not None:
            raise getattr(errors, self.kind)(self.failure)


@dataclass(frozen=True)
class At:
    """A restoration is `done` of `total` far."""

    done: int
    total: int


class Painter:
    """The deployment's class.  What it yields are an easel's events, and `Told` at last."""

    def __init__(self, settings: Settings, threads: int, board: Any) -> None:
        self._models = Models.of(settings)
        self._here = Here(self._models)
        self._board = board
        self._thread = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(threads,))

    async def measure(self, asked: ResolvedRequest) -> AsyncIterator[Measure | Told]:
        async for word in self._words(lambda tell: tell(self._here.measure(asked))):
            yield word

    async def load(self, name: str) -> AsyncIterator[Told]:
        async for word in self._words(lambda _: self._models.load(name)):
            yield word

    async def draw(self, hand: int, asked: Joined) -> AsyncIterator[Any]:
        def work(tell: Callable[[Any], None]) -> None:
            for event in self._here.draw(asked, lambda: self._wished(hand)):
                tell(event)

        async for word in self._words(work):
            yield word

    async def restore(self, asked: Restoration, uploads: Mapping[str, PIL.Image.Image]) -> AsyncIterator[Any]:
        def work(tell: Callable[[Any], None]) -> None:
            for picture in self._here.restore(asked, uploads, lambda done, total: tell(At(done, total))):
                tell(picture)

        async for word in self._words(work):
            yield word

    def _wished(self, hand: int) -> tuple[int, ...]:
        import ray

        found: tuple[int, ...] = ray.get(self._board.wished.remote(hand))
        return found

    async def _words(self, work: Callable[[Callable[[Any], None]], Any]) -> AsyncIterator[Any]:
        """What the work tells from its thread.  When this is left, the work ends with its next word."""
        loop, words, left = asyncio.get_running_loop(), asyncio.Queue[Any](), threading.Event()

        def tell(word: Any) -> None:
            if left.is_set():
                raise Abandoned
            loop.call_soon_threadsafe(words.put_nowait, word)

        def run() -> None:
            failure, kind = None, "CalotypeError"
            try:
                work(tell)
            except Abandoned:
                return
            except errors.CalotypeError as error:
                failure = str(error)
                kind = next(one.__name__ for one in type(error).mro() if one.__module__ == errors.__name__)
            except Exception as error:
                log.exception("a picture failed")
                failure = f"The picture failed: {error!r:.300}"
            last = Told(os.getpid(), tuple(self._models.loaded()), failure, kind)
            loop.call_soon_threadsafe(words.put_nowait, last)

        self._thread.submit(run)
        try:
            while True:
                word = await words.get()
                yield word
                if isinstance(word, Told):
                    return
        finally:
            left.set()
