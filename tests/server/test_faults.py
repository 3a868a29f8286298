"""What goes wrong round the server: full disks, clients that leave, that trickle, that send without end."""

from __future__ import annotations

import asyncio
import resource
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fastapi
import httpx
import PIL.Image
import psutil
import pytest
import uvicorn
from starlette.types import Message
from tests.server.conftest import Live
from tests.server.test_jobs import Gate, over, until
from tests.server.test_process import server, submit, wait

from calotype.errors import OutputError
from calotype.server import native
from calotype.server.desk import Desk
from calotype.server.fences import Fences
from calotype.server.run import Impatient
from calotype.server.settings import Limits, Settings
from calotype.server.store import Store
from calotype.tasks import picture
from calotype.tasks.request import Request


def test_every_job_of_a_batch_hears_of_a_full_disk(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [desk.submit(Request(prompts="a red apple", steps=1, seed=i), "one") for i in range(3)]

    def full(*_: object) -> None:
        raise OutputError("The job store cannot be written: disk full.")

    with monkeypatch.context() as patched:
        patched.setattr(Store, "_write", full)
        desk.worker.start()
        for job in jobs:
            done = over(desk, job)
            assert (done.state, done.whose) == ("failed", "server")
            assert "disk full" in str(done.error)
        with pytest.raises(OutputError, match="disk full"):
            desk.submit(Request(prompts="a red apple"), "one")
    again = desk.submit(Request(prompts="a red apple", steps=1), "one")
    assert over(desk, again).state == "done"
    assert desk.row.queued() == 0


def test_a_job_that_cannot_be_written_leaves_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OutputError("The job store cannot be written: disk full.")

    monkeypatch.setattr(Store, "_write", full)
    image = PIL.Image.new("RGB", (32, 32))
    with pytest.raises(OutputError):
        desk.submit(Request(prompts="a red apple", image=image), "one")
    assert not list((desk.settings.data / "uploads").iterdir())
    assert desk.row.queued() == 0


def test_a_watcher_that_leaves_is_forgotten(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gone in mid-stream: the job goes on to its end, and nothing of the watcher stays."""
    gate = Gate(monkeypatch)
    with live.client() as http:
        job = http.post("/v1/jobs", json={"prompts": "a red apple", "steps": 2}).json()["id"]
        with live.client() as other, other.stream("GET", f"/v1/jobs/{job}/events?previews=true") as events:
            lines = events.iter_lines()  # kept: httpx closes a stream whose lines nobody holds
            assert next(lines) == "event: job"
            assert live.desk.live.wants_preview(job)
        gate.go.set()
        until(lambda: http.get(f"/v1/jobs/{job}").json()["state"] == "done")
        until(lambda: not live.desk.live._watchers)
        assert not live.desk.live._curious
        assert not native._streams


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    """An application behind the server's own clock, which waits a third of a second."""
    monkeypatch.setattr(Impatient, "patience", 0.3)
    app = fastapi.FastAPI()
    app.get("/")(lambda: "here")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, http=Impatient, log_level="error", timeout_keep_alive=60)
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        until(lambda: running.started)
        yield listener.getsockname()
        running.should_exit = True
        thread.join()


@pytest.mark.parametrize("before", [0, 2])
def test_a_slow_loris_is_cut_off(impatient: tuple[str, int], before: int) -> None:
    """A head that trickles, at once or after requests that were answered on the same connection."""
    with socket.create_connection(impatient, timeout=20) as connection:
        for _ in range(before):
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b'"here"' in connection.recv(1000)
        connection.settimeout(0.05)
        head, closed = iter(b"GET / HTTP/1.1\r\n" + b"x" * 1000), False
        while not closed:
            try:
                connection.sendall(bytes([next(head)]))
                closed = connection.recv(1000) == b""
            except TimeoutError:
                continue
            except ConnectionError:
                closed = True


def test_bodies_are_bounded_together(tmp_path: Path) -> None:
    """Several uploads that each may be, but not all at once; room is there again when one has gone."""
    settings = Settings(tmp_path, limits=replace(Limits(), bodies=1000))
    go = asyncio.Event()

    async def app(_: Any, receive: Any, send: Any) -> None:
        await receive()
        await go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    fences = Fences(app, settings)

    async def ask(size: int) -> int:
        answers: list[Message] = []
        scope = {"type": "http", "path": "/v1/jobs", "method": "GET", "headers": [(b"host", b"localhost")]}

        async def receive() -> Message:
            return {"type": "http.request", "body": b"x" * size}

        async def send(message: Message) -> None:
            answers.append(message)

        await fences(scope, receive, send)
        return int(answers[0]["status"])

    async def all_of_them() -> None:
        first = asyncio.create_task(ask(600))
        await asyncio.sleep(0)
        assert await ask(600) == 503
        go.set()
        assert await first == 200
        assert await ask(600) == 200

    asyncio.run(all_of_them())


@pytest.mark.verify
def test_a_disk_that_fills_up(tiny_file: Path, tmp_path: Path) -> None:
    """Files may not grow beyond a bound, so that pictures of some size, and then the job store, cannot be
    written: what was accepted is done or reported, no file is half-written, and all goes on with room."""
    data = tmp_path / "data"
    with server(tiny_file, data, "--max-rate", "100000") as (process, client):
        wait(client, submit(client, steps=1), ("done",))
        bound = (data / "jobs.sqlite-wal").stat().st_size + 200_000
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (bound, resource.RLIM_INFINITY))
        small = [submit(client, steps=1, seed=i) for i in range(2)]
        large = [submit(client, steps=1, seed=i, width=512, height=512) for i in range(2)]
        for job in small:
            assert wait(client, job, ("done", "failed"))["state"] == "done"
        for job in large:
            found = wait(client, job, ("done", "failed"))
            assert found["state"] == "failed"
            assert "cannot be written" in found["error"]
            assert str(tmp_path) not in found["error"]  # nobody's business
        refused, accepted = 0, []
        while refused < 5:  # until the store itself is full
            answer = client.post("/v1/jobs", json={"prompts": "a red apple " * 40, "steps": 1})
            if answer.status_code == 202:
                accepted.append(answer.json()["id"])
            else:
                refused += 1
                assert (answer.status_code, "cannot be written" in answer.text) == (507, True)
                assert str(tmp_path) not in answer.text
        told = [wait(client, job, ("done", "failed")) for job in accepted]
        assert any(found["state"] == "failed" for found in told)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        assert wait(client, submit(client, steps=1), ("done", "failed"))["state"] == "done"
    with server(tiny_file, data) as (_, client):
        for job in accepted:  # what could not even be marked as failed is drawn now
            found = wait(client, job, ("done", "failed"))
            assert (found["state"] == "done") == (len(found["pictures"]) == 1)
        assert not list((data / "pictures").glob(".*"))
        for path in (data / "pictures").iterdir():
            picture.read(path)


@pytest.mark.verify
def test_ten_gigabytes(tiny_file: Path, tmp_path: Path) -> None:
    """Announced, and in chunks without end: refused after the limit, and memory is back at its level."""
    with server(tiny_file, tmp_path / "data", "--max-rate", "100000") as (process, client):
        inside = psutil.Process(process.pid)
        wait(client, submit(client, steps=1), ("done",))

        def chunks() -> Iterator[bytes]:
            for _ in range(10_000):
                nonlocal sent
                sent += 2**20
                yield b"x" * 2**20

        levels = []
        for _ in range(3):
            for path in ("/v1/jobs", "/v1/images/edits", "/v1/read", "/v1/images/generations"):
                for headers in ({"Content-Length": str(10**10)}, {}):
                    sent = 0
                    try:
                        with httpx.Client(base_url=client.base_url, trust_env=False, timeout=60) as other:
                            assert other.post(path, content=chunks(), headers=headers).status_code == 413
                    except httpx.TransportError:
                        pass  # closed while we still sent
                    assert sent < 2**27
            levels.append(inside.memory_info().rss)
        print(f"resident memory: {[round(level / 1e6) for level in levels]} MB")
        assert levels[2] < levels[0] + 2**23  # after one round the allocator has what it needs
        assert wait(client, submit(client, steps=1), ("done",))["error"] is None


@pytest.mark.verify
def test_connections_are_bounded(tiny_file: Path, tmp_path: Path) -> None:
    """The 513th is told so; when the others go, all is as before."""
    with server(tiny_file, tmp_path / "data") as (_, client):
        client.close()
        place = (client.base_url.host, int(client.base_url.port or 0))
        many = [socket.create_connection(place, timeout=20) for _ in range(512)]
        assert httpx.get(f"{client.base_url}/healthz", trust_env=False).status_code == 503
        for one in many:
            one.close()
        until(lambda: httpx.get(f"{client.base_url}/healthz", trust_env=False).status_code == 200)
