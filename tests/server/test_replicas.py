"""Several that draw for one server: two hands in this process, and two replicas of Ray's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import PIL.Image
import psutil
import pytest
from tests.server.conftest import tiny_desk
from tests.server.test_jobs import check_pixels, over
from tests.server.test_process import server, submit, wait

from calotype.checkpoints import native
from calotype.server.easel import Event, Here, Lost, Measure, Wished
from calotype.server.joined import Joined
from calotype.tasks import picture, restore
from calotype.tasks.generate import generate
from calotype.tasks.picture import Picture
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


def replicas(process: int) -> list[psutil.Process]:
    found = psutil.Process(process).children(recursive=True)
    return [child for child in found if "ServeReplica" in " ".join(child.cmdline())]


@pytest.mark.verify
@pytest.mark.usefixtures("one_thread")
def test_two_replicas(tiny_file: Path, tmp_path: Path) -> None:
    """`calotype serve --replicas 2`: both draw, the pictures are their requests', one may be killed, previews
    and cancelling work, Ray wants a token, and nothing stays when it stops."""
    data = tmp_path / "data"
    with server(tiny_file, data, "--replicas", "2", "--max-rate", "100000") as (process, client):
        inside = psutil.Process(process.pid).children(recursive=True)
        _a_token_is_wanted(inside)
        before = {one.pid: sum(one.cpu_times()[:2]) for one in replicas(process.pid)}
        assert len(before) == 2
        jobs = [submit(client, count=4, steps=20, seed=10 * i, width=64, height=64) for i in range(6)]
        for job in jobs[:2]:
            assert wait(client, job, ("done", "failed"))["error"] is None
        grown = {one.pid: sum(one.cpu_times()[:2]) - before[one.pid] for one in replicas(process.pid)}
        assert all(seconds > 0.2 for seconds in grown.values()), grown
        os.kill(replicas(process.pid)[0].pid, signal.SIGKILL)
        for job in jobs:
            assert wait(client, job, ("done", "failed"))["error"] is None
        _cancelled(client)
        assert client.post("/v1/models/tiny/load").json()["loaded"] is True
        assert client.post("/v1/models/tiny/unload").status_code == 409
        assert client.post("/v1/models/nothing/load").status_code == 404
        failed = submit(client, steps=2, sampler="lms", sampler_options={"order": 0.5})
        assert "order" in wait(client, failed, ("done", "failed"))["error"]
        process.send_signal(signal.SIGTERM)
        process.wait(90)
        assert not [one for one in inside if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    model = native.load(tiny_file)
    for job in jobs:
        for place in range(4):
            image, record = picture.read(data / "pictures" / f"{job}-{place}.png")
            (alone,) = [event for event in generate(model, record.request) if isinstance(event, Picture)]
            assert alone.image.tobytes() == image.tobytes()


def _a_token_is_wanted(inside: list[psutil.Process]) -> None:
    """By Ray, which would else run whatever anyone sends."""
    (store,) = (one for one in inside if "gcs_server" in one.name())
    ports = {place.laddr.port for place in store.net_connections("tcp") if place.status == "LISTEN"}
    (port,) = ports
    own = store.environ()
    assert len(own["RAY_AUTH_TOKEN"]) == 64
    for given, code in (({}, 0), ({"RAY_AUTH_MODE": "disabled"}, 1), ({"RAY_AUTH_TOKEN": "0" * 64}, 1)):
        joining = f"import ray; ray.init(address='127.0.0.1:{port}', log_to_driver=False); print('in')"
        done = subprocess.run(
            [sys.executable, "-c", joining], env={**own, **given}, capture_output=True, text=True, timeout=200
        )
        assert (done.returncode, "in" in done.stdout.split()) == (code, code == 0), done.stderr[-2000:]


def _cancelled(client: httpx.Client) -> None:
    """A job that is watched has previews; cancelled, it takes no further step."""
    job = submit(client, steps=150, width=128, height=128)
    seen = []
    with client.stream("GET", f"/v1/jobs/{job}/events?previews=true") as events:
        for line in events.iter_lines():
            name, _, value = line.partition(": ")
            seen.append(value if name == "event" else "")
            if value == "preview":
                assert client.post(f"/v1/jobs/{job}/cancel").json()["state"] == "cancelled"
            if name == "data" and seen[-2] == "end":
                assert json.loads(value)["state"] == "cancelled"
    assert "preview" in seen
    time.sleep(0.5)
    assert "calotype_pictures_waiting 0.0" in client.get("/metrics").text


@pytest.mark.verify
def test_a_photograph_is_restored_by_a_replica(tmp_path: Path, tiny_file: Path) -> None:
    with server(tiny_file, tmp_path / "data", "--replicas", "1") as (_, client):
        noisy = tmp_path / "noisy.png"
        PIL.Image.effect_noise((64, 64), 40).convert("RGB").save(noisy)
        told = {"request": json.dumps({"task": "denoise", "samples": 2, "steps": 4})}
        answer = client.post("/v1/jobs", data=told, files={"image": noisy.read_bytes()})
        found = wait(client, answer.json()["id"], ("done", "failed"))
        assert (found["error"], len(found["pictures"])) == (None, 4)
