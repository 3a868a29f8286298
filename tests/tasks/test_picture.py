"""Picture files: names, records in the PNG, replay, and outputs that cannot be written."""

import json
import os
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from calotype.errors import InputError, OutputError
from calotype.models.latent_diffusion import LatentDiffusion
from calotype.models.presets import tiny
from calotype.tasks import picture as files
from calotype.tasks.generate import generate
from calotype.tasks.picture import Picture
from calotype.tasks.replay import Comparison, replay
from calotype.tasks.request import Request


@pytest.fixture
def made(tiny_model: LatentDiffusion) -> Picture:
    model = tiny_model.replace(weights_hash="ab" * 32)
    request = Request(prompts="a red apple, 一个红苹果", seed=7, steps=2, sampler="euler_a")
    return next(event for event in generate(model, request) if isinstance(event, Picture))


def test_the_record_travels_in_the_file(made: Picture, tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    made.save(path)
    image, record = files.read(path)
    assert record == made.record
    assert record.request.seed == 7
    assert record.request.prompts == ("a red apple, 一个红苹果",)
    assert image.tobytes() == made.image.tobytes()
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.png"]


def test_replay_makes_the_same_pixels(tiny_model: LatentDiffusion, made: Picture, tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    made.save(path)
    model = tiny_model.replace(weights_hash="ab" * 32)
    image, record = files.read(path)
    *_, comparison = replay(model, path, image, record)
    assert isinstance(comparison, Comparison)
    assert comparison.identical
    touched = image.copy()
    r, g, b = touched.getpixel((3, 4))
    touched.putpixel((3, 4), (r ^ 2, g, b))
    *_, comparison = replay(model, path, touched, record)
    assert isinstance(comparison, Comparison)
    assert not comparison.identical
    assert comparison.largest == 2
    assert comparison.mean == pytest.approx(2 / (32 * 32 * 3))
    with pytest.raises(InputError, match="made with other weights"):
        next(replay(tiny_model, path, image, record))
    with pytest.raises(InputError, match="resized"):
        next(replay(model, path, image.resize((16, 16)), record))


def test_replay_reads_the_prompt_and_draws_the_noise_as_then(
    tiny_model: LatentDiffusion, tmp_path: Path
) -> None:
    path, model = tmp_path / "out.png", tiny_model.replace(weights_hash="ab" * 32)
    request = Request(
        prompts="a (red:1.3) apple BREAK 苹果",
        prompt_syntax="a1111",
        clip_skip=2,
        noise="philox",
        sampler="euler_a",
        steps=2,
    )
    next(event for event in generate(model, request) if isinstance(event, Picture)).save(path)
    image, record = files.read(path)
    assert (record.request.prompt_syntax, record.request.clip_skip) == ("a1111", 2)
    assert record.request.noise == "philox"
    *_, comparison = replay(model, path, image, record)
    assert isinstance(comparison, Comparison)
    assert comparison.identical


def test_a_record_from_before_there_were_other_noises_and_syntaxes(made: Picture) -> None:
    stored = json.loads(made.record.to_json())
    for name in ("prompt_syntax", "clip_skip", "noise"):
        del stored["request"][name]
    assert files.Record.from_json(json.dumps(stored)) == made.record


def test_pictures_that_are_not_ours_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "plain.png"
    with pytest.raises(InputError, match="There is no file"):
        files.read(path)
    PIL.Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    with pytest.raises(InputError, match="does not say how it was made"):
        files.read(path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match="no readable picture"):
        files.read(path)
    path.write_text("not a picture")
    with pytest.raises(InputError, match="no readable picture"):
        files.read(path)
    for text in ("{", "[]", '{"request": {}}', '{"request": {"prompts": "a"}}'):
        info = PIL.PngImagePlugin.PngInfo()
        info.add_itxt(files.KEY, text)
        files.write_png(path, PIL.Image.new("RGB", (8, 8)), info)
        with pytest.raises(InputError):
            files.read(path)


def test_names() -> None:
    assert files.output_paths("out.png", 1) == [Path("out.png")]
    assert files.output_paths("a/out.png", 2) == [Path("a/out-0.png"), Path("a/out-1.png")]
    assert files.output_paths("out.png", 11)[3] == Path("out-03.png")
    assert files.output_paths("x%dy.png", 2) == [Path("x0y.png"), Path("x1y.png")]
    assert files.output_paths("x%03d.png", 1) == [Path("x000.png")]
    with pytest.raises(OutputError, match=r"should end in \.png"):
        files.output_paths("out.jpg", 1)
    request = Request(prompts=["A red apple!", "一个红苹果", "???"], count=2, seed=7).resolved(tiny())
    assert [path.name for path in files.default_paths(request)] == [
        "a-red-apple-7.png",
        "a-red-apple-8.png",
        "一个红苹果-9.png",
        "一个红苹果-10.png",
        "picture-11.png",
        "picture-12.png",
    ]


def test_what_cannot_be_written_is_said_first(tmp_path: Path) -> None:
    files.check_writable([tmp_path / "fine.png"])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OutputError, match="does not exist"):
        files.check_writable([tmp_path / "missing" / "out.png"])
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        files.check_writable([tmp_path / "folder.png"])
    with pytest.raises(OutputError, match="name too long"):
        files.check_writable([tmp_path / ("x" * 300 + ".png")])


def test_a_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)  # chmod would not stop root
    with pytest.raises(OutputError, match="permission denied"):
        files.check_writable([tmp_path / "out.png"])


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OutputError, match="no space left"):
        files.write_png(tmp_path / "out.png", PIL.Image.new("RGB", (8, 8)))
    assert list(tmp_path.iterdir()) == []


def test_contact_sheet() -> None:
    images = [PIL.Image.new("RGB", (8, 6), (i * 40, 0, 0)) for i in range(5)]
    sheet = files.contact_sheet(images)
    assert sheet.size == (3 * 10 - 2, 2 * 8 - 2)
    assert sheet.getpixel((10, 8)) == (160, 0, 0)
    assert sheet.getpixel((8, 0)) == (255, 255, 255)
    assert files.contact_sheet(images[:1]).size == (8, 6)
