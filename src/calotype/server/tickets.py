"""What the row keeps of jobs that are not over."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from calotype.server.store import Job
from calotype.tasks.request import ResolvedRequest


@dataclass
class Waiting:
    """A job that is not over: places still to draw, and how many are being drawn.

    shares  what each hand has done of it beyond its finished pictures, in pictures
    losses  processes that went while they only looked at it
    """

    job: Job
    places: deque[int]
    company: str
    finished: int
    drawing: int = 0
    shares: dict[int, float] = field(default_factory=dict)
    losses: int = 0


@dataclass(frozen=True)
class Ticket:
    """One picture of a batch."""

    waiting: Waiting
    place: int

    @property
    def request(self) -> ResolvedRequest:
        asked = self.waiting.job.request
        assert isinstance(asked, ResolvedRequest)
        return asked.alone(self.place)


@dataclass
class Counts:
    """Since the start."""

    batches: int = 0
    pictures: int = 0
    steps: int = 0
    seconds: float = 0.0
