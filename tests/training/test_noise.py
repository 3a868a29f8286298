"""What a diffusion training makes noise of: offsets of whole channels, and levels that end in noise alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from calotype.checkpoints import native
from calotype.diffusion.loss import uniform_sigmas
from calotype.diffusion.schedule import SIGMA_LIMIT
from calotype.errors import InputError
from calotype.models.presets import tiny
from calotype.training.config import DiffusionTraining, override
from calotype.training.denoising import DiffusionObjective
from calotype.training.fit import Plan, Run
from calotype.training.objective import VALIDATION_STEP
from calotype.training.recipes import tiny_diffusion
from calotype.training.sessions import DataSet, prepare_diffusion, read_data

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard.*")

ENDING = ("zero_terminal_snr=true", "weighting=uniform", "steps=2", "sample_every=2")


@pytest.fixture(scope="module")
def data(shapes: Path) -> DataSet:
    return read_data(shapes, 32, strict=True, watch=lambda *_: None)


def pixel_run(data: DataSet, folder: Path, *settings: str, predicts: str = "v") -> Run:
    unet = dataclasses.replace(tiny().unet, in_channels=3, out_channels=3)
    model = dataclasses.replace(tiny(), autoencoder=None, unet=unet, parameterization=predicts)  # type: ignore[arg-type]
    config = override(tiny_diffusion(), ["precision=float32", *settings])
    return prepare_diffusion(config, model, data, Plan(folder, device="cpu"), watch=lambda *_: None)


def test_offset_noise_moves_whole_channels_and_nothing_else(data: DataSet, tmp_path: Path) -> None:
    plain = pixel_run(data, tmp_path / "plain")
    offset = pixel_run(data, tmp_path / "offset", "offset_noise=0.5")
    moved = []
    for step in range(20):
        before, after = plain.batches(step), offset.batches(step)
        for name in before.keys() - {"noise"}:
            assert torch.equal(before[name], after[name]), name
        moved.append(after["noise"] - before["noise"])  # (B C H W)
    difference = torch.cat(moved)
    assert difference.flatten(2).std(-1).max() < 1e-6, "one number for each channel"
    assert float(difference[:, :, 0, 0].std()) == pytest.approx(0.5, abs=0.07)
    assert isinstance(offset.objective, DiffusionObjective)
    held_out = torch.arange(3)
    measured = [
        run.objective.arguments(run.objective._held_out, held_out, VALIDATION_STEP, slice(None))["noise"]  # type: ignore[attr-defined]
        for run in (plain, offset)
    ]
    assert torch.equal(*measured), "what is measured stays comparable"
    for run in (plain, offset):
        run.folder.close()


def test_levels_end_in_noise_alone_and_the_file_says_so(data: DataSet, tmp_path: Path) -> None:
    run = pixel_run(data, tmp_path / "run", *ENDING)
    # of noise alone the best guess is asked for: v = -x0 there
    batch = run.batches(0) | {"sigma": torch.full((4,), SIGMA_LIMIT)}
    objective = run.objective
    assert isinstance(objective, DiffusionObjective)
    assert float(uniform_sigmas(objective.denoiser.schedule, torch.tensor([0.9999]))) == SIGMA_LIMIT
    objective.denoiser.network.forward = lambda x, *_, **__: torch.zeros_like(x)  # type: ignore[method-assign]
    loss = objective(**batch)["loss"]
    assert float(loss) == pytest.approx(float(batch["latents"].square().mean()), rel=1e-3)
    del objective.denoiser.network.forward
    for _ in run.steps():
        pass
    run.finish({})
    model = native.load(tmp_path / "run" / "model.safetensors")
    assert model.config.schedule.zero_terminal_snr
    assert model.config.defaults.grid == "trailing"
    assert model.denoiser.schedule.sigma_max == SIGMA_LIMIT
    assert (tmp_path / "run" / "samples" / "step-00000002.png").is_file()


@pytest.mark.parametrize("predicts", ["eps", "flow", "edm"])
def test_a_model_that_learns_nothing_from_noise_alone_is_refused(
    data: DataSet, tmp_path: Path, predicts: str
) -> None:
    with pytest.raises(InputError, match=f"is for models of v or x0; tiny is one of {predicts}"):
        pixel_run(data, tmp_path / "run", *ENDING, predicts=predicts)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["zero_terminal_snr=true"], "set both"),
        (["zero_terminal_snr=true", "weighting=uniform", "noise_levels=log_normal"], "set both"),
        (["offset_noise=-0.1"], "offset_noise is -0.1; give 0 to 1"),
    ],
)
def test_what_would_teach_nothing_is_refused(settings: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        override(DiffusionTraining(), settings)
