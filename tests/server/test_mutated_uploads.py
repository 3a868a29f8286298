"""Damaged PNG, JPEG and WebP uploads at every door: a clear answer, no crash, no 5xx, memory bounded."""

from __future__ import annotations

import base64
import io
import json
import resource
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import PIL.Image
import pytest
from tests.server.conftest import Live, run

from calotype.server.settings import Limits, Settings

QUICK, ALL = 32, 1000
PIXELS = 2**20
MEMORY = 2**27
"""Bytes by which the highest memory may rise: some copies of the largest picture that is read."""


@pytest.fixture(scope="module")
def doors(tiny_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    limits = Limits(pixels=64 * 64, upload_pixels=PIXELS, submissions_a_minute=1e9)
    folder = tmp_path_factory.mktemp("doors")
    yield from run(Settings(folder, {"tiny": tiny_file}, "tiny", threads=1, limits=limits))


def seeds() -> list[bytes]:
    """Small pictures of every kind that the three formats know."""
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 4), dtype=np.uint8)
    colour = PIL.Image.fromarray(pixels)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # turned
    kinds: list[tuple[PIL.Image.Image, str, dict[str, Any]]] = [
        (colour, "PNG", {}),
        (colour.convert("P"), "PNG", {"transparency": 0}),
        (colour.convert("L"), "PNG", {"exif": exif}),
        (colour.convert("1"), "PNG", {}),
        (PIL.Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), "PNG", {}),
        (colour, "PNG", {"save_all": True, "append_images": [colour.rotate(180)]}),
        (colour.convert("RGB"), "JPEG", {"exif": exif}),
        (colour.convert("RGB"), "JPEG", {"progressive": True}),
        (colour.convert("CMYK"), "JPEG", {}),
        (colour.convert("L"), "JPEG", {"quality": 20}),
        (colour, "WEBP", {"lossless": True}),
        (colour.convert("RGB"), "WEBP", {"exif": exif}),
        (colour, "WEBP", {"save_all": True, "append_images": [colour.rotate(180)]}),
    ]
    found = []
    for image, form, options in kinds:
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        found.append(buffer.getvalue())
    return found


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Cut, flipped, blanked, swollen, doubled, or with a length or a size that lies; one to three of them."""
    for _ in range(int(rng.integers(1, 4))):
        found = bytearray(data)
        size = len(found)
        start = int(rng.integers(0, size)) if rng.random() < 0.6 else int(rng.integers(0, min(64, size)))
        span = int(rng.integers(1, 33))
        match int(rng.integers(0, 8)):
            case 0:
                found = found[:start]
            case 1:
                found[start] ^= 1 << int(rng.integers(0, 8))
            case 2:
                found[start : start + span] = bytes(len(found[start : start + span]))
            case 3:
                found[start : start + 4] = rng.choice([0, 1, 0x7F, 0xFF], 4).astype(np.uint8).tobytes()
            case 4:
                found[start:start] = rng.bytes(span)
            case 5:
                found[start:start] = found[start : start + 8 * span]
            case 6:
                del found[start : start + span]
            case _:
                found[16:24] = rng.choice([0, 0, 1, 255, 32], 8).astype(np.uint8).tobytes()  # a PNG's sides
        data = bytes(found) or b"\0"
    return data


def knock(http: httpx.Client, door: int, data: bytes) -> httpx.Response:
    """The upload at one of the doors; a job that is let in is forgotten again."""
    text = base64.b64encode(data).decode()
    drawn = {"prompt": "a red apple", "steps": 1}
    asked = {"prompts": "a red apple", "steps": 1}
    part = ("x.png", data)
    match door % 8:
        case 0:
            return http.post("/v1/read", content=data)
        case 1:
            return http.post("/sdapi/v1/png-info", json={"image": text})
        case 2:
            answer = http.post("/v1/jobs", data={"request": json.dumps(asked)}, files={"image": part})
        case 3:
            answer = http.post("/v1/jobs", json={**asked, "image": text, "mask": text})
        case 4:
            answer = http.post("/v1/jobs", json={"task": "denoise", "image": text})
        case 5:
            form = {**drawn, "response_format": "b64_json"}
            return http.post("/v1/images/edits", data=form, files={"image": part, "mask": part})
        case 6:
            return http.post("/v1/images/variations", data={"steps": 1}, files={"image": part})
        case _:
            body = {**drawn, "init_images": [text], "mask": text, "width": 32, "height": 32}
            return http.post("/sdapi/v1/img2img", json=body)
    if answer.status_code == 202:
        http.delete(f"/v1/jobs/{answer.json()['id']}")
    return answer


def knocks(live: Live, count: int, seed: int) -> Counter[int]:
    """How often which status was the answer."""
    rng, pictures, met = np.random.default_rng(seed), seeds(), Counter[int]()
    with live.client() as http:
        for i in range(count):
            picture = pictures[i % len(pictures)]
            data = picture if i % 50 == 49 else mutated(picture, rng)
            answer = knock(http, int(rng.integers(0, 8)), data)
            met[answer.status_code] += 1
            if answer.status_code != 202 and not answer.is_success:
                assert "Traceback" not in answer.text
                told = answer.json()
                assert told["error"]["message"] if "message" in told["error"] else told["detail"]
            assert answer.status_code < 500, (i, answer.text)
        assert http.get("/healthz").status_code == 200
    return met


def test_some_dozens(doors: Live) -> None:
    met = knocks(doors, QUICK, seed=1)
    assert met[422] > QUICK / 4
    assert sum(count for status, count in met.items() if status < 300) > 0


@pytest.mark.verify
def test_a_thousand(doors: Live) -> None:
    knocks(doors, 100, seed=2)  # what is loaded on first use
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    met = knocks(doors, ALL, seed=3)
    rise = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    print(f"{dict(met)}; the highest memory rose by {rise / 2**20:.0f} MB")
    assert met.total() == ALL
    assert rise < MEMORY
    assert not [job for job in doors.desk.store.page(200) if job.state == "failed" and job.whose == "server"]
    assert not list((doors.desk.store.folder / "uploads").iterdir())
