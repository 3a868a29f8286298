"""Training from shards, whose pictures stay where they are."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from typer.testing import CliRunner

from calotype.checkpoints import native
from calotype.cli.main import app
from calotype.errors import DataError
from calotype.models.presets import tiny
from calotype.training.config import override
from calotype.training.fit import Plan, Run
from calotype.training.recipes import tiny_diffusion
from calotype.training.sessions import prepare_diffusion, read_data


def prepared(folder: Path, out: Path, *settings: str) -> Run:
    """A run on pixels of 16x16."""
    preset = tiny()
    unet = dataclasses.replace(preset.unet, in_channels=3, out_channels=3)
    preset = dataclasses.replace(preset, autoencoder=None, unet=unet)
    config = override(tiny_diffusion(), ["steps=4", "image_size=16", "precision=float32", *settings])

    def watch(what: str, done: int, total: int) -> None:
        assert done <= total, what

    data = read_data(folder, 16, strict=False, watch=watch)
    return prepare_diffusion(config, preset, data, Plan(out, device="cpu"), watch=watch)


def test_shards_are_trained_from(shapes: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    done = CliRunner().invoke(app, ["data", "shards", str(shapes), str(shards), "--per-shard", "7"])
    assert done.exit_code == 0, done.output
    assert done.output.endswith("21 train, 3 validation\n")
    run = prepared(shards, tmp_path / "run")
    list(run.steps())
    report = run.finish({})
    assert report["pictures"] == 21
    assert native.describe(tmp_path / "run/model.safetensors").recipe["data"] == report["data"]


def test_a_shard_that_vanishes_keeps_what_was_learnt(shapes: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    CliRunner().invoke(app, ["data", "shards", str(shapes), str(shards)])
    run = prepared(shards, tmp_path / "run", "checkpoint_every=0")
    steps = run.steps()
    for _ in range(2):
        next(steps)
    (shards / "train-000000.tar").unlink()
    with pytest.raises(DataError, match=r"train-000000\.tar cannot be read"):
        next(steps)
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000002.safetensors"]
