"""Editing from the command line: files in and out, replay, and one sentence for everything that is wrong."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from tests.cli.test_command_line import run

from calotype.tasks import picture as files


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    levels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    PIL.Image.fromarray(levels).save("photo.png")
    mask = PIL.Image.new("L", (32, 32), 0)
    mask.paste(255, (0, 0, 16, 32))
    mask.save("mask.png")
    PIL.Image.new("L", (32, 32), 0).save("black.png")
    PIL.Image.new("L", (16, 32), 255).save("small.png")
    (tmp_path / "words.png").write_text("no picture")
    return tmp_path


def test_a_masked_picture_and_its_replay_where_the_source_has_moved(
    here: Path, tiny_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(
        capsys,
        *("generate", "a red apple", "--model", tiny_file, "--seed", 7, "--image", "photo.png"),
        *("--mask", "mask.png", "--strength", 0.8, "-o", "out.png"),
    )
    assert (code, out, err) == (0, "out.png\n", "")
    request = files.read("out.png")[1].request
    assert (request.image.path, request.mask.path, request.strength) == ("photo.png", "mask.png", 0.8)
    again = ("replay", "out.png", "--model", tiny_file)
    assert run(capsys, *again)[0] == 0
    (here / "photo.png").rename("moved.png")
    code, out, err = run(capsys, *again)
    assert (code, out) == (2, "")
    assert err.startswith("calotype: photo.png, from which this picture was made, is not there any more")
    assert err.count("\n") == 1
    code, out, _ = run(capsys, *again, "--image", "moved.png")
    assert (code, "identical" in out) == (0, True)
    code, _, err = run(capsys, *again, "--image", "mask.png")
    assert (code, "is not the picture this one was made from" in err) == (2, True)


@pytest.mark.usefixtures("here")
def test_everything_at_once_is_said_on_the_command_line(
    tiny_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ("generate", "a red apple", "--model", tiny_file, "--seed", 7, "--steps", 2)
    for name, options, size in (
        ("grown", ("--image", "photo.png", "--margin", "4,0,8,0"), (44, 32)),
        ("around", ("--image", "photo.png", "--margin", "4"), (40, 40)),
        ("walked", ("--image", "photo.png", "--invert", "walk", "--was", "a green car"), (32, 32)),
        ("refined", ("--hires-from", "16", "--hires-by", "latents", "--strength", 0.5), (32, 32)),
        ("tiled", ("--image", "photo.png", "--tile", 16, "--size", 40), (40, 40)),
        ("round", ("--wrap", "x", "--size", "48x16"), (48, 16)),
        ("varied", ("--vary", 0.2, "--vary-seed", 1), (32, 32)),
    ):
        code, _, err = run(capsys, *base, *options, "-o", f"{name}.png")
        assert (code, err) == (0, ""), name
        assert files.read(f"{name}.png")[0].size == size
        assert run(capsys, "replay", f"{name}.png", "--model", tiny_file)[0] == 0, name
    code, _, err = run(capsys, "vary", "walked.png", "--count", 1, "--model", tiny_file, "-o", "x.png")
    assert (code, err) == (0, "")  # the noise of an inversion's own path is turned


@pytest.mark.usefixtures("here")
def test_a_transition_as_pictures_and_animation(tiny_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for suffix in ("webp", "gif"):
        code, out, err = run(
            capsys,
            *("generate", "a red apple", "a green car", "--frames", 4, "--model", tiny_file, "--seed", 7),
            *("--steps", 2, "-o", "frame-%d.png", "--animation", f"all.{suffix}", "--fps", 10),
        )
        assert (code, err) == (0, "")
        assert out.split() == [*(f"frame-{i}.png" for i in range(4)), f"all.{suffix}"]
        with PIL.Image.open(f"all.{suffix}") as film:
            assert film.n_frames == 4
            film.seek(1)
            film.load()
            assert film.info["duration"] == 100
    assert run(capsys, "replay", "frame-2.png", "--model", tiny_file)[0] == 0


@pytest.mark.usefixtures("here")
def test_vary(tiny_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "generate", "a red apple", "--model", tiny_file, "--seed", 7, "-o", "out.png")
    settings = ("--count", 2, "--seed", 20, "--sheet", "all.png", "--model", tiny_file)
    code, out, err = run(capsys, "vary", "out.png", *settings)
    assert (code, err) == (0, "")
    assert out.split() == ["a-red-apple-7-20.png", "a-red-apple-7-21.png", "all.png"]
    assert run(capsys, "replay", "a-red-apple-7-21.png", "--model", tiny_file)[0] == 0
    code, _, err = run(capsys, "vary", "photo.png")
    assert (code, "say with a prompt what it shows" in err) == (2, True)
    code, _, err = run(
        capsys, "vary", "photo.png", "--prompt", "x", "--model", tiny_file, "--amount", 0.5, "-o", "%d.png"
    )
    assert (code, err) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--image", "missing.png"], 2, "missing.png is missing"),
        (["--image", "words.png"], 2, "words.png is not a picture"),
        (["--image", "photo.png", "--mask", "small.png"], 2, "small.png is 16x32 pixels, but the image"),
        (["--image", "photo.png", "--mask", "black.png"], 2, "black.png is all black"),
        (["--mask", "mask.png"], 2, "needs an image"),
        (["--image", "photo.png", "--margin", "1,2"], 2, "LEFT,TOP,RIGHT,BOTTOM"),
        (["--image", "photo.png", "--margin", "much"], 2, "LEFT,TOP,RIGHT,BOTTOM"),
        (["--image", "photo.png", "--invert", "sideways"], 2, "invert is 'sideways'"),
        (["--frames", "3"], 2, "two prompts or more"),
        (["--animation", "film.mp4"], 1, ".webp or .gif"),
        (["--animation", "film.gif", "--fps", "0"], 2, "fps is 0"),
        (["--strength", "0.5"], 2, "needs an image or hires_from"),
    ],
)
def test_wrong_input_is_one_sentence_and_leaves_nothing(
    here: Path,
    tiny_file: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    before = sorted(here.iterdir())
    found, out, err = run(capsys, "generate", "x", "--model", tiny_file, "-o", "out.png", *arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert err.count("\n") == 1
    assert sorted(here.iterdir()) == before


@pytest.mark.usefixtures("here")
def test_replay_of_a_picture_that_began_from_noise_takes_no_image(
    tiny_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "generate", "x", "--model", tiny_file, "--seed", 7, "-o", "out.png")
    code, _, err = run(capsys, "replay", "out.png", "--image", "photo.png")
    assert (code, "made without image" in err) == (2, True)
