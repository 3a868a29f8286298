"""The guards over HTTP: verdicts in every dialect, words refused, logs without prompts, signed files."""

from __future__ import annotations

import base64
import io
import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import PIL.Image
import pytest
from tests.server.conftest import Live, live, run, tiny_settings

import calotype
from calotype.errors import InputError
from calotype.safety import content, provenance, watermark
from calotype.server.app import create
from calotype.server.settings import Settings
from calotype.tasks.finish import finished_restoration
from calotype.tasks.restoration import RestoredPicture

__all__ = ["live", "tiny_settings"]  # fixtures of the server's tests

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
    return ended(client, client.post("/v1/jobs", json=body).raise_for_status().json())


def ended(client: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
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


def photograph(size: tuple[int, int] = (128, 128)) -> str:
    buffer = io.BytesIO()
    rows = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    PIL.Image.fromarray(rows).resize(size, PIL.Image.Resampling.BICUBIC).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture
def withholding(tmp_path: Path, scored: Callable[[float], None]) -> Iterator[Live]:
    """The shipped models alone, and an owner who wants every guard."""
    scored(0.5)
    provenance.make(tmp_path / "key")
    signer = provenance.Signer(tmp_path / "key")
    safety = calotype.Safety(content_check="withhold", metadata="shareable", watermark=True, signer=signer)
    yield from run(Settings(tmp_path / "data", threads=1, safety=safety))


def test_what_is_restored(withholding: Live, scored: Callable[[float], None], tmp_path: Path) -> None:
    asked = {"task": "denoise", "image": photograph(), "sigma": 10}
    with withholding.client() as client:
        (picture,) = finished(client, asked)["pictures"]
        assert picture["content"] == {"decision": "passed", "score": 0.5, "threshold": content.THRESHOLD}
        out = tmp_path / "out.png"
        out.write_bytes(client.get(picture["url"]).content)
        image = PIL.Image.open(out)
        assert watermark.detect(image).found
        told = json.loads(image.info["calotype"])
        assert (told["watermark"], told["content"]["decision"]) == (watermark.NAME, "passed")
        assert told["settings"]["sigma"] == 10
        assert "model" not in told["settings"]
        assert "request" not in told
        found = provenance.read(out)
        assert found is not None
        assert found.state == "Valid"
        assert b"compositeWithTrainedAlgorithmicMedia" in out.read_bytes()

        scored(0.9)
        refused = client.post("/v1/jobs", json=asked)
        assert refused.status_code == 400
        assert "content check does not let the picture in" in refused.text


def test_a_restoration_that_is_withheld(scored: Callable[[float], None]) -> None:
    """The map of its samples is withheld with it; those that pass are shown."""
    scored(0.9)
    record = {"request": {"task": "denoise", "image": {"path": "", "sha256": "1"}}}
    image = PIL.Image.new("RGB", (16, 16), "red")
    found = [RestoredPicture(image, 0, record), RestoredPicture(image, 1, record, scale="1 of 255")]
    other: Any = SimpleNamespace(weights_hash="somebody's own")
    for safety, decision in (
        (calotype.Safety(content_check="auto"), "withheld"),
        (calotype.Safety(content_check="report"), "flagged"),
    ):
        pictures = list(finished_restoration(found, other, safety))
        assert [picture.content and picture.content.decision for picture in pictures] == [decision] * 2
        grey = pictures[1].image.getpixel((0, 0)) == (128, 128, 128)
        assert grey == (decision == "withheld")
    pictures = list(finished_restoration(found, other, calotype.Safety(content_check="off")))
    assert [picture.content for picture in pictures] == [None, None]


def test_a_file_for_sharing(live: Live) -> None:
    """A client may ask for less than the owner lets be told; the pixels are the same."""
    with live.client() as client:
        for body in (BODY, {"task": "denoise", "image": photograph((32, 32)), "sigma": 10}):
            (picture,) = finished(client, body)["pictures"]
            full, less = (
                client.get(picture["url"], params={"metadata": kind}).raise_for_status().content
                for kind in ("full", "shareable")
            )
            images = [PIL.Image.open(io.BytesIO(data)) for data in (full, less)]
            assert images[0].tobytes() == images[1].tobytes()
            records = [json.loads(image.info["calotype"]) for image in images]
            assert records[1]["settings"].keys() <= records[0]["request"].keys()
            assert "request" not in records[1]
            assert b"secret" not in less
        assert client.get(picture["url"], params={"metadata": "none"}).status_code == 422


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
