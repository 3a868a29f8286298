"""Training a pixel model: it learns, resumes exactly, and draws the noise levels it should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from calotype.checkpoints import native
from calotype.diffusion.loss import mixed_sigmas
from calotype.errors import CheckpointError, InputError
from calotype.models.pixel_config import PixelConfig
from calotype.models.pixel_diffusion import tiny_photo
from calotype.training.config import override
from calotype.training.fit import Plan, Run
from calotype.training.pixels import prepare_pixels
from calotype.training.recipes import photo_pixels, tiny_pixels
from calotype.training.sessions import DataSet, read_data

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard.*")


@pytest.fixture(scope="module")
def data(shapes: Path) -> DataSet:
    return read_data(shapes, 32, strict=True, watch=lambda *_: None)


def run(data: DataSet, folder: Path, *settings: str, **plan: Any) -> Run:
    config = override(tiny_pixels(), ["precision=float32", "optimizer=muon", *settings])
    return prepare_pixels(config, tiny_photo(), data, Plan(folder, device="cpu", **plan))


def test_it_learns_and_resumes_to_the_bit(data: DataSet, tmp_path: Path) -> None:
    whole = run(data, tmp_path / "whole", "steps=30", "learning_rate=3e-3", "crop=24")
    before = whole.objective.evaluate()
    for _ in whole.steps():
        pass
    whole.finish({})
    after = whole.objective.evaluate()
    assert set(after) == {"psnr_15", "psnr_25", "psnr_50"}
    assert after["psnr_50"] > before["psnr_50"] + 1
    first = run(data, tmp_path / "parts", "steps=30", "learning_rate=3e-3", "crop=24")
    for progress in first.steps():
        if progress.report.step == 13:
            first.stop()
    second = run(data, tmp_path / "parts", "steps=30", "learning_rate=3e-3", "crop=24", resume=True)
    for _ in second.steps():
        pass
    second.finish({})
    files = [safetensors.torch.load_file(tmp_path / n / "model.safetensors") for n in ("whole", "parts")]
    assert files[0].keys() == files[1].keys()
    assert all(torch.equal(files[0][name], files[1][name]) for name in files[0])


def test_the_checkpoint_says_what_it_is(data: DataSet, tmp_path: Path, tiny_file: Path) -> None:
    going = run(data, tmp_path / "run", "steps=2")
    for _ in going.steps():
        pass
    going.finish({})
    path = tmp_path / "run" / "model.safetensors"
    model = native.load_pixel(path)
    assert model.config == tiny_photo()
    info = native.describe(path)
    assert isinstance(info.config, PixelConfig)
    assert info.recipe["training"]["crop"] == 16
    assert model.weights_hash == info.weights_hash
    with pytest.raises(CheckpointError, match="cannot draw from words"):
        native.load(path)
    with pytest.raises(CheckpointError, match="cannot restore photographs"):
        native.load_pixel(tiny_file)


def test_at_least_half_of_the_noise_is_what_people_remove() -> None:
    config = photo_pixels()
    uniforms = torch.rand(2, 20_000, generator=torch.Generator().manual_seed(0))
    sigma = mixed_sigmas(*uniforms, config.fine_share, config.fine_sigma, 0.004, 20.0)
    assert float((sigma <= 75 / 127.5).double().mean()) >= 0.5
    assert float((sigma > 3).double().mean()) > 0.05
    assert float(sigma.min()) >= 0.004
    assert float(sigma.max()) <= 20.0


def test_a_crop_larger_than_the_pictures_is_refused(data: DataSet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="crop is 48"):
        run(data, tmp_path / "run", "crop=48")
