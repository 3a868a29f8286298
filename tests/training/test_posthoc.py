"""Averages of any length after the training, beside those that are kept while it runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from calotype.checkpoints import native
from calotype.cli import main as cli
from calotype.errors import InputError, TrainingError
from calotype.training.config import AutoencoderTraining, TextTraining, override
from calotype.training.ema import Ema, exponent_of
from calotype.training.fit import Plan
from calotype.training.posthoc import LENGTHS, average, coefficients, inner, snapshots, write_snapshots
from calotype.training.recipes import tiny_diffusion
from calotype.training.sessions import prepare_diffusion, read_data

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard.*")


@pytest.mark.parametrize(("t", "length", "other", "other_length"), [(50, 0.05, 80, 0.1), (80, 0.2, 80, 0.1)])
def test_inner_products_are_the_integrals_of_profiles(
    t: float, length: float, other: float, other_length: float
) -> None:
    def profile(step: float, gamma: float, at: float) -> float:
        return (gamma + 1) * at**gamma / step ** (gamma + 1) if at <= step else 0.0

    a, b = exponent_of(length), exponent_of(other_length)
    expected, _ = quad(lambda at: profile(t, a, at) * profile(other, b, at), 0, min(t, other))
    found = inner(*(np.array([float(value)]) for value in (t, a, other, b)))
    assert found.shape == (1, 1)
    assert float(found[0, 0]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("length", [0.03, 0.05, 0.075, 0.10, 0.15, 0.20])
def test_an_average_put_together_is_the_one_computed_directly(length: float, tmp_path: Path) -> None:
    """A parameter that walks at random, 400 steps, snapshots of two lengths every 25."""
    torch.manual_seed(0)
    module = torch.nn.Linear(64, 4)
    direct, kept = Ema(module, length), tuple(Ema(module, one) for one in LENGTHS)
    for step in range(1, 401):
        with torch.no_grad():
            for value in module.parameters():
                value += 0.1 * torch.randn_like(value)
        for ema in (direct, *kept):
            ema.update(step)
        if step % 25 == 0:
            write_snapshots(tmp_path, step, kept)
    values, missed = average(snapshots(tmp_path), length)
    assert values.keys() == direct.average.keys()
    wanted = direct.average["weight"]
    # of the way that the weights have gone, as the last average of another length would be far off
    error = float((values["weight"] - wanted).norm() / wanted.norm())
    assert error < (0.02 if length < 0.05 else 5e-3)
    assert missed < (0.15 if length < 0.05 else 0.05)
    for ema in kept:
        far = float((ema.average["weight"] - wanted).norm() / wanted.norm())
        assert far < 1e-3 or error < far / 5


def test_a_length_that_was_kept_is_that_snapshot() -> None:
    steps, lengths = np.array([50.0, 50.0, 100.0, 100.0]), np.array([0.05, 0.1, 0.05, 0.1])
    factors, missed = coefficients(steps, lengths, 100.0, 0.1)
    assert factors == pytest.approx([0, 0, 0, 1], abs=1e-6)
    assert missed < 1e-5


@pytest.fixture(scope="module")
def run(shapes: Path, tiny_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve steps with snapshots every third, interrupted after seven, the checkpoint being of step 5."""
    folder = tmp_path_factory.mktemp("run")
    data = read_data(shapes, 32, strict=True, watch=lambda *_: None)
    config = override(tiny_diffusion(), ["precision=float32", "steps=12", "snapshot_every=3"])
    for sitting, (place, stop) in enumerate(
        ((folder / "run", 7), (folder / "run", 12), (folder / "whole", 12))
    ):
        steps = prepare_diffusion(
            config,
            native.load(tiny_file).config,
            data,
            Plan(place, resume=sitting == 1, device="cpu"),
            init_from=tiny_file,
            watch=lambda *_: None,
        )
        for progress in (going := steps.steps()):
            if progress.report.step == stop < 12:
                going.close()
        if stop == 12:
            steps.finish({})
    return folder


def test_snapshots_survive_an_interruption_to_the_bit(run: Path) -> None:
    names = [path.name for path in sorted((run / "whole" / "averages").iterdir())]
    assert names == [f"step-{step:08d}-{one:.2f}.safetensors" for step in (3, 6, 9, 12) for one in LENGTHS]
    for name in names:
        assert (run / "run" / "averages" / name).read_bytes() == (
            run / "whole" / "averages" / name
        ).read_bytes()


def test_the_command_writes_the_model_of_another_length(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "made.safetensors"
    command = ["ema", str(run / "run"), "-o", str(made), "--length"]
    assert cli.run([*command, "0.1"]) == 0
    assert "of 8 snapshots" in capsys.readouterr().err
    # the length that the training averaged over gives its own weights, but for their float16
    ours, theirs = native.load(made), native.load(run / "run" / "model.safetensors")
    for name, value in theirs.denoiser.state_dict().items():
        torch.testing.assert_close(ours.denoiser.state_dict()[name], value, atol=2e-3, rtol=2e-3)
    assert native.describe(made).recipe["ema_length"] == 0.1
    for arguments, message in (
        ([*command, "0.1"], "is there already"),
        (["ema", str(run / "run"), "-o", str(tmp_path / "x"), "--length", "0.4"], "below 0.28"),
        (
            ["ema", str(run / "run"), "-o", str(tmp_path / "x"), "--length", "0.1", "--step", "2"],
            "up to step 2",
        ),
        (["ema", str(tmp_path), "-o", str(tmp_path / "x"), "--length", "0.1"], "snapshot_every"),
    ):
        assert cli.run(arguments) in (1, 2)
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_a_damaged_snapshot_is_named(tmp_path: Path) -> None:
    write_snapshots(tmp_path, 5, tuple(Ema(torch.nn.Linear(2, 2), one) for one in LENGTHS))
    first = snapshots(tmp_path)[0].path
    first.write_bytes(first.read_bytes()[:20])
    with pytest.raises(TrainingError, match=f"{first.name} is not a readable average"):
        average(snapshots(tmp_path), 0.1)


@pytest.mark.parametrize("kind", [AutoencoderTraining, TextTraining])
def test_parts_that_cannot_be_put_together_are_refused(
    kind: type[AutoencoderTraining | TextTraining],
) -> None:
    with pytest.raises(InputError, match="snapshot_every is not for"):
        kind(snapshot_every=10)
