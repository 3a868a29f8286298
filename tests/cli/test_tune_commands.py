"""`calotype train lora, finetune …` and `calotype.tune`: what comes out, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import PIL.Image
import pytest

import calotype
from calotype.cli import main as cli

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard.*")

SOON = ["--set", "steps=2", "--set", "batch=2", "--set", "precision=float32", "--device", "cpu"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with four pictures, of which one has words."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CALOTYPE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cats").mkdir()
    for i in range(4):
        PIL.Image.new("RGB", (32, 32), (60 * i, 90, 200)).save(tmp_path / "cats" / f"{i}.png")
    (tmp_path / "cats" / "0.txt").write_text("a red apple", encoding="utf-8")
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.usefixtures("here")
def test_a_lora_from_the_command_line_draws(capsys: pytest.CaptureFixture[str], tiny_file: Path) -> None:
    options = ["--model", tiny_file, "--rank", 2, "--targets", "cross,self", "--caption", "a cat"]
    code, out, err = run(capsys, "train", "lora", "cats", *options, *SOON)
    assert code == 0, err
    assert "runs/lora/lora.safetensors  step 2 of 2, finished" in out
    told = json.loads(Path("runs/lora/config.json").read_text())["config"]
    assert (told["rank"], told["targets"], told["caption"]) == (2, ["cross", "self"], "a cat")
    code, _, err = run(
        capsys, "generate", "a cat", "--model", tiny_file, "--lora", "runs/lora/lora.safetensors",
        "--steps", 2, "--size", "32x32", "-o", "cat.png",
    )  # fmt: skip
    assert code == 0, err
    assert Path("cat.png").exists()


@pytest.mark.usefixtures("here")
def test_the_same_in_python(tiny_file: Path) -> None:
    settings = {"steps": 1, "batch": 2, "precision": "float32", "image_size": 32}
    tuned = calotype.tune("finetune", str(tiny_file), "cats", progress=False, **settings)
    assert tuned.path == Path("runs/finetune/model.safetensors")
    assert tuned.reports["finetune"]["step"] == 1
    assert calotype.load(str(tuned.path)).model.config.name == "tiny"
    with pytest.raises(calotype.InputError, match="did you mean 'rank'"):
        calotype.tune("lora", str(tiny_file), "cats", rnak=2)
    with pytest.raises(calotype.InputError, match="kind of tuning"):
        calotype.tune("loha", str(tiny_file), "cats")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("finetune", ()),
        ("lora", ("--rank", 2)),
        ("dreambooth", ("--prompt", "a sks cat", "--class-prompt", "a cat", "--rank", 2)),
        ("inversion", ("--word", "<it>", "--initial", "apple")),
        ("controlnet", ()),
    ],
)
@pytest.mark.usefixtures("here")
def test_each_kind_is_planned_before_it_begins(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tiny_file: Path,
    kind: str,
    options: tuple[object, ...],
) -> None:
    monkeypatch.setattr("calotype.training.forecast.CALIBRATION", 0.0)
    code, out, err = run(capsys, "plan", "train", kind, "cats", "--model", tiny_file, *options, *SOON)
    assert code == 0, err
    folder = Path("runs") / kind
    assert [path.name for path in folder.iterdir()] == ["plan.json"]
    told = json.loads((folder / "plan.json").read_text())
    assert 0 < told["trained"] < told["parameters"], "what stays is counted too"
    assert told["disk"]["weights"] > 0
    assert told["running"]["steps"] > 0
    if kind == "dreambooth":
        assert told["preparing"]["drawing the class"] > 0
        assert told["disk"]["the class"] > 0
        assert "drawing the class" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lora", "nowhere", "--model", "TINY"], "nowhere"),
        (["lora", "cats", "--model", "iconz"], "did you mean 'icons'?"),
        (["lora", "cats", "--model", "TINY", "--layout", "peft"], "choose kohya or diffusers"),
        (["lora", "cats", "--model", "TINY", "--rank", "0"], "rank is 0"),
        (["lora", "cats", "--model", "TINY", "--set", "alpha=0"], "alpha is 0"),
        (["lora", "cats", "--model", "TINY", "--targets", "atention"], "did you mean 'attention'?"),
        (["lora", "cats", "--model", "TINY", "--recipe", "icon"], "did you mean 'icons'?"),
        (["lora", "cats", "--model", "TINY", "--set", "stepz=3"], "did you mean 'steps'?"),
        (["finetune", "cats", "--model", "TINY", "--set", "rank=3"], "no training option 'rank'"),
        (["finetune", "cats", "--model", "cats/0.png"], "0.png"),
    ],
)
def test_wrong_input_is_one_sentence_and_leaves_nothing(
    here: Path, capsys: pytest.CaptureFixture[str], tiny_file: Path, arguments: list[str], message: str
) -> None:
    given = [str(tiny_file) if argument == "TINY" else argument for argument in arguments]
    code, out, err = run(capsys, "train", *given)
    assert code in (1, 2)
    assert out == ""
    assert message in err
    assert err.startswith("calotype: ")
    assert err.count("\n") == 1
    assert not (here / "runs").exists()
