"""What drawing will cost is told before it is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from calotype.cli import main as cli
from calotype.models.latent_diffusion import LatentDiffusion
from calotype.tasks.forecast import Forecast, forecast
from calotype.tasks.request import Request


def told(model: LatentDiffusion, **options: Any) -> Forecast:
    asked = Request(prompts=("a red apple",), model="tiny", seed=1, **options).resolved(model.config)
    return forecast(model, asked)


def test_operations_grow_with_steps_and_pictures(tiny_model: LatentDiffusion) -> None:
    few, more, most = (told(tiny_model, steps=steps) for steps in (4, 8, 12))
    assert few.flops > 1e6
    assert more.flops - few.flops == most.flops - more.flops > 0
    assert few.parameters == {
        part: sum(value.numel() for value in module.parameters())
        for part, module in tiny_model.parts().items()
    }
    several = told(tiny_model, steps=4, count=3)
    assert 2.9 < several.flops / few.flops < 3  # the prompt is read once
    assert several.disk > 2 * few.disk
    assert set(few.seconds) == {"text", "sampling", "decoding"}
    assert all(seconds > 0 for seconds in few.seconds.values())
    assert few.memory > 1e8


def test_the_command_draws_nothing(
    tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(["plan", "generate", "a red apple", "--model", str(tiny_file), "--steps", "30"]) == 0
    out = capsys.readouterr().out
    for word in ("parameters", "TFLOP for 1 picture", "sampling", "at the peak", "disk"):
        assert word in out
    assert list(tmp_path.iterdir()) == []
    assert cli.run(["plan", "generate", "x", "--model", str(tiny_file), "--steps", "0"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
