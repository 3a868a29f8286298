"""Less memory for the same training: batches in parts, blocks worked out again, disks that are full."""

from __future__ import annotations

import dataclasses
import json
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from calotype.errors import DataError, InputError, OutputError
from calotype.models.latent_diffusion import build
from calotype.models.presets import tiny
from calotype.training.config import TrainConfig, differences, override, to_json
from calotype.training.fit import Plan, Run
from calotype.training.recipes import tiny_diffusion
from calotype.training.recompute import recompute
from calotype.training.sessions import prepare_diffusion, read_data

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard.*")


def silent(what: str, done: int, total: int) -> None:
    del what, done, total


def prepared(shapes: Path, out: Path, *settings: str) -> Run:
    """The tiny U-Net on pixels of 16x16."""
    config = override(tiny_diffusion(), ["precision=float32", "steps=3", "image_size=16", *settings])
    unet = dataclasses.replace(tiny().unet, in_channels=3, out_channels=3)
    model = dataclasses.replace(tiny(), autoencoder=None, unet=unet)
    data = read_data(shapes, 16, strict=True, watch=silent)
    return prepare_diffusion(config, model, data, Plan(out, device="cpu"), watch=silent)


def losses(run: Run) -> list[float]:
    return [progress.report.parts["loss"] for progress in run.steps()]


def test_a_batch_in_parts_is_the_same_batch(shapes: Path, tmp_path: Path) -> None:
    whole = prepared(shapes, tmp_path / "whole")
    parts = prepared(shapes, tmp_path / "parts", "accumulate=2")
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-5)
    with pytest.raises(InputError, match="accumulate is 3, into which a batch of 4 does not go evenly"):
        override(tiny_diffusion(), ["accumulate=3"])


def test_a_run_with_recomputed_blocks_is_the_same_run(shapes: Path, tmp_path: Path) -> None:
    plain, again = (prepared(shapes, tmp_path / flag, f"recompute={flag}") for flag in ("false", "true"))
    assert losses(again) == losses(plain)


def test_recomputed_blocks_give_the_same_gradients_and_keep_less() -> None:
    torch.manual_seed(0)
    network = build(tiny().of_classes(("a",)), None).denoiser.network
    for parameter in network.parameters():
        parameter.data.normal_(std=0.1)
    x, label = torch.randn(2, 4, 8, 8), torch.tensor([0, 1])

    def gradients() -> tuple[list[torch.Tensor], int]:
        kept = 0

        def keep(value: torch.Tensor) -> torch.Tensor:
            nonlocal kept
            kept += value.nbytes
            return value

        network.zero_grad()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            loss = network(x, torch.ones(2), label=label).square().mean()
        loss.backward()
        return [p.grad.clone() for p in network.parameters() if p.grad is not None], kept

    (plain, much), names = gradients(), list(network.state_dict())
    recompute(network)
    again, little = gradients()
    assert len(plain) > 20
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    assert little < much / 2
    assert list(network.state_dict()) == names


def test_a_run_from_before_a_field_had_its_default() -> None:
    stored = json.loads(to_json(TrainConfig()))
    del stored["accumulate"]
    assert differences(TrainConfig(), json.dumps(stored)) == []
    assert differences(TrainConfig(accumulate=2), json.dumps(stored)) == ["accumulate"]


@pytest.fixture
def small_files() -> Iterator[None]:
    """Files end at 100 kB, as a disk does that is full."""
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, kept[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, kept)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("small_files")
def test_a_disk_that_is_full_in_mid_checkpoint(shapes: Path, tmp_path: Path) -> None:
    run = prepared(shapes, tmp_path / "run", "checkpoint_every=2")
    with pytest.raises(OutputError, match=r"step-00000002\.safetensors could not be written .* free some"):
        losses(run)
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


def test_a_picture_that_vanishes(shapes: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for picture in sorted(shapes.glob("*.png"))[:6]:
        (folder / picture.name).write_bytes(picture.read_bytes())
    run = prepared(folder, tmp_path / "run")
    steps = run.steps()
    next(steps)
    for picture in folder.glob("*.png"):
        picture.unlink()
    assert [progress.report.step for progress in steps] == [2, 3]

    def vanish(what: str, done: int, total: int) -> None:
        del what, done, total
        (folder / "b.png").unlink(missing_ok=True)

    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(next(shapes.glob("*.png")).read_bytes())
    with pytest.raises(DataError, match=r"b\.png cannot be read \(No such file or directory\)"):
        read_data(folder, 16, strict=False, watch=vanish)
