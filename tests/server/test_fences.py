"""What the server refuses, each with one sentence, before any work."""

from __future__ import annotations

import io
import random
import re
import socket
import struct
import time
import zlib
from pathlib import Path

import httpx
import PIL.Image
import pytest
from tests.server.conftest import TOKEN, Live, run

from calotype.cli import main as cli
from calotype.server.fences import Rates
from calotype.server.refusal import Refusal
from calotype.server.settings import Limits, Settings
from calotype.server.uploads import told
from calotype.tasks.request import Request

OWN = {"Authorization": f"Bearer {TOKEN}"}


def test_the_token(small: Live) -> None:
    with small.client() as http:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic !"}):
            for path in ("/v1/jobs", "/metrics", "/openapi.json", "/sdapi/v1/options"):
                answer = http.get(path, headers=headers)
                assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
                assert TOKEN not in answer.text
        for path in ("/", "/page/page.js", "/healthz", "/readyz"):
            assert http.get(path).status_code == 200
        assert http.get("/v1/jobs", headers=OWN).status_code == 200
        assert http.get("/v1/jobs", auth=("anyone", TOKEN)).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "[::1"}, 403),
        ({"Host": "localhost:1"}, 200),
        ({"Host": "calotype.example"}, 200),
        ({"Host": "192.168.0.7:7860"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Host": "localhost:1", "Origin": "http://localhost:1"}, 200),
    ],
)
def test_host_and_origin(small: Live, headers: dict[str, str], status: int) -> None:
    with small.client() as http:
        answer = http.get("/v1/jobs", headers=OWN | headers)
        assert answer.status_code == status
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"prompts": "x", "steps": 21}, 422, "for 21 steps"),
        ({"prompts": "x", "count": 5}, 422, "for 5 pictures"),
        ({"prompts": "x", "width": 64, "height": 64}, 422, "4096 pixels a picture"),
        ({"prompts": "x", "width": 31}, 422, "nearest are 28 and 32"),
        ({"prompts": "x", "sampler": "eulr"}, 422, "did you mean 'euler'"),
        ({"prompts": "x", "stepz": 3}, 422, "did you mean 'steps'"),
        ({"prompts": "x", "model": "../../etc/passwd"}, 404, "no model '../../etc/passwd'"),
        ({"prompts": ""}, 422, "prompt is empty"),
        ({}, 422, "no prompts"),
        ([], 422, "no JSON object"),
        ({"prompts": "x" * 3000}, 413, "at most 2000 bytes"),
    ],
)
def test_requests_that_are_not_accepted(small: Live, body: object, status: int, message: str) -> None:
    with small.client(headers=OWN) as http:
        answer = http.post("/v1/jobs", json=body)
        assert answer.status_code == status
        sentence = answer.json()["error"]["message"]
        assert message in sentence
        assert "\n" not in sentence
        assert http.get("/v1/jobs").json()["jobs"] == []


def test_no_json(small: Live) -> None:
    with small.client(headers=OWN | {"Content-Type": "application/json"}) as http:
        for content in (
            b"",
            b"{",
            b"\xff",
            b"[" * 1900,
            b'{"prompts": NaN}',
            b'{"prompts":"\\ud800"}',
            b'{"prompts":"x","guidance":NaN}',
        ):
            assert http.post("/v1/jobs", content=content).status_code in (400, 422), content
        assert http.post(
            "/v1/jobs", content=b'{"prompts":"x"}', headers={"Content-Type": "text/plain"}
        ).is_error


def test_a_field_that_names_a_file_is_never_taken(small: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calotype.server.desk.TAKEN", frozenset({"prompts"}))
    with pytest.raises(Refusal, match="does not take steps"):
        small.desk.submit(Request(prompts="x", steps=3), "one")


def test_names_of_files_are_never_taken(small: Live) -> None:
    """However they are spelt, and for reading and deleting alike."""
    with small.client(headers=OWN) as http:
        for name in (
            "../jobs.sqlite",
            "..%2fjobs.sqlite",
            "%2e%2e/lock",
            "%2fetc%2fpasswd",
            "a" * 33,
            "A" * 32,
        ):
            for path in (f"/v1/pictures/{name}/0.png", f"/v1/pictures/{name}", f"/v1/jobs/{name}"):
                assert http.get(path).status_code in (404, 422), path
                assert http.delete(path).status_code in (404, 405, 422), path
            for path in (f"/page/{name}", f"/page/..%2f{name}", "/page/%2e%2e/app.py", "/page//etc/passwd"):
                assert http.get(path).status_code == 404, path
        assert (small.desk.settings.data / "jobs.sqlite").exists()


def test_streams_are_bounded(tiny_file: Path, tmp_path: Path) -> None:
    for live in run(Settings(tmp_path, {"tiny": tiny_file}, "tiny", limits=Limits(streams_by_client=1))):
        live.desk.worker.stop()  # so that the job stays
        with live.client() as http, live.client() as other:
            job = http.post("/v1/jobs", json={"prompts": "x"}).json()["id"]
            with http.stream("GET", f"/v1/jobs/{job}/events") as events:
                lines = events.iter_lines()  # kept: httpx closes a stream whose lines nobody holds
                assert next(lines) == "event: job"
                assert other.get(f"/v1/jobs/{job}/events").status_code == 429
        live.desk.stopping.set()


def test_the_table_of_fences_names_tests() -> None:
    told = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", told))
    here = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    assert len(named) > 15
    assert {name for name in named if f"def {name}(" not in here} == set()


def test_the_queue_is_bounded(small: Live) -> None:
    with small.client(headers=OWN) as http:
        small.desk.worker.stop()  # so that nothing leaves the queue
        assert http.get("/readyz").status_code == 503
        assert http.post("/v1/jobs", json={"prompts": "x", "count": 4}).status_code == 202
        answer = http.post("/v1/jobs", json={"prompts": "x", "count": 2})
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "10")


def test_the_rate_is_bounded() -> None:
    rates = Rates(3)
    assert [rates.wait("one") for _ in range(3)] == [0, 0, 0]
    assert 0 < rates.wait("one") <= 20
    assert rates.wait("two") == 0


def test_a_body_without_end(small: Live) -> None:
    """10 GB announced, chunks without end, and one that trickles: refused, and little of it is read."""
    host, _, port = small.address.removeprefix("http://").rpartition(":")
    head = f"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
    for rest, status in (
        ("Content-Length: 10000000000\r\n\r\n", b"413"),
        ("Transfer-Encoding: chunked\r\n\r\n" + "400\r\n" + "x" * 1024 + "\r\n400\r\n" + "x" * 1024, b"413"),
        ("Content-Length: 100\r\n\r\n{", b"408"),
    ):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall((head + rest).encode())
            assert status in connection.recv(100)


def mutated(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randint(1, 20)):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    if chance.random() < 0.3:
        del changed[chance.randrange(len(changed)) :]
    return bytes(changed)


def test_a_thousand_spoilt_uploads() -> None:
    chance, statuses = random.Random(1), set()
    image = PIL.Image.effect_noise((40, 30), 90).convert("RGB")
    for form in ("PNG", "JPEG", "WEBP"):
        buffer = io.BytesIO()
        image.save(buffer, form)
        for _ in range(334):
            try:
                told(mutated(buffer.getvalue(), chance), 2**20)
            except Refusal as refusal:
                statuses.add(refusal.status)
    assert 422 in statuses
    assert statuses <= {413, 422}


def test_bombs(small: Live) -> None:
    buffer = io.BytesIO()
    PIL.Image.new("1", (5000, 5000)).save(buffer, "PNG")
    start, size = buffer.getvalue(), struct.pack(">II", 60_000, 60_000)
    header = b"IHDR" + size + start[24:29]
    lying = start[:12] + header + struct.pack(">I", zlib.crc32(header)) + start[33:]
    with pytest.raises(Refusal, match="too large"):
        told(lying, 2**24)
    with pytest.raises(Refusal, match="too large"):
        told(buffer.getvalue(), 2**24)
    gif = io.BytesIO()
    PIL.Image.new("RGB", (8, 8)).save(gif, "GIF")
    with small.client(headers=OWN) as http:
        answer = http.post("/v1/read", content=buffer.getvalue())
        assert answer.status_code == 413
        assert http.post("/v1/read", content=gif.getvalue()).status_code == 422
        assert http.post("/v1/read", content=b"").status_code == 422
        assert http.post("/sdapi/v1/png-info", json={"image": "no base64!"}).json()["error"]


def test_answers_are_quick_while_it_draws(live: Live) -> None:
    """A cancel comes back while a batch is being drawn, and the worker leaves it."""
    with live.client() as http:
        body = {"prompts": "x", "count": 16, "steps": 150, "width": 128, "height": 128}
        job = http.post("/v1/jobs", json=body).json()["id"]
        while http.get(f"/v1/jobs/{job}").json()["state"] == "queued":
            time.sleep(0.01)
        assert http.post(f"/v1/jobs/{job}/cancel").json()["state"] == "cancelled"
        while http.get("/sdapi/v1/progress").json()["state"]["job_count"]:
            time.sleep(0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "give a token"),
        (["--host", "calotype.example"], "give a token"),
        (["--token-file", "missing"], "cannot be read"),
        (["--token-file", "short"], "has 3 characters"),
        (["--port", "70000"], "port is 70000"),
        (["--threads", "0"], "threads is 0"),
        (["--replicas", "0"], "replicas is 0"),
        (["--precision", "int8"], "precision is 'int8'"),
        (["--device", "abacus"], "no device 'abacus'"),
        (["--max-steps", "0"], "limit of steps is 0"),
        (["--model", "nowhere/at.safetensors"], "no file"),
        (["--model", "short"], "short"),
        (["--model", "icons", "--model", "icons"], "Two models are called 'icons'"),
        (["--default", "nobody"], "no model 'nobody'"),
        (["--data", "short"], "cannot be used"),
        (["TOKEN=short", "--host", "0.0.0.0"], "The token in CALOTYPE_TOKEN has 5 characters"),
    ],
)
def test_a_server_that_does_not_start(
    tmp_path: object,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(str(tmp_path))
    monkeypatch.delenv("CALOTYPE_TOKEN", raising=False)
    if arguments[0].startswith("TOKEN="):
        monkeypatch.setenv("CALOTYPE_TOKEN", arguments.pop(0).removeprefix("TOKEN="))
    with open("short", "w", encoding="utf-8") as file:
        file.write("abc")
    assert cli.run(["serve", "--data", "data", *arguments]) != 0
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_port_that_is_taken(live: Live, tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    port = live.address.rpartition(":")[2]
    assert cli.run(["serve", "--data", f"{tmp_path}/data", "--port", port]) == 1
    assert "cannot be listened on" in capsys.readouterr().err
    assert httpx.get(f"{live.address}/healthz", trust_env=False).text == "ok\n"
