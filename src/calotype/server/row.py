"""The row of jobs that are not over: who is next, who draws what, and how a job ends."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable

from calotype.errors import CalotypeError, CheckpointError, InputError, OutputError
from calotype.server.easel import Measure, Stepped
from calotype.server.joined import company
from calotype.server.live import Live, Progress
from calotype.server.store import Asked, Job, State, Store, Whose
from calotype.server.tickets import Counts, Ticket, Waiting
from calotype.tasks.picture import Picture
from calotype.tasks.request import ResolvedRequest
from calotype.tasks.restoration import Restoration, RestoredPicture

log = logging.getLogger("calotype.server")


class Row:
    """Thread-safe.  Jobs that were left over in the store are in it from the start."""

    def __init__(
        self, store: Store, live: Live, hands: int, told: Callable[[str], str] = str, verbose: bool = False
    ) -> None:
        """
        hands    how many draw at once
        told     what clients may read of a sentence
        verbose  whether what is wrong with a request, which may quote its words, is logged
        """
        self._told = told
        self._hands = hands
        self._store, self._live, self._verbose = store, live, verbose
        self._jobs: OrderedDict[str, Waiting] = OrderedDict()
        self._work = threading.Condition()
        self._stopping = False
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
            self._jobs[job.id] = waiting
            self._work.notify()
        if not left:  # the last process died between the last picture and the job's end
            self.over(waiting, "done")

    def cancel(self, name: str) -> bool:
        """At once for the asker; the batch itself ends with its step.  False where the job is over."""
        with self._work:
            waiting = self._jobs.get(name)
            if waiting is None:
                return False
            return self.over(waiting, "cancelled")

    def position(self, name: str) -> int | None:
        """How many jobs are before it; 0 for those being drawn, None for those that are over."""
        with self._work:
            if name not in self._jobs:
                return None
            if self._jobs[name].drawing:
                return 0
            ahead = 0
            for other, waiting in self._jobs.items():
                if other == name:
                    break
                ahead += not waiting.drawing
            return ahead + any(waiting.drawing for waiting in self._jobs.values())

    def queued(self, client: str | None = None) -> int:
        """Pictures that wait or are being drawn, of one client or of all."""
        with self._work:
            return sum(
                len(waiting.places) + waiting.drawing
                for waiting in self._jobs.values()
                if client is None or waiting.job.client == client
            )

    def active(self) -> list[str]:
        """Jobs that are not over, those being drawn first."""
        with self._work:
            return sorted(self._jobs, key=lambda name: not self._jobs[name].drawing)

    def close(self) -> None:
        """Nobody is next any more, and what is being drawn is abandoned."""
        with self._work:
            self._stopping = True
            self._work.notify_all()

    def leader(self) -> Waiting | None:
        """The next job that has pictures left to draw, waited for; None when the row is closed."""
        with self._work:
            while not self._stopping:
                for waiting in self._jobs.values():
                    if waiting.places:
                        return waiting
                self._work.wait()
        return None

    def whole(self, leader: Waiting) -> list[Ticket]:
        """All pictures of a job that are left, taken."""
        with self._work:
            left = [Ticket(leader, place) for place in leader.places]
            leader.places.clear()
            leader.drawing += len(left)
        return left

    def batch(self, leader: Waiting, measure: Measure) -> list[Ticket]:
        """Pictures of the leader, and of others that fit, taken; none where the job is over meanwhile.

        No more than leave something for every hand.
        """
        batch: list[Ticket] = []
        with self._work:
            if leader.job.id not in self._jobs:
                return []
            rest = (waiting for waiting in self._jobs.values() if waiting is not leader)
            together = [waiting for waiting in (leader, *rest) if waiting.company == leader.company]
            fair = -(-sum(len(waiting.places) for waiting in together) // self._hands)
            size, length = min(measure.at_once, fair), None
            for waiting in together:
                request = waiting.job.request
                assert isinstance(request, ResolvedRequest)
                for place in list(waiting.places):
                    own = measure.length(request, place)
                    length = own if length is None else length
                    if len(batch) < size and own == length:
                        waiting.places.remove(place)
                        waiting.drawing += 1
                        batch.append(Ticket(waiting, place))
                if len(batch) == size:
                    break
        return batch

    def begun(self, batch: list[Ticket]) -> None:
        """Their jobs are running; OutputError where that cannot be written down."""
        for name in dict.fromkeys(ticket.waiting.job.id for ticket in batch):
            self._store.mark(name, "running")
            self._live.changed(name)

    def left(self, batch: list[Ticket], hand: int) -> None:
        """A batch is over: those of its jobs that are not go to the end of the row."""
        with self._work:
            for ticket in batch:
                ticket.waiting.shares.pop(hand, None)
                name = ticket.waiting.job.id
                if name in self._jobs:
                    self._jobs.move_to_end(name)
        self._live.changed()  # everyone's position

    def abandoned(self, batch: list[Ticket]) -> bool:
        """Whether nobody wants these pictures any more, or not from this process."""
        with self._work:
            return self._stopping or all(ticket.waiting.job.id not in self._jobs for ticket in batch)

    def stepped(self, batch: list[Ticket], hand: int, event: Stepped) -> None:
        """One step is done; `batch` holds the pictures of it that are not finished."""
        with self._work:
            self.counts.steps += len(event.indices)
            fractions = {}
            for waiting in {ticket.waiting.job.id: ticket.waiting for ticket in batch}.values():
                if waiting.job.id not in self._jobs:
                    continue
                drawn = sum(ticket.waiting is waiting for ticket in batch)
                waiting.shares[hand] = drawn * event.done / event.steps
                done = waiting.finished + sum(waiting.shares.values())
                fractions[waiting.job.id] = min(1.0, done / waiting.job.request.pictures)
        for name, fraction in fractions.items():
            self._live.progress(name, Progress(fraction, event.done, event.steps))

    def spent(self, seconds: float, batches: int = 0) -> None:
        """For the counts."""
        with self._work:
            self.counts.seconds += seconds
            self.counts.batches += batches

    def finished(self, ticket: Ticket, hand: int, picture: Picture | RestoredPicture) -> None:
        """Kept; the last one ends its job.  OutputError where it cannot be written."""
        waiting = ticket.waiting
        with self._work:
            if waiting.job.id not in self._jobs:
                return
            self._store.keep(waiting.job.id, ticket.place, picture)
            waiting.finished += 1
            waiting.drawing -= 1
            waiting.shares[hand] = max(0.0, waiting.shares.get(hand, 0.0) - 1)
            self.counts.pictures += 1
            if waiting.finished == waiting.job.request.pictures:
                self.over(waiting, "done")
            else:
                self._live.changed(waiting.job.id)

    def noted(self, batch: list[Ticket], text: str) -> None:
        """Something that those who asked should know."""
        for ticket in batch:
            self._store.note(ticket.waiting.job.id, self._told(text))

    def failed(self, waiting: Waiting, error: Exception) -> None:
        text = str(error) if isinstance(error, CalotypeError) else f"The picture failed: {error!r:.300}"
        chosen = isinstance(error, CheckpointError) and added(waiting.job.request)
        whose: Whose = "request" if chosen or isinstance(error, InputError) else "server"
        self.over(waiting, "failed", self._told(text), whose)

    def over(
        self,
        waiting: Waiting,
        state: State,
        error: str | None = None,
        whose: Whose | None = None,
    ) -> bool:
        name = waiting.job.id
        with self._work:
            if self._jobs.pop(name, None) is None:
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
