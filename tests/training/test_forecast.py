"""What a run will cost is told before it begins, and its end report says how true that was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from calotype.checkpoints import native
from calotype.cli import main as cli
from calotype.errors import InputError
from calotype.models.presets import tiny
from calotype.training import few as few_pictures
from calotype.training.config import TrainConfig, override
from calotype.training.few import Few, read_few
from calotype.training.fit import Plan, Run
from calotype.training.forecast import Forecast, forecast, whole_memory
from calotype.training.page import took
from calotype.training.recipes import tiny_autoencoder, tiny_diffusion
from calotype.training.sessions import DataSet, Watch, prepare_autoencoder, prepare_diffusion

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard.*")

SETTINGS = ["precision=float32", "steps=7", "evaluate_every=3", "sample_every=4", "checkpoint_every=5"]


@pytest.fixture
def few(shapes: Path, monkeypatch: pytest.MonkeyPatch) -> Few:
    """Seven of the shapes' 21 training pictures, and the three that are held out."""
    monkeypatch.setattr(few_pictures, "TRAINING", 7)
    return read_few(shapes, 32, strict=True)


def autoencoder(config: TrainConfig, data: DataSet, plan: Plan, watch: Watch) -> Run:
    del watch
    return prepare_autoencoder(config, tiny(), data, plan)  # type: ignore[arg-type]


def test_a_few_stand_for_all(few: Few) -> None:
    assert (few.pictures, few.held_out) == (21, 3)
    assert 7 <= len(few.data.pictures) <= 9
    assert {str(record.meta["kind"]) for record in few.data.records} == {"circle", "square", "triangle"}
    assert few.captions == 24
    assert few.captions_here < 24
    assert len(few.data.texts) == 21, "words are learnt from all captions"
    assert few.share * (len(few.data.pictures) + 3) == pytest.approx(24)


def test_memory_grows_with_the_pictures(few: Few) -> None:
    """A plan of a folder a million times larger holds that many pictures more, twice while they are read."""
    larger = Few(few.data, 10**6, 0, few.captions, few.reading, few.before)
    picture, count = 3 * 32 * 32, len(few.data.pictures) + 3
    assert few.bytes == picture * count
    assert whole_memory(larger, 0, 0, few.before + 1000) == few.before + 2 * 10**6 * picture
    made = 2 * count * picture  # of each picture twice its own bytes, so that reading is no longer the peak
    held = few.before + few.bytes + made
    assert whole_memory(larger, made, 0, held) == few.before + 3 * 10**6 * picture
    spoken = whole_memory(few, 0, few.captions_here * 10**9, few.bytes + few.captions_here * 10**9)
    assert spoken == 24 * picture + few.captions * 10**9


def test_latents_and_words_are_counted(few: Few, tiny_file: Path, tmp_path: Path) -> None:
    seen: dict[str, tuple[int, int]] = {}

    def prepare(config: TrainConfig, data: DataSet, plan: Plan, watch: Watch) -> Run:
        run = prepare_diffusion(config, tiny(), data, plan, autoencoder=tiny_file, watch=watch)  # type: ignore[arg-type]
        seen["kept"] = run.objective.kept()
        return run

    config = override(tiny_diffusion(), [*SETTINGS, "train_text_encoder=false"])
    told = forecast(prepare, few, config, Plan(tmp_path / "run", device="cpu"), seconds=0)
    assert list((tmp_path / "run").iterdir()) == []
    count = len(few.data.pictures) + 3
    latents, words = seen["kept"]
    assert latents == count * 4 * 8 * 8 * 2 * 2  # means and deviations in float16
    assert words > few.captions_here * 16 * 16 * 2  # features of so many tokens, and the tokens
    assert told.disk["caches"] == int(latents * 24 / count + words * few.captions / few.captions_here)
    assert not (tmp_path / "cache").exists(), "the trial's caches are its own"


def test_a_plan_of_another_configuration_is_not_compared(tmp_path: Path) -> None:
    config = override(tiny_autoencoder(), SETTINGS)
    text = json.dumps({"config": "{}"})
    told = Forecast(text, 1, 1, 1, 1, 1, 1.0, {}, {"steps": 8.0}, 10, 0, {"weights": 5})
    told.write(tmp_path)
    assert "plan" not in took(tmp_path, config, 7)
    (tmp_path / "plan.json").write_text("{")
    assert "plan" not in took(tmp_path, config, 7)


def test_a_folder_that_holds_a_run_is_not_planned(few: Few, tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "step-00000001.safetensors").touch()
    with pytest.raises(InputError, match="name a new folder with --out"):
        forecast(autoencoder, few, tiny_autoencoder(), Plan(tmp_path / "run", device="cpu"), seconds=0)


def test_a_plan_and_what_the_run_then_leaves(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("calotype.training.forecast.CALIBRATION", 0.0)
    monkeypatch.chdir(tmp_path)
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    command = ["train", "autoencoder", str(shapes), "--model", "tiny", "--device", "cpu", *settings]
    assert cli.run(["plan", *command, "--minutes", "1e-6"]) == 0
    out = capsys.readouterr().out
    for word in ("parameters", "GFLOP a picture", "a step", "at the peak", "disk", "--minutes 1e-06 ends it"):
        assert word in out
    folder = Path("runs/autoencoder")
    assert [path.name for path in folder.iterdir()] == ["plan.json"], "the trial leaves nothing"
    assert cli.run(command) == 0
    report, told = (json.loads((folder / f"{name}.json").read_text()) for name in ("report", "plan"))
    sizes = {
        kind: sum(path.stat().st_size for path in folder.glob(pattern))
        for kind, pattern in (("checkpoints", "checkpoints/*"), ("weights", "model.safetensors"))
    }
    assert {kind: told["disk"][kind] for kind in sizes} == pytest.approx(sizes, rel=0.05)
    assert told["running"]["steps"] == pytest.approx(7 * told["step"])
    assert report["plan"]["seconds"] == pytest.approx(sum(told["running"].values()), abs=0.1)
    assert report["plan"]["peak_memory"] == told["memory"]
    assert told["flops"] > 1e6
    trained = native.load_autoencoder(folder / "model.safetensors")
    assert told["parameters"] == told["trained"] == sum(p.numel() for p in trained.parameters())
    page = (folder / "report.md").read_text()
    assert "## Plan and what happened" in page
    assert f"| disk | {report['plan']['disk']} | {report['disk']} |" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "autoencoder", "nowhere", "--out", "other"], "nowhere is not a folder"),
        (["evaluate", "icons"], "stands before `train` or `generate`"),
        ([], "stands before `train` or `generate`"),
    ],
)
def test_a_plan_that_cannot_be_made_is_one_sentence(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(["plan", *arguments]) in (1, 2)
    captured = capsys.readouterr()
    assert message in captured.err
    assert (captured.err.count("\n"), captured.out) == (1, "")
    assert list(tmp_path.iterdir()) == []
