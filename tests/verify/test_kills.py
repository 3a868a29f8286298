"""A training killed with SIGKILL at random moments ends with the weights of an unbroken one, to the bit."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from tests.training.conftest import write_shapes

pytestmark = [pytest.mark.verify, pytest.mark.timeout(1500)]

SETTINGS = ("steps=40", "checkpoint_every=4", "batch=8", "sample_every=20", "evaluate_every=20")


def command(part: str, data: Path, out: Path, *extra: str) -> list[str]:
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    program = "from calotype.cli.main import main; main()"
    fixed = ["--model", "tiny", "--threads", "2", "--device", "cpu", "--out", str(out)]
    return [sys.executable, "-c", program, "train", part, str(data), *fixed, *settings, *extra]


def final_state(out: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(out / "checkpoints" / "step-00000040.safetensors")


@pytest.mark.parametrize("part", ["autoencoder", "diffusion"])
def test_ten_kills_change_no_bit(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALOTYPE_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "data"
    data.mkdir()
    write_shapes(data)
    extra: tuple[str, ...] = ()
    if part == "diffusion":
        first = command("autoencoder", data, tmp_path / "autoencoder")
        subprocess.run(first, check=True, capture_output=True)
        extra = ("--autoencoder", str(tmp_path / "autoencoder" / "model.safetensors"))
    started = time.monotonic()
    subprocess.run(command(part, data, tmp_path / "whole", *extra), check=True, capture_output=True)
    usual = time.monotonic() - started

    dice = random.Random(20)
    for _ in range(10):
        process = subprocess.Popen(
            command(part, data, tmp_path / "broken", *extra, "--resume"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(usual * dice.uniform(0.2, 1.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = command(part, data, tmp_path / "broken", *extra, "--resume")
    subprocess.run(done, check=True, capture_output=True)

    whole, broken = final_state(tmp_path / "whole"), final_state(tmp_path / "broken")
    assert whole.keys() == broken.keys()
    assert [name for name in whole if not torch.equal(whole[name], broken[name])] == []
    weights = [(tmp_path / name / "model.safetensors") for name in ("whole", "broken")]
    tensors = [safetensors.torch.load_file(path) for path in weights]
    assert [name for name in tensors[0] if not torch.equal(tensors[0][name], tensors[1][name])] == []
