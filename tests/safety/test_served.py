"""The guards over HTTP: verdicts in every dialect, words refused, logs without prompts, signed files."""

from __future__ import annotations

import base64
import io
import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import PIL.Image
import pytest
from tests.server.conftest import Live, run

import calotype
from calotype.errors import InputError
from calotype.safety import content, provenance, watermark
from calotype.server.app import create
from calotype.server.settings import Settings

BODY: dict[str, Any] = {"prompts": ["a secret pear"], "steps": 1, "seed": 7, "width": 128, "height": 128}


@pytest.fixture
def guarded(tiny_file: Path, tmp_path: Path, scored: Callable[[float], None]) -> Iterator[Live]:
    scored(0.5)
    words, key = tmp_path / "words.txt", tmp_path / "key"
    words.write_text("apple\n")
    provenance.make(key)
    safety = calotype.Safety(
        block_list=calotype.BlockList(words),
        metadata="shareable",
        watermark=True,
        signer=provenance.Signer(key),
    )
    yield from run(Settings(tmp_path / "data", {"tiny": tiny_file}, "tiny", threads=1, safety=safety))


def finished(client: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
    job: dict[str, Any] = client.post("/v1/jobs", json=body).raise_for_status().json()
    while job["state"] in ("queued", "running"):
        time.sleep(0.02)
        job = client.get(f"/v1/jobs/{job['id']}").json()
    return job


def test_what_is_drawn(
    guarded: Live, scored: Callable[[float], None], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG, "calotype")
    with guarded.client() as client:
        (picture,) = finished(client, BODY)["pictures"]
        assert picture["content"] == {"decision": "passed", "score": 0.5, "threshold": content.THRESHOLD}
        data = client.get(picture["url"]).content
        out = tmp_path / "out.png"
        out.write_bytes(data)
        image = PIL.Image.open(io.BytesIO(data))
        assert watermark.detect(image).found
        found = provenance.read(out)
        assert found is not None
        assert found.state == "Valid"
        assert b"secret" not in data
        assert json.loads(image.info["calotype"])["watermark"] == watermark.NAME
        scored(0.9)
        (picture,) = finished(client, BODY)["pictures"]
        assert picture["content"]["decision"] == "withheld"
        image = PIL.Image.open(io.BytesIO(client.get(picture["url"]).content))
        assert image.getcolors() == [(128 * 128, (128, 128, 128))]
        asked = {"prompt": "a secret pear", "size": "128x128", "steps": 1, "seed": 7}
        (one,) = client.post("/v1/images/generations", json=asked).raise_for_status().json()["data"]
        assert one["content"]["decision"] == "withheld"
        assert PIL.Image.open(io.BytesIO(base64.b64decode(one["b64_json"]))).getcolors() == image.getcolors()
        asked = {"prompt": "a secret pear", "steps": 1, "seed": 7, "width": 128, "height": 128}
        told = client.post("/sdapi/v1/txt2img", json=asked).raise_for_status().json()
        assert json.loads(told["info"])["content"][0]["decision"] == "withheld"
    assert "secret" not in caplog.text


def test_words(guarded: Live) -> None:
    with guarded.client() as client:
        for path, body in (
            ("/v1/jobs", BODY | {"prompts": ["an ＡPPLE"]}),
            ("/v1/images/generations", {"prompt": "an apple"}),
            ("/sdapi/v1/txt2img", {"prompt": "an ap(ple:1.2)"}),
        ):
            answer = client.post(path, json=body)
            assert answer.status_code == 400, path
            assert "block list" in answer.text
        assert client.get("/v1/jobs").json()["jobs"] == []


def test_no_server_without_the_check(
    tiny_file: Path, tmp_path: Path, scored: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(0.0)
    monkeypatch.setattr(content, "installed", lambda: False)
    with pytest.raises(InputError, match=r"install it with pip install 'calotype\[safety\]', or turn it off"):
        create(Settings(tmp_path / "data", {"tiny": tiny_file}, "tiny"))
