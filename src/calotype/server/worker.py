"""The threads that draw, one for each easel.

A hand takes pictures from the jobs in turn: the first job of the row chooses the company, others that fit
join its batch, and a job that has pictures left goes to the end of the row, so that a long one lets others
by.  Samplers are generators: to cancel a batch, or to stop the server, is to stop iterating.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Generator, Iterator, Sequence

import torch

from calotype.errors import CalotypeError
from calotype.server.easel import Easel, Event, Lost, Seen, Stepped
from calotype.server.joined import Joined
from calotype.server.live import Live, Preview, Progress
from calotype.server.restoring import Abandoned
from calotype.server.row import Row
from calotype.server.store import Store
from calotype.server.tickets import Ticket, Waiting
from calotype.tasks.picture import Picture
from calotype.tasks.restoration import Restoration

log = logging.getLogger("calotype.server")

LOSSES = 2
"""How often a picture is begun again when the process that drew it is gone: it may be the picture's fault."""


class Worker:
    """`start` it with the jobs that were left over; `stop` returns when the steps in hand are done."""

    def __init__(
        self, row: Row, store: Store, easels: Sequence[Easel], live: Live, threads: int | None = None
    ) -> None:
        """threads: of the CPU, for a hand that draws in this process; None for torch's choice."""
        self._row = row
        numbers = itertools.count(1)
        self._hands = [_Hand(i, row, store, easel, live, numbers, threads) for i, easel in enumerate(easels)]

    def start(self) -> None:
        for hand in self._hands:
            hand.start()

    def is_alive(self) -> bool:
        return all(hand.is_alive() for hand in self._hands)

    def stop(self) -> None:
        """End with the steps in hand; jobs that are not over are queued for the next start."""
        self._row.close()
        for hand in self._hands:
            if hand.is_alive():
                hand.join()


class _Hand(threading.Thread):
    def __init__(
        self,
        number: int,
        row: Row,
        store: Store,
        easel: Easel,
        live: Live,
        previews: Iterator[int],
        threads: int | None,
    ) -> None:
        super().__init__(name=f"calotype-worker-{number}", daemon=True)
        self._number = number
        self._row, self._store, self._easel, self._live = row, store, easel, live
        self._previews, self._threads = previews, threads

    def run(self) -> None:
        if self._threads is not None:
            torch.set_num_threads(self._threads)  # it counts for the thread that calls it
        while (leader := self._row.leader()) is not None:
            try:
                self._serve(leader)
            except Exception as error:
                log.exception("the worker goes on after a failure")
                self._row.failed(leader, error)

    def _serve(self, leader: Waiting) -> None:
        asked = leader.job.request
        if isinstance(asked, Restoration):
            self._restore(leader, asked, self._row.whole(leader))
            return
        try:
            measure = self._easel.measure(asked)
        except CalotypeError as error:
            leader.losses += 1
            if not isinstance(error, Lost) or leader.losses > LOSSES:
                self._row.failed(leader, error)
            return
        batch = self._row.batch(leader, measure)
        if batch:
            self._draw(batch)
        self._row.left(batch, self._number)

    def _restore(self, leader: Waiting, asked: Restoration, left: list[Ticket], losses: int = 0) -> None:
        """All pictures of a restoration, in one go."""
        tickets = {ticket.place: ticket for ticket in left}

        def watch(done: int, total: int) -> None:
            if self._row.abandoned(left):
                raise Abandoned
            self._row.stepped([], self._number, Stepped(range(1), done, total))
            self._live.progress(leader.job.id, Progress(done / total, done, total))

        began = time.monotonic()
        try:
            self._row.begun(left)
            for picture in self._easel.restore(asked, self._store.uploads(leader.job), watch):
                if picture.index in tickets:
                    self._row.finished(tickets.pop(picture.index), self._number, picture)
        except Abandoned:
            pass
        except Lost as error:
            if losses < LOSSES:
                log.warning("%s", error)
                self._restore(leader, asked, list(tickets.values()), losses + 1)
            else:
                self._row.failed(leader, error)
        except Exception as error:
            if not isinstance(error, CalotypeError):
                log.exception("a restoration failed")
            self._row.failed(leader, error)
        self._row.spent(time.monotonic() - began)
        self._live.changed()  # everyone's position

    def _draw(self, batch: list[Ticket], losses: int = 0) -> None:
        """All of them to the end; where a batch fails, each of its pictures is tried alone."""
        began = time.monotonic()
        run: Iterator[Event] = iter(())
        left = dict(enumerate(batch))
        try:
            self._row.begun(batch)
            begun = self._store.uploads(batch[0].waiting.job)
            run = self._easel.draw(
                Joined.of([ticket.request for ticket in batch], begun), lambda: self._wished(left)
            )
            for event in run:
                if isinstance(event, Stepped):
                    self._row.stepped(list(left.values()), self._number, event)
                elif isinstance(event, Seen):
                    job = batch[event.index].waiting.job.id
                    preview = Preview.of(next(self._previews), batch[event.index].place, event.image)
                    self._live.preview(job, preview)
                elif isinstance(event, Picture):
                    self._row.finished(left[event.index], self._number, event)
                    del left[event.index]
                else:
                    self._row.noted(batch, event.text)
                if self._row.abandoned(list(left.values())):
                    break
        except Exception as error:
            self._retry(list(left.values()), error, losses)
        finally:
            if isinstance(run, Generator):
                run.close()
            self._row.spent(time.monotonic() - began, batches=1)

    def _retry(self, left: list[Ticket], error: Exception, losses: int) -> None:
        lost = isinstance(error, Lost)
        if lost:
            log.warning("%s", error)
        if len(left) == 1 and not (lost and losses < LOSSES):
            if not isinstance(error, CalotypeError):
                log.exception("a picture failed")
            self._row.failed(left[0].waiting, error)
            return
        for ticket in left:
            if not self._row.abandoned([ticket]):
                self._draw([ticket], losses + lost)

    def _wished(self, left: dict[int, Ticket]) -> list[int]:
        """Of every job that is watched, the first picture that is being drawn."""
        first: dict[str, int] = {}
        for index, ticket in left.items():
            first.setdefault(ticket.waiting.job.id, index)
        return [index for job, index in first.items() if self._live.wants_preview(job)]
