"""What `denoise` and its like leave on the command line is checked, marked and signed as `generate`'s is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from tests.safety.test_policy import run

from calotype.checkpoints import native
from calotype.models.pixel_diffusion import build_pixel, tiny_photo
from calotype.safety import provenance, watermark
from calotype.tasks.finish import finished_photo
from calotype.tasks.photo_file import Photo, read_photo, write_photo
from calotype.tasks.posterior import Restored

Scored = Callable[[float], None]


@pytest.fixture
def asked(tmp_path: Path) -> tuple[object, ...]:
    """A photograph, transparent in places, denoised by a model of the user's own."""
    rng = np.random.default_rng(0)
    pixels = rng.uniform(0.2, 0.8, (3, 16, 24)).astype(np.float32)
    write_photo(tmp_path / "in.png", Photo(pixels, np.full((16, 24), 0.5, np.float32)))
    native.save_pixel(tmp_path / "own.safetensors", build_pixel(tiny_photo()))
    model = ("--model", tmp_path / "own.safetensors", "--sigma", 20)
    return ("denoise", tmp_path / "in.png", "-o", tmp_path / "out.png", *model)


def test_the_content_check(
    asked: tuple[object, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str], scored: Scored
) -> None:
    out = tmp_path / "out.png"
    scored(0.2)
    code, _, err = run(capsys, *asked)
    assert (code, err) == (0, f"calotype: content check of {out}: passed, score 0.2000, threshold 0.8\n")
    passed = read_photo(out)
    code, _, err = run(capsys, *asked, "--content-check", "off")
    assert (code, err) == (0, "")
    np.testing.assert_array_equal(read_photo(out).pixels, passed.pixels)
    scored(0.9)
    several = ("--samples", 2, "--steps", 1)
    code, printed, err = run(capsys, *asked, *several)
    assert (code, printed.count("\n"), err.count("withheld, score 0.9000")) == (0, 5, 3)
    for name in ("out", "out-sample-0", "out-sample-1"):
        with PIL.Image.open(tmp_path / f"{name}.png") as image:
            assert image.getcolors() == [(16 * 24, (128, 128, 128))]
    assert not np.load(tmp_path / "out-uncertainty.npy").any()
    err = run(capsys, *asked, "--content-check", "report")[2]
    assert err == f"calotype: content check of {out}: flagged, score 0.9000, threshold 0.8\n"
    assert read_photo(out).alpha is not None


def test_the_shipped_model_is_not_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], scored: Scored
) -> None:
    PIL.Image.new("RGB", (16, 16), "red").save(tmp_path / "in.png")
    out = tmp_path / "out.png"
    scored(0.9)
    command = ("denoise", tmp_path / "in.png", "-o", out, "--sigma", 20)
    assert run(capsys, *command) == (0, f"{out}\n", "")
    with PIL.Image.open(out) as image:
        assert image.getcolors() != [(16 * 16, (128, 128, 128))]


def test_without_the_extra(
    asked: tuple[object, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CALOTYPE_CONTENT_CHECK", raising=False)
    monkeypatch.setattr("calotype.safety.content.PACKAGE", "no_such_package")
    code, _, err = run(capsys, *asked)
    assert (code, err.count("\n"), "the pictures are not checked" in err) == (0, 1, True)
    code, _, err = run(capsys, *asked, "--content-check", "withhold")
    assert (code, "is not installed" in err) == (2, True)


@pytest.mark.parametrize(("channels", "bits"), [(1, 8), (3, 8), (3, 16)])
def test_the_mark(channels: int, bits: int) -> None:
    import calotype

    rng = np.random.default_rng(1)
    grey = np.kron(rng.uniform(0.3, 0.7, (channels, 12, 12)), np.ones((16, 16))).astype(np.float32)
    found = Restored(Photo(grey, bits=bits))
    model = build_pixel(tiny_photo())
    safety = calotype.Safety(content_check="off", watermark=True)
    marked, verdicts = finished_photo(found, model, safety)
    assert (verdicts, marked.photo.pixels.shape, marked.photo.bits) == ((), grey.shape, bits)
    levels = np.rint(marked.photo.pixels * 255).astype(np.uint8).repeat(3 // channels, 0)
    assert watermark.detect(PIL.Image.fromarray(levels.transpose(1, 2, 0))).found


def test_signing(
    asked: tuple[object, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    scored: Scored,
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    scored(0.2)
    assert run(capsys, *asked, "--sign", "self")[0] == 0
    told = provenance.read(tmp_path / "out.png")
    assert told is not None
    assert told.state == "Valid"
    assert provenance.EDITED.encode() in (tmp_path / "out.png").read_bytes()
    other = [tmp_path / "out.tif" if argument == tmp_path / "out.png" else argument for argument in asked]
    code, _, err = run(capsys, *other, "--sign", "self")
    assert (code, "Only a PNG can be signed" in err) == (1, True)
    assert not (tmp_path / "out.tif").exists()
