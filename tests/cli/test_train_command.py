"""`calotype train` and `calotype evaluate` on input that is not what it should be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import PIL.Image
import pytest
import typer

from calotype.checkpoints import shelf
from calotype.cli import main as cli
from calotype.cli.train import train_app

CAPTIONS = ("a red apple", "a green car", "a blue house", "一个红苹果", "绿色的汽车")
AUTOENCODER = ["train", "autoencoder", "--model", "tiny", "--out", "run"]
DIFFUSION = ["train", "diffusion", "--model", "tiny", "--out", "run"]


@pytest.fixture
def here(tmp_path: Path, tiny_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder that holds one data set of each kind of fault."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CALOTYPE_CACHE", str(tmp_path / "cache"))
    good = tmp_path / "good"
    good.mkdir()
    for i, caption in enumerate(CAPTIONS):
        PIL.Image.new("RGB", (32, 32), (50 * i, 90, 200)).save(good / f"{i}.png")
        (good / f"{i}.txt").write_text(caption, encoding="utf-8")
    (tmp_path / "empty").mkdir()
    missing = tmp_path / "missing-pictures"
    missing.mkdir()
    lines = [json.dumps({"file_name": f"{name}.png", "text": "a square"}) for name in ("there", "gone")]
    (missing / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    PIL.Image.new("RGB", (32, 32), "red").save(missing / "there.png")
    damaged = tmp_path / "damaged"
    shutil.copytree(good, damaged)
    noisy = PIL.Image.effect_noise((64, 64), 90)
    noisy.save(damaged / "cut.png")
    (damaged / "cut.png").write_bytes((damaged / "cut.png").read_bytes()[:900])
    (damaged / "words.png").write_text("this is no picture")
    (tmp_path / "cut.safetensors").write_bytes(tiny_file.read_bytes()[:5000])
    (tmp_path / "a-file").write_text("in the way")
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*AUTOENCODER, "nowhere"], "nowhere"),
        ([*AUTOENCODER, "empty"], "empty"),
        ([*AUTOENCODER, "missing-pictures"], "gone.png"),
        ([*AUTOENCODER, "damaged", "--strict"], "cut.png"),
        ([*AUTOENCODER, "good", "--set", "stepz=3"], "did you mean 'steps'?"),
        ([*AUTOENCODER, "good", "--set", "steps=many"], "give a whole number"),
        ([*AUTOENCODER, "good", "--set", "steps=0"], "steps is 0"),
        ([*AUTOENCODER, "good", "--set", "image_size=30"], "needs a multiple of 4; the nearest is 32"),
        ([*AUTOENCODER, "good", "--init-from", "cut.safetensors"], "cut short"),
        ([*AUTOENCODER, "good", "--init-from", "no.safetensors"], "no.safetensors"),
        ([*AUTOENCODER[:-1], "a-file", "good"], "a-file"),
        (["train", "autoencoder", "good", "--model", "tinny"], "did you mean 'tiny'?"),
        ([*AUTOENCODER, "good", "--recipe", "icon"], "did you mean 'icons'?"),
        ([*DIFFUSION, "good"], "--autoencoder FILE"),
        ([*DIFFUSION, "good", "--autoencoder", "cut.safetensors"], "cut short"),
        ([*DIFFUSION, "good", "--autoencoder", "good/0.png"], "0.png"),
        ([*DIFFUSION, "empty", "--autoencoder", "TINY"], "empty"),
        ([*DIFFUSION, "good", "--autoencoder", "TINY", "--set", "weighting=snr"], "choose one of"),
        ([*DIFFUSION, "good", "--autoencoder", "TINY", "--set", "balance.emoji=2"], "no picture has"),
        (["evaluate", "TINY", "nowhere"], "nowhere"),
        (["evaluate", "TINY", "good", "--split", "tset"], "tset"),
        (["evaluate", "cut.safetensors", "good"], "cut short"),
        (["evaluate", "iconz", "good"], "did you mean 'icons'?"),
    ],
)
def test_wrong_input_is_one_sentence_and_leaves_nothing(
    here: Path,
    tiny_file: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    before = sorted(here.iterdir())
    given = [str(tiny_file) if argument == "TINY" else argument for argument in arguments]
    code, out, err = run(capsys, *given)
    assert code in (1, 2)
    assert out == ""
    assert message in err
    assert err.startswith("calotype: ")
    assert err.count("\n") == 1, "more than one sentence"
    assert "Traceback" not in err
    left = {path for path in here.iterdir() if path.name != "cache"} - set(before)
    assert not left, "something half-written lies about"


def test_unusable_files_are_named_counted_and_left_out(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, *AUTOENCODER, "damaged", "--set", "steps=2")
    assert code == 0
    assert "left out 2 unusable file(s)" in err
    assert "cut.png" in err
    assert "words.png" in err
    assert "step 2 of 2, finished" in out
    assert json.loads((here / "run" / "report.json").read_text())["skipped_files"] == 2


@pytest.mark.usefixtures("here")
def test_a_finished_folder_is_not_written_over(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, *AUTOENCODER, "good", "--set", "steps=2")[0] == 0
    code, out, err = run(capsys, *AUTOENCODER, "good", "--set", "steps=2")
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert "--resume" in err


def test_shipped_weights_are_named_as_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = typer.main.get_command(train_app).commands["diffusion"]
    words = ["folder", "--init-from", "icons", "--autoencoder", "icons", "--text-encoder", "mine"]
    given = command.make_context("diffusion", list(words)).params
    assert (given["init_from"], given["autoencoder"]) == (shelf.shipped()["icons"],) * 2
    assert given["text_encoder"] == Path("mine")
    Path("icons").touch()  # one's own file goes before
    assert command.make_context("diffusion", words[:3]).params["init_from"] == Path("icons")
