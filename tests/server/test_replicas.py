"""Several hands that draw for one server, and processes that are lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import PIL.Image
import pytest
from tests.server.conftest import tiny_desk
from tests.server.test_jobs import check_pixels, over

from calotype.server.easel import Event, Here, Lost, Measure, Wished
from calotype.server.joined import Joined
from calotype.tasks import restore
from calotype.tasks.request import Request, ResolvedRequest
from calotype.tasks.restoration import Restoration, RestoredPicture


class Frail:
    """An easel whose process goes `losses` times, the first time before anything, then in mid-batch."""

    def __init__(self, here: Here, losses: int) -> None:
        self.here, self.losses = here, losses

    def measure(self, asked: ResolvedRequest) -> Measure:
        self._go(1)
        return self.here.measure(asked)

    def draw(self, asked: Joined, wished: Wished) -> Iterator[Event]:
        for event in self.here.draw(asked, wished):
            yield event
            self._go(0)

    def restore(
        self, asked: Restoration, uploads: Mapping[str, PIL.Image.Image], watch: restore.Watch
    ) -> Iterator[RestoredPicture]:
        yield from self.here.restore(asked, uploads, watch)

    def _go(self, floor: int) -> None:
        if self.losses > floor:
            self.losses -= 1
            raise Lost("The replica that drew is gone.")


def test_two_hands_draw_one_job(tiny_file: Path, tmp_path: Path) -> None:
    for desk in tiny_desk(tiny_file, tmp_path, lambda models: [Here(models), Here(models)]):
        jobs = [desk.submit(Request(prompts="a red apple", count=4, steps=2, seed=i), "one") for i in (1, 9)]
        desk.worker.start()
        for job in jobs:
            done = over(desk, job)
            assert (done.state, done.error) == ("done", None)
            check_pixels(desk, done)
        assert (desk.row.counts.pictures, desk.row.queued()) == (8, 0)
        assert desk.row.counts.batches >= 2


@pytest.mark.parametrize(("losses", "state"), [(2, "done"), (9, "failed")])
def test_what_a_lost_process_drew_is_drawn_again(
    tiny_file: Path, tmp_path: Path, losses: int, state: str
) -> None:
    """But not without end: a picture may be what ends them."""
    for desk in tiny_desk(tiny_file, tmp_path, lambda models: [Frail(Here(models), losses)]):
        job = desk.submit(Request(prompts="a red apple", count=2, steps=2), "one")
        desk.worker.start()
        done = over(desk, job)
        assert (done.state, done.whose) == (state, None if state == "done" else "server")
        if state == "done":
            check_pixels(desk, done)
        else:
            assert "is gone" in str(done.error)
