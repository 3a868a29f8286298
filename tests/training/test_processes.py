"""Two processes that share a batch train as one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LAUNCHER = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
OPTIONS = ["steps=20", "precision=float32", "image_size=16", "log_every=1", "batch=4"]


@pytest.mark.verify
def test_two_gloo_processes_and_one_have_the_same_losses(shapes: Path, tmp_path: Path) -> None:
    settings = [part for option in OPTIONS for part in ("--set", option)]
    command = ["-m", "calotype", "train", "diffusion", str(shapes), "--pixels", "--model", "tiny"]
    command += ["--device", "cpu", "--threads", "1", *settings]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CALOTYPE_CACHE": str(tmp_path / "cache")}
    losses = {}
    for name, launcher in (("one", []), ("two", LAUNCHER)):
        out = tmp_path / name
        subprocess.run([sys.executable, *launcher, *command, "--out", str(out)], env=environment, check=True)
        records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        losses[name] = [record["loss"] for record in records if "loss" in record]
    assert len(losses["one"]) == 20
    assert losses["two"] == pytest.approx(losses["one"], rel=1e-4)
    report = json.loads((tmp_path / "two" / "report.json").read_text())
    assert report["processes"] == 2
