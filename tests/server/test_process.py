"""`calotype serve` as a process: killed, told to stop, idle; and 2,000 requests made from its schema."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from calotype.checkpoints import native
from calotype.tasks import picture
from calotype.tasks.generate import generate
from calotype.tasks.picture import Picture

pytestmark = pytest.mark.verify


@contextmanager
def server(model: Path, data: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    command = [sys.executable, "-m", "calotype", "serve", "--model", f"tiny={model}", "--default", "tiny"]
    process = subprocess.Popen(
        [*command, "--data", str(data), "--port", "0", "--threads", "1", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    found = next(filter(None, (re.search(r"http://localhost:\d+", line) for line in process.stdout)))
    try:
        with httpx.Client(base_url=found.group(), timeout=60, trust_env=False) as client:
            while client.get("/readyz").status_code != 200:
                time.sleep(0.05)
            yield process, client
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def submit(client: httpx.Client, **fields: Any) -> str:
    answer = client.post("/v1/jobs", json={"prompts": "a red apple", **fields})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def wait(client: httpx.Client, job: str, states: tuple[str, ...]) -> dict[str, Any]:
    while True:
        found: dict[str, Any] = client.get(f"/v1/jobs/{job}").json()
        if found["state"] in states:
            return found
        time.sleep(0.05)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_what_was_accepted_is_finished(tiny_file: Path, tmp_path: Path, how: signal.Signals) -> None:
    data = tmp_path / "data"
    with server(tiny_file, data) as (process, client):
        jobs = [submit(client, count=6, steps=40, seed=i, width=64, height=64) for i in range(5)]
        while not client.get(f"/v1/jobs/{jobs[0]}").json()["pictures"]:
            time.sleep(0.01)
        process.send_signal(how)
        code = process.wait(60)
        assert code == -how if how == signal.SIGKILL else code in (0, -how)
    left = list((data / "pictures").glob("*.png"))
    assert 0 < len(left) < 30
    for path in left:
        picture.read(path)  # none is half-written
    with server(tiny_file, data) as (_, client):
        for job in jobs:
            assert wait(client, job, ("done", "failed"))["error"] is None
    assert len(list((data / "pictures").iterdir())) == 30
    model = native.load(tiny_file)
    for i, job in enumerate(jobs):
        image, record = picture.read(data / "pictures" / f"{job}-5.png")
        assert record.request.seed == i + 5
        (alone,) = [event for event in generate(model, record.request) if isinstance(event, Picture)]
        assert alone.image.tobytes() == image.tobytes()


def test_memory_and_rest(tiny_file: Path, tmp_path: Path) -> None:
    """1,000 jobs: memory grows by less than 5 % after the first 100; then less than 1 % of a core."""
    with server(tiny_file, tmp_path / "data", "--max-rate", "100000") as (process, client):
        inside = psutil.Process(process.pid)
        early = 0
        for i in range(1000):
            job = submit(client, steps=1, seed=i)
            wait(client, job, ("done",))
            if i == 100:
                early = inside.memory_info().rss
        late = inside.memory_info().rss
        print(f"resident memory {early / 1e6:.0f} MB after 100 jobs, {late / 1e6:.0f} MB after 1,000")
        assert late < 1.05 * early
        before = sum(inside.cpu_times()[:2])
        time.sleep(20)
        share = (sum(inside.cpu_times()[:2]) - before) / 20
        print(f"idle: {share:.2%} of a core")
        assert share < 0.01


def test_two_thousand_requests_from_the_schema(tiny_file: Path, tmp_path: Path) -> None:
    """No 5xx; the limits are low, so that what is accepted is drawn quickly."""
    limits = ("--max-rate", "1000000", "--max-steps", "2", "--max-pixels", "4096", "--max-pictures", "2")
    command = ["-m", "schemathesis.cli", "run", "--checks", "not_a_server_error", "--max-examples", "75"]
    with server(tiny_file, tmp_path / "data", *limits) as (process, client):
        done = subprocess.run(
            [
                sys.executable,
                *command,
                "--no-color",
                "--request-timeout",
                "60",
                f"{client.base_url}/openapi.json",
            ],
            capture_output=True,
            text=True,
            timeout=840,
            cwd=tmp_path,
            env={**os.environ, "COLUMNS": "200"},
        )
        print(done.stdout[-4000:])
        assert process.poll() is None
        assert client.get("/readyz").status_code == 200
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    cases = sum(int(count.replace(",", "")) for count in re.findall(r"([\d,]+) generated", done.stdout))
    assert cases >= 2000
