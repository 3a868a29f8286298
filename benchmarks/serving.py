"""The server under load, beside a plain FastAPI wrapper round diffusers with the same model; and at rest.

    python benchmarks/serving.py load OUT [--legs one many] [--jobs 500] [-- --replicas 2 --threads 1]
    python benchmarks/serving.py load OUT --legs peer-one peer-many --peer FOLDER
    python benchmarks/serving.py check OUT --threads 1 [--part 0/2]
    python benchmarks/serving.py rest [-- --threads 1]

`load` keeps every PNG in OUT and, as soon as a leg is over, its times in OUT/load.json; called again, it adds
to them, and `--first` and `--jobs` say with which requests.  `check` then draws each request alone and
compares pixels.  FOLDER is what `calotype convert icons FOLDER --format diffusers` writes.  What follows `--`
are options of `calotype serve`.  `rest`: memory over 1,000 jobs, the time to cancel, an idle server's share
of a core.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "pink", "black")
THINGS = ("apple", "car", "house", "fish", "star", "tree", "clock", "cup", "key", "bird", "heart", "boat")
WARM = 10**6
"""Seeds from here on are not counted."""

SMALL = {"width": 32, "height": 32}
"""For a thousand jobs."""

Draw = Callable[[httpx.Client, dict[str, Any]], bytes]


def asked(number: int, steps: int) -> dict[str, Any]:
    """The request of a number: no two are alike, and their prompts are of several lengths."""
    prompt = f"a {COLOURS[number % 8]} {THINGS[number % 12]}"
    return {"prompts": prompt, "seed": number, "steps": steps, "model": "icons"}


@contextmanager
def served(command: list[str], line: str) -> Iterator[tuple[psutil.Process, str]]:
    """A process, and its address as it prints it in a line that matches `line`."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        found = next(filter(None, (re.search(line, said) for said in process.stdout)), None)
        if found is None:
            raise SystemExit(f"It does not start; see why: {' '.join(command)}")
        while True:
            try:
                if httpx.get(f"{found.group()}/readyz", trust_env=False).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        yield psutil.Process(process.pid), found.group()
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def calotype(options: list[str], data: Path) -> Iterator[tuple[psutil.Process, str]]:
    command = [sys.executable, "-m", "calotype", "serve", "--port", "0", "--data", str(data)]
    with served([*command, "--max-rate", "1000000", *options], r"http://localhost:\d+") as found:
        yield found


def job(http: httpx.Client, request: dict[str, Any]) -> bytes:
    """A job watched to its end, and its picture."""
    name = http.post("/v1/jobs", json=request).raise_for_status().json()["id"]
    with http.stream("GET", f"/v1/jobs/{name}/events") as events:
        for line in events.iter_lines():
            if line == "event: end":
                break
    return http.get(f"/v1/pictures/{name}/0.png").raise_for_status().content


def plain(http: httpx.Client, request: dict[str, Any]) -> bytes:
    return http.post("/draw", json=request).raise_for_status().content


def drawn(
    address: str, draw: Draw, requests: list[dict[str, Any]], clients: int
) -> tuple[dict[int, bytes], dict[str, Any]]:
    """Pictures by seed, and how long they took; every client asks again as soon as it is served."""
    pictures: dict[int, bytes] = {}
    waits: list[float] = []
    lock, rest = threading.Lock(), list(reversed(requests))

    def client() -> None:
        with httpx.Client(base_url=address, timeout=600, trust_env=False) as http:
            while True:
                with lock:
                    if not rest:
                        return
                    request = rest.pop()
                began = time.perf_counter()
                picture = draw(http, request)
                with lock:
                    assert request["seed"] not in pictures
                    pictures[request["seed"]] = picture
                    waits.append(time.perf_counter() - began)

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        try:
            for done in [pool.submit(client) for _ in range(clients)]:
                done.result()
        finally:
            rest.clear()
    return pictures, {"clients": clients, "seconds": time.perf_counter() - began, "waits": waits}


LEGS = {"one": (job, 1), "many": (job, 64), "peer-one": (plain, 1), "peer-many": (plain, 64)}
"""How a job is asked for, and by how many clients at once."""


def load(chosen: argparse.Namespace) -> None:
    chosen.out.mkdir(parents=True, exist_ok=True)
    place = chosen.out / "load.json"
    found: dict[str, Any] = {"steps": chosen.steps, "options": chosen.options, "legs": {}}
    if place.exists():
        known = json.loads(place.read_text(encoding="utf-8"))
        if known["steps"] != chosen.steps or known["options"] != chosen.options:
            raise SystemExit(f"{place} is of other steps or options; give another folder.")
        found = known
    ours = [leg for leg in chosen.legs if not leg.startswith("peer")]
    peers = [leg for leg in chosen.legs if leg.startswith("peer")]
    if ours:
        with tempfile.TemporaryDirectory() as data, calotype(chosen.options, Path(data)) as (_, address):
            for leg in _warmed(ours, address, job, chosen.steps, 8):
                before = (_kept(data), _batches(address))
                pictures = _leg(chosen, found, leg, address)
                lost = len(pictures) - (_kept(data) - before[0])
                found["legs"][leg]["lost"] = found["legs"][leg].get("lost", 0) + lost
                if leg == "many":
                    for seed, picture in pictures.items():
                        (chosen.out / f"{seed}.png").write_bytes(picture)
                    print(f"{_batches(address) - before[1]:g} batches")
                place.write_text(json.dumps(found) + "\n", encoding="utf-8")
    if peers:
        command = [sys.executable, __file__, "peer", str(chosen.peer)]
        with served(command, r"http://127.0.0.1:\d+") as (_, address):
            for leg in _warmed(peers, address, plain, chosen.steps, 2):
                _leg(chosen, found, leg, address)
                place.write_text(json.dumps(found) + "\n", encoding="utf-8")
    rates = {leg: told["pictures"] / told["seconds"] for leg, told in found["legs"].items()}
    for leg, told in found["legs"].items():
        waits = told["waits"]
        print(
            f"{leg}: {told['pictures']} jobs of {chosen.steps} steps, {rates[leg]:.3f} pictures/s, wait "
            f"{statistics.median(waits):.2f} s in the median, {statistics.quantiles(waits, n=20)[-1]:.2f} s "
            f"at the 95th percentile, {told.get('lost', 0)} lost"
        )
    for leg, other in (("many", "one"), ("one", "peer-one"), ("many", "peer-many")):
        if leg in rates and other in rates:
            print(f"{leg} against {other}: {rates[leg] / rates[other]:.2f}")


def _leg(chosen: argparse.Namespace, found: dict[str, Any], leg: str, address: str) -> dict[int, bytes]:
    """A leg's requests drawn, its figures added to those it has."""
    draw, clients = LEGS[leg]
    jobs = chosen.jobs if leg == "many" else chosen.alone
    requests = [asked(number, chosen.steps) for number in range(chosen.first, chosen.first + jobs)]
    pictures, told = drawn(address, draw, requests, clients)
    known = found["legs"].setdefault(leg, {"clients": clients, "pictures": 0, "seconds": 0.0, "waits": []})
    known["pictures"] += len(pictures)
    for name in ("seconds", "waits"):
        known[name] += told[name]
    return pictures


def _warmed(legs: list[str], address: str, draw: Draw, steps: int, count: int) -> Iterator[str]:
    drawn(address, draw, [asked(WARM + i, steps) for i in range(count)], count)
    yield from legs


def _kept(data: str) -> int:
    return len(list(Path(data, "pictures").iterdir()))


def _batches(address: str) -> float:
    return _counted(httpx.get(f"{address}/metrics", trust_env=False).text, "batches")


def check(chosen: argparse.Namespace) -> None:
    """Every picture against the same request alone, and against the request that was sent."""
    import torch

    from calotype.checkpoints import native, shelf
    from calotype.tasks import picture
    from calotype.tasks.generate import generate
    from calotype.tasks.picture import Picture

    torch.set_num_threads(chosen.threads)  # the last bits of sums depend on how many share them
    model = native.load(shelf.shipped()["icons"])
    steps = json.loads((chosen.out / "load.json").read_text(encoding="utf-8"))["steps"]
    part, parts = map(int, chosen.part_of.split("/"))
    same, seen, paths = 0, 0, sorted(chosen.out.glob("*.png"))[part::parts]
    try:
        for path in paths:
            image, record = picture.read(path)
            sent = asked(int(path.stem), steps)
            assert (record.request.prompts[0], record.request.seed) == (sent["prompts"], sent["seed"]), path
            (one,) = [event for event in generate(model, record.request) if isinstance(event, Picture)]
            seen += 1
            if one.image.tobytes() == image.tobytes():
                same += 1
            else:
                print(f"{path} differs")
    finally:  # also where it is cut short
        print(f"{same} of {seen} pictures are, to the bit, those of the same request alone", flush=True)


def rest(chosen: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as data, calotype(chosen.options, Path(data)) as (process, address):
        http = httpx.Client(base_url=address, timeout=600, trust_env=False)
        early = 0
        for number in range(chosen.jobs):
            job(http, asked(number, 1) | SMALL)
            if number == 99:
                early = process.memory_info().rss
        late = process.memory_info().rss
        print(f"resident: {early / 1e6:.1f} MB after 100 jobs, {late / 1e6:.1f} MB after {chosen.jobs}")
        answers, ends, steps = [], [], []
        for number in range(20):
            name = http.post("/v1/jobs", json=asked(number, 100)).json()["id"]
            while http.get(f"/v1/jobs/{name}").json()["progress"]["step"] < 3:
                time.sleep(0.01)
            before = _metric(http, "steps")
            began = time.perf_counter()
            state = http.post(f"/v1/jobs/{name}/cancel").json()["state"]
            answers.append(time.perf_counter() - began)
            assert state == "cancelled"
            while _metric(http, "batches") < chosen.jobs + number + 1:
                time.sleep(0.005)
            ends.append(time.perf_counter() - began)
            steps.append(_metric(http, "steps") - before)
        print(
            f"cancelling 20 jobs: answered in at most {max(answers) * 1e3:.0f} ms, worker free in at most "
            f"{max(ends) * 1e3:.0f} ms, at most {max(steps):g} further steps"
        )
        before = _seconds(process)
        time.sleep(30)
        print(f"idle: {(_seconds(process) - before) / 30:.2%} of a core")


def _metric(http: httpx.Client, name: str) -> float:
    return _counted(http.get("/metrics").text, name)


def _counted(told: str, name: str) -> float:
    (value,) = re.findall(rf"^calotype_{name}_total (\S+)", told, re.MULTILINE)
    return float(value)


def _seconds(process: psutil.Process) -> float:
    """CPU seconds of a process."""
    times = process.cpu_times()
    return times.user + times.system


def peer(folder: Path) -> None:
    """What one writes in ten minutes: diffusers' pipeline behind FastAPI, one picture at a time."""
    import io
    import socket

    import fastapi
    import torch
    import uvicorn
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    app, lock = fastapi.FastAPI(), threading.Lock()

    @app.get("/readyz")
    def ready() -> str:
        return "ready"

    @app.post("/draw")
    def draw(body: dict[str, Any]) -> fastapi.Response:
        with lock:  # a pipeline keeps its scheduler's state
            image = pipe(
                body["prompts"],
                num_inference_steps=body["steps"],
                guidance_scale=4.0,
                generator=torch.Generator().manual_seed(body["seed"]),
            ).images[0]
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return fastapi.Response(buffer.getvalue(), media_type="image/png")

    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="error")).run([listener])


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers end with it
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    given = sys.argv[1:]
    cut = given.index("--") if "--" in given else len(given)
    one = parts.add_parser("load")
    one.add_argument("out", type=Path)
    one.add_argument("--legs", nargs="+", choices=LEGS, default=["one", "many"])
    one.add_argument("--jobs", type=int, default=500, help="of the leg many")
    one.add_argument("--alone", type=int, default=100, help="jobs of the other legs")
    one.add_argument("--first", type=int, default=0, help="number of the first request")
    one.add_argument("--steps", type=int, default=4)
    one.add_argument("--peer", type=Path, help="the model as a diffusers folder")
    other = parts.add_parser("check")
    other.add_argument("out", type=Path)
    other.add_argument("--threads", type=int, default=1)
    other.add_argument("--part", dest="part_of", default="0/1", help="which of how many parts of them")
    parts.add_parser("rest").add_argument("--jobs", type=int, default=1000)
    parts.add_parser("peer").add_argument("folder", type=Path)
    chosen = parser.parse_args(given[:cut])
    chosen.options = given[cut + 1 :]
    if chosen.part == "peer":
        peer(chosen.folder)
    else:
        {"load": load, "check": check, "rest": rest}[chosen.part](chosen)


if __name__ == "__main__":
    main()
