"""The one thread that draws.

It takes pictures from the jobs in turn: the first job of the row chooses the company, others that fit join
its batch, and a job that has pictures left goes to the end of the row, so that a long one lets others by.
Samplers are generators: to cancel a batch, or to stop the server, is to stop iterating.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Generator, Iterator

import torch

from calotype.conditioning.prompt import chunks
from calotype.errors import CalotypeError, CheckpointError, InputError, OutputError
from calotype.server.joined import Joined, company
from calotype.server.live import Live, Preview, Progress
from calotype.server.models import Models
from calotype.server.restoring import Abandoned, restored
from calotype.server.store import Asked, Job, State, Store, Whose
from calotype.server.tickets import Counts, Ticket, Waiting
from calotype.tasks import generate
from calotype.tasks.picture import Picture
from calotype.tasks.request import ResolvedRequest
from calotype.tasks.restoration import Restoration, RestoredPicture
from calotype.tasks.steady import batch_size
from calotype.tasks.studio import Studio

log = logging.getLogger("calotype.server")

PREVIEW_SHARE = 0.2
"""Of the time, at most, goes into previews."""


class Worker(threading.Thread):
    """Start it with the jobs that were left over; `stop` returns when the step in hand is done."""

    def __init__(
        self,
        store: Store,
        models: Models,
        live: Live,
        threads: int | None = None,
        verbose: bool = False,
    ) -> None:
        """verbose: whether what is wrong with a request, which may quote its words, is logged."""
        super().__init__(name="calotype-worker", daemon=True)
        self._verbose = verbose
        self._store, self._models, self._live = store, models, live
        self._threads = threads
        self._row: OrderedDict[str, Waiting] = OrderedDict()
        self._work = threading.Condition()
        self._stopping = False
        self._next_preview = 0.0
        self._previews = 0
        self.counts = Counts()
        self.unwritten: dict[str, str] = {}
        """Why jobs failed whose end could not be written down, the disk being full."""
        for job in store.waiting():
            store.mark(job.id, "queued")
            self.add(job)

    def add(self, job: Job) -> None:
        left = deque(place for place in range(job.request.pictures) if place not in job.pictures)
        asked = job.request
        # a restoration keeps no company
        waiting = Waiting(
            job, left, job.id if isinstance(asked, Restoration) else company(asked), len(job.pictures)
        )
        with self._work:
            self._row[job.id] = waiting
            self._work.notify()
        if not left:  # the last process died between the last picture and the job's end
            self._over(waiting, "done")

    def cancel(self, name: str) -> bool:
        """At once for the asker; the batch itself ends with its step.  False where the job is over."""
        with self._work:
            waiting = self._row.get(name)
            if waiting is None:
                return False
            return self._over(waiting, "cancelled")

    def position(self, name: str) -> int | None:
        """How many jobs are before it; 0 for those being drawn, None for those that are over."""
        with self._work:
            if name not in self._row:
                return None
            if self._row[name].drawing:
                return 0
            ahead = 0
            for other, waiting in self._row.items():
                if other == name:
                    break
                ahead += not waiting.drawing
            return ahead + any(waiting.drawing for waiting in self._row.values())

    def queued(self, client: str | None = None) -> int:
        """Pictures that wait or are being drawn, of one client or of all."""
        with self._work:
            return sum(
                len(waiting.places) + waiting.drawing
                for waiting in self._row.values()
                if client is None or waiting.job.client == client
            )

    def active(self) -> list[str]:
        """Jobs that are not over, those being drawn first."""
        with self._work:
            return sorted(self._row, key=lambda name: not self._row[name].drawing)

    def stop(self) -> None:
        """End with the step in hand; jobs that are not over are queued for the next start."""
        with self._work:
            self._stopping = True
            self._work.notify()
        if self.is_alive():
            self.join()

    def run(self) -> None:
        if self._threads is not None:
            torch.set_num_threads(self._threads)  # it counts for the thread that calls it
        while (leader := self._leader()) is not None:
            try:
                self._serve(leader)
            except Exception as error:
                log.exception("the worker goes on after a failure")
                self._failed(leader, error)

    def _leader(self) -> Waiting | None:
        with self._work:
            while not self._stopping:
                for waiting in self._row.values():
                    if waiting.places:
                        return waiting
                self._work.wait()
        return None

    def _serve(self, leader: Waiting) -> None:
        asked = leader.job.request
        if isinstance(asked, Restoration):
            self._restore(leader, asked)
            return
        try:
            studio = self._models.get(asked.model, asked)
        except CalotypeError as error:
            self._failed(leader, error)
            return
        batch = self._batch(leader, asked, studio)
        if batch:
            self._draw(studio, batch)
        with self._work:
            for ticket in batch:
                ticket.waiting.drawing = 0
                name = ticket.waiting.job.id
                if name in self._row:
                    self._row.move_to_end(name)
        self._live.changed()  # everyone's position

    def _restore(self, leader: Waiting, asked: Restoration) -> None:
        """All pictures of a restoration, in one go."""
        name = leader.job.id
        with self._work:
            left = set(leader.places)
            leader.places.clear()
            leader.drawing = len(left)
        self._store.mark(name, "running")
        self._live.changed(name)

        def watch(done: int, total: int) -> None:
            with self._work:
                if self._stopping or name not in self._row:
                    raise Abandoned
            self.counts.steps += 1
            self._live.progress(name, Progress(done / total, done, total))

        began = time.monotonic()
        try:
            uploads = self._store.uploads(leader.job)
            model = self._models.restorer(asked.model)
            for picture in restored(model, asked, uploads, watch, self._models.safety):
                if picture.index in left:
                    self._finished(Ticket(leader, picture.index), picture)
        except Abandoned:
            pass
        except Exception as error:
            if not isinstance(error, CalotypeError):
                log.exception("a restoration failed")
            self._failed(leader, error)
        self.counts.seconds += time.monotonic() - began
        self._live.changed()  # everyone's position

    def _batch(self, leader: Waiting, asked: ResolvedRequest, studio: Studio) -> list[Ticket]:
        config = studio.model.config
        shape = (
            config.unet.out_channels,
            -(-asked.height // config.factor),
            -(-asked.width // config.factor),
        )
        size = batch_size(studio.model, shape)
        batch: list[Ticket] = []
        with self._work:
            if leader.job.id not in self._row:
                return []
            rest = (waiting for waiting in self._row.values() if waiting is not leader)
            length = None
            for waiting in (leader, *rest):
                request = waiting.job.request
                if waiting.company != leader.company or not isinstance(request, ResolvedRequest):
                    continue
                for place in list(waiting.places):
                    own = _length(studio, request, place)
                    length = own if length is None else length
                    if len(batch) < size and own == length:
                        waiting.places.remove(place)
                        waiting.drawing += 1
                        batch.append(Ticket(waiting, place))
                if len(batch) == size:
                    break
        return batch

    def _draw(self, studio: Studio, batch: list[Ticket]) -> None:
        """All of them to the end; where a batch fails, each of its pictures is tried alone."""
        began = time.monotonic()
        run: Iterator[generate.Event] = iter(())
        done: set[int] = set()
        try:
            for name in dict.fromkeys(ticket.waiting.job.id for ticket in batch):
                self._store.mark(name, "running")
                self._live.changed(name)
            begun = self._store.uploads(batch[0].waiting.job)
            run = studio.events(Joined.of([ticket.request for ticket in batch], begun))
            for event in run:
                if isinstance(event, generate.Progress):
                    self._show(studio, batch, event)
                elif isinstance(event, generate.Notice):
                    text = self._models.without_places(event.text)
                    for ticket in batch:
                        self._store.note(ticket.waiting.job.id, text)
                elif isinstance(event, Picture):
                    self._finished(batch[event.index], event)
                    done.add(event.index)
                if self._abandoned(batch, done):
                    break
        except Exception as error:
            left = [ticket for i, ticket in enumerate(batch) if i not in done]
            self._retry(studio, left, error)
        finally:
            if isinstance(run, Generator):
                run.close()
            self.counts.batches += 1
            self.counts.seconds += time.monotonic() - began

    def _retry(self, studio: Studio, left: list[Ticket], error: Exception) -> None:
        if len(left) == 1:
            if not isinstance(error, CalotypeError):
                log.exception("a picture failed")
            self._failed(left[0].waiting, error)
            return
        for ticket in left:
            if not self._abandoned([ticket], set()):
                self._draw(studio, [ticket])

    def _abandoned(self, batch: list[Ticket], done: set[int]) -> bool:
        with self._work:
            left = (ticket for i, ticket in enumerate(batch) if i not in done)
            return self._stopping or all(ticket.waiting.job.id not in self._row for ticket in left)

    def _show(self, studio: Studio, batch: list[Ticket], event: generate.Progress) -> None:
        self.counts.steps += len(event.indices)
        together = OrderedDict((ticket.waiting.job.id, ticket.waiting) for ticket in batch)
        for name, waiting in together.items():
            with self._work:
                if name not in self._row:
                    continue
                here = waiting.drawing * event.done / event.steps
                fraction = (waiting.finished + here) / waiting.job.request.pictures
            self._live.progress(name, Progress(min(1.0, fraction), event.done, event.steps))
        if time.monotonic() < self._next_preview:
            return
        shown: set[str] = set()
        began = time.monotonic()
        for row, index in enumerate(event.indices):
            name = batch[index].waiting.job.id
            if name in shown or not self._live.wants_preview(name):
                continue
            shown.add(name)
            self._previews += 1
            image = studio.decode(event.step.denoised[row])
            if not studio.may_show(image, batch[index].request):
                continue
            self._live.preview(name, Preview.of(self._previews, batch[index].place, image))
        took = time.monotonic() - began
        self._next_preview = time.monotonic() + took * (1 / PREVIEW_SHARE - 1)

    def _finished(self, ticket: Ticket, picture: Picture | RestoredPicture) -> None:
        waiting = ticket.waiting
        with self._work:
            if waiting.job.id not in self._row:
                return
            self._store.keep(waiting.job.id, ticket.place, picture)
            waiting.finished += 1
            waiting.drawing = max(0, waiting.drawing - 1)
            self.counts.pictures += 1
            if not waiting.places and waiting.finished == waiting.job.request.pictures:
                self._over(waiting, "done")
            else:
                self._live.changed(waiting.job.id)

    def _failed(self, waiting: Waiting, error: Exception) -> None:
        text = str(error) if isinstance(error, CalotypeError) else f"The picture failed: {error!r:.300}"
        chosen = isinstance(error, CheckpointError) and added(waiting.job.request)
        whose: Whose = "request" if chosen or isinstance(error, InputError) else "server"
        self._over(waiting, "failed", self._models.without_places(text), whose)

    def _over(
        self,
        waiting: Waiting,
        state: State,
        error: str | None = None,
        whose: Whose | None = None,
    ) -> bool:
        name = waiting.job.id
        with self._work:
            if self._row.pop(name, None) is None:
                return False
            try:
                self._store.mark(name, state, error, whose)
            except OutputError as problem:  # the next start draws it again
                log.error("%s", problem)
                self.unwritten[name] = error or str(problem)
            else:
                self._store.discard(name)
        told = error is not None and (self._verbose or whose != "request")
        log.info("job %s is %s%s", name, state, f": {error}" if told else "")
        self._live.forget(name)
        return True


def added(asked: Asked) -> bool:
    """Whether the client chose more than a model: that may not fit it, which the client can change."""
    return isinstance(asked, ResolvedRequest) and bool(
        asked.loras or asked.embeddings or asked.controls or asked.refiner
    )


def _length(studio: Studio, request: ResolvedRequest, place: int) -> int:
    """Chunks of the picture's text, which say how many tokens the network reads."""
    tokenizer = studio.model.text_encoder.tokenizer
    prompt = request.parsed(request.prompt_of(place))
    return 0 if prompt is None or tokenizer is None else len(list(chunks(prompt, tokenizer)))
