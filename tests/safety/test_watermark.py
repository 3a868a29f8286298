"""The mark: what it costs, what it outlives, and that its false alarms keep their bound."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.PngImagePlugin
import pytest
import skimage.data

import calotype
from calotype.cli import main as cli
from calotype.safety import watermark

Image = PIL.Image.Image


def jpeg(image: Image) -> Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=75)
    return PIL.Image.open(buffer)


def scaled(by: float) -> Callable[[Image], Image]:
    return lambda image: image.resize((round(image.width * by), round(image.height * by)))


def cropped(image: Image) -> Image:
    width, height = image.size
    return image.crop((width // 7, height // 5, width // 7 + 3 * width // 4, height // 5 + 3 * height // 4))


CHANGES = {"none": lambda x: x, "jpeg": jpeg, "half": scaled(0.5), "0.75": scaled(0.75), "crop": cropped}


@pytest.fixture(scope="module")
def photo() -> Image:
    return PIL.Image.fromarray(skimage.data.astronaut()).resize((128, 128))


def test_it_outlives_what_happens_to_pictures(photo: Image) -> None:
    assert not watermark.detect(photo).found
    marked = watermark.embed(photo)
    assert marked.tobytes() == watermark.embed(photo).tobytes()
    difference = np.asarray(marked, float) - np.asarray(photo, float)
    assert 10 * math.log10(255**2 / np.mean(difference**2)) > 32
    assert not watermark.detect(marked, "another key").found
    for name, change in CHANGES.items():
        found = watermark.detect(change(marked))
        assert found.found, name
        assert found.scale == pytest.approx({"half": 0.5, "0.75": 0.75}.get(name, 1.0), rel=0.02)


def test_a_larger_picture_and_a_shift() -> None:
    coffee = PIL.Image.fromarray(skimage.data.coffee()).crop((0, 0, 512, 320))
    marked = watermark.embed(coffee)
    part = np.asarray(marked.crop((13, 7, 397, 247)).convert("L"), float)
    agreed = watermark.agreement(part - part.mean())
    assert agreed.max() > 8
    assert watermark.detect(jpeg(cropped(marked))).found


def test_agreement_is_as_in_closed_form() -> None:
    """The mark alone: all phases agree, and z is the root of twice the number of waves."""
    wave = np.tile(watermark.pattern(), (2, 2))
    waves = len(watermark._band()[0])
    assert watermark.agreement(wave).max() == pytest.approx(math.sqrt(2 * waves), rel=1e-4)
    assert np.mean(watermark.pattern() ** 2) == pytest.approx(1)
    assert not watermark.agreement(np.zeros((64, 64))).any()


def test_false_alarms_keep_their_bound(photo: Image) -> None:
    """Over 200 keys, P(z > t) at one shift and scale is at most exp(-t^2 / 2); so it is for all shifts."""
    flat = watermark._flattened(np.asarray(photo.convert("L"), float))
    agreed = np.array([watermark.agreement(flat, key=f"key {k}") for k in range(200)])
    for t in (1.0, 2.0, 3.0):
        assert np.mean(agreed > t) <= math.exp(-(t**2) / 2)
    assert np.std(agreed) == pytest.approx(1, abs=0.1)
    for t in (4.5, 5.0):
        assert np.mean(agreed.max((1, 2)) > t) <= watermark.bound(t, 64**2)
    assert watermark.bound(0.0, 5) == 1.0
    assert watermark.bound(8.0, 10) == pytest.approx(10 * math.exp(-32))


def test_pictures_are_marked_and_still_replayed(
    tiny_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"steps": 1, "seed": 7, "width": 128, "height": 128}
    safe = calotype.Safety(content_check="off", watermark=True)
    studio = calotype.load(str(tiny_file), device="cpu", safety=safe)
    together = studio.pictures("a red apple", count=2, **settings)
    alone = studio.pictures("a red apple", **(settings | {"seed": 8}))
    assert together[1].image.tobytes() == alone[0].image.tobytes()
    out = tmp_path / "out.png"
    key = tmp_path / "key"
    from calotype.safety import provenance

    provenance.make(key)
    asked = ["generate", "a red apple", "--model", tiny_file, "--steps", 1, "--seed", 7, "-o", out]
    extra = ["--watermark", "--sign", key, "--size", "128x128"]
    assert cli.run([str(word) for word in [*asked, *extra]]) == 0
    with PIL.Image.open(out) as opened:
        assert opened.convert("RGB").tobytes() == together[0].image.tobytes()
    assert cli.run(["replay", str(out), "--model", str(tiny_file)]) == 0
    capsys.readouterr()
    assert cli.run(["inspect", str(out)]) == 0
    told = capsys.readouterr().out
    assert "Calotype's, at scale 1.00; an unmarked one looks like this" in told
    assert "C2PA, unchanged since it was signed, by a signer nobody vouches for" in told
    assert cli.run(["inspect", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["watermark"], found["mark"]["found"]) == (watermark.NAME, True)
    assert found["credentials"]["state"] == "Valid"
    jpeg(together[0].image).save(tmp_path / "bare.jpg")
    assert cli.run(["inspect", str(tmp_path / "bare.jpg")]) == 0
    told = capsys.readouterr().out
    assert "record            none" in told
    assert "at scale 1.00" in told
    assert "no C2PA manifest" in told


@pytest.mark.parametrize(
    ("record", "code", "told"),
    [
        ({"request": {"task": "denoise", "sigma": 25}}, 0, "sigma             25"),
        ({"settings": {"steps": 3}}, 0, "made by Calotype 0.1.0, shareable"),
        ({"settings": [3]}, 2, "parts of the wrong kind"),
        ({"request": {}, "content": 5}, 2, "parts of the wrong kind"),
        ({}, 2, "record is damaged"),
    ],
)
def test_records_of_all_kinds_are_shown(
    record: dict[str, object], code: int, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    info = PIL.PngImagePlugin.PngInfo()
    whole = {"calotype_version": "0.1.0", "model_name": "photo", "weights_sha256": "ab"}
    info.add_itxt("calotype", json.dumps(whole | record))
    PIL.Image.new("RGB", (32, 32)).save(tmp_path / "x.png", pnginfo=info)
    assert cli.run(["inspect", str(tmp_path / "x.png")]) == code
    captured = capsys.readouterr()
    assert told in captured.out + captured.err
    assert "calotype replay" not in captured.out
    assert captured.err.count("\n") == (code != 0)
