"""Runs on little drawings: exact resuming, locks, refusals, what a run leaves behind."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from PIL import Image

from calotype.checkpoints import native
from calotype.errors import DataError, InputError, TrainingError
from calotype.models.presets import tiny
from calotype.networks import processor
from calotype.training.config import AutoencoderTraining, DiffusionTraining, override
from calotype.training.fit import Plan, Run
from calotype.training.prepared import to_signed
from calotype.training.recipes import tiny_autoencoder, tiny_diffusion
from calotype.training.sessions import DataSet, prepare_autoencoder, prepare_diffusion, read_data

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard.*")


def silent(what: str, done: int, total: int) -> None:
    del what, done, total


@pytest.fixture(scope="module")
def data(shapes: Path) -> DataSet:
    return read_data(shapes, 32, strict=True, watch=silent)


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def go(run: Run) -> dict[str, Any]:
    for _ in run.steps():
        pass
    return run.finish({})


def train_autoencoder(data: DataSet, folder: Path, *settings: str, **plan: Any) -> dict[str, Any]:
    config = override(tiny_autoencoder(), ["precision=float32", "steps=12", *settings])
    return go(prepare_autoencoder(config, tiny(), data, Plan(folder, device="cpu", **plan)))


@pytest.fixture(scope="module")
def autoencoder(data: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("autoencoder")
    train_autoencoder(data, folder / "run")
    return folder / "run" / "model.safetensors"


def diffusion_run(data: DataSet, folder: Path, autoencoder: Path, *settings: str, **plan: Any) -> Run:
    config = override(tiny_diffusion(), ["precision=float32", "steps=12", *settings])
    return prepare_diffusion(
        config, tiny(), data, Plan(folder, device="cpu", **plan), autoencoder=autoencoder, watch=silent
    )


def last_checkpoint(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(sorted((folder / "checkpoints").glob("*"))[-1])


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert different == []


def test_the_split_is_kept_apart(data: DataSet) -> None:
    assert (len(data.pictures), len(data.held_out)) == (21, 3)
    assert all("red" in record.captions[0] for record in data.held_out_records)


def test_an_autoencoder_learns_and_its_latents_come_out_normalised(data: DataSet, tmp_path: Path) -> None:
    report = train_autoencoder(
        data, tmp_path / "run", "steps=150", "learning_rate=3e-3", "evaluate_every=75", "sample_every=75"
    )
    history = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in history if "loss" in record]
    assert losses[-1] < 0.5 * losses[0]
    assert [r["step"] for r in history if "validation_psnr" in r] == [75, 150]
    assert report["finished"]
    assert report["images_seen"] == 600
    assert size_of(tmp_path / "run" / "samples" / "step-00000150.png") == (2 * 3 * 34 - 2, 32)
    trained = native.load_autoencoder(tmp_path / "run" / "model.safetensors")
    latents = trained.encode(data.pictures.float() / 127.5 - 1).mode()
    assert latents.mean(dim=(0, 2, 3)).tolist() == pytest.approx([0] * 4, abs=0.05)
    assert latents.std(dim=(0, 2, 3)).tolist() == pytest.approx([1] * 4, abs=0.05)
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    assert "## Training" in (tmp_path / "run" / "report.md").read_text()


def test_an_interrupted_autoencoder_run_ends_with_the_same_bits(data: DataSet, tmp_path: Path) -> None:
    train_autoencoder(data, tmp_path / "whole")
    config = override(tiny_autoencoder(), ["precision=float32", "steps=12"])
    broken = prepare_autoencoder(config, tiny(), data, Plan(tmp_path / "broken", device="cpu"))
    steps = broken.steps()
    for _ in range(7):  # the checkpoint is of step 5
        next(steps)
    steps.close()
    train_autoencoder(data, tmp_path / "broken", resume=True)
    assert_same(last_checkpoint(tmp_path / "whole"), last_checkpoint(tmp_path / "broken"))
    weights = [
        native.describe(tmp_path / name / "model.safetensors").weights_hash for name in ("whole", "broken")
    ]
    assert weights[0] == weights[1]
    numbers = [
        json.loads(line)["step"] for line in (tmp_path / "broken" / "metrics.jsonl").read_text().splitlines()
    ]
    assert numbers == list(range(1, 13))


@pytest.mark.parametrize(
    "settings",
    [
        (),
        pytest.param(("train_text_encoder=false",), marks=pytest.mark.verify),
        pytest.param(("noise_levels=logit_normal", "weighting=uniform"), marks=pytest.mark.verify),
        pytest.param(("optimizer=muon",), marks=pytest.mark.verify),
    ],
)
def test_an_interrupted_diffusion_run_ends_with_the_same_bits(
    data: DataSet, tmp_path: Path, autoencoder: Path, settings: tuple[str, ...]
) -> None:
    go(diffusion_run(data, tmp_path / "whole", autoencoder, *settings))
    steps = diffusion_run(data, tmp_path / "broken", autoencoder, *settings).steps()
    for _ in range(9):
        next(steps)
    steps.close()
    go(diffusion_run(data, tmp_path / "broken", autoencoder, *settings, resume=True))
    assert_same(last_checkpoint(tmp_path / "whole"), last_checkpoint(tmp_path / "broken"))


def test_a_frozen_text_encoder_stays_as_it_was(data: DataSet, tmp_path: Path, autoencoder: Path) -> None:
    run = diffusion_run(data, tmp_path / "run", autoencoder, "train_text_encoder=false", "weight_decay=0.5")
    before = {n: v.clone() for n, v in run.objective.state_dict().items() if n.startswith("text_encoder.")}
    go(run)
    after = {n: v for n, v in run.objective.state_dict().items() if n.startswith("text_encoder.")}
    assert before
    assert_same(before, after)


def test_pixels_train_without_an_autoencoder(data: DataSet, tmp_path: Path) -> None:
    unet = dataclasses.replace(tiny().unet, in_channels=3, out_channels=3)
    config = override(tiny_diffusion(), ["steps=2", "sample_every=2"])
    model = dataclasses.replace(tiny(), autoencoder=None, unet=unet)
    go(prepare_diffusion(config, model, data, Plan(tmp_path / "run", device="cpu"), watch=silent))
    assert native.load(tmp_path / "run" / "model.safetensors").config.factor == 1
    assert size_of(tmp_path / "run" / "samples" / "step-00000002.png") == (32, 32)


def test_init_from_begins_with_the_given_weights(data: DataSet, tmp_path: Path, autoencoder: Path) -> None:
    go(diffusion_run(data, tmp_path / "first", autoencoder, "steps=3"))
    source = tmp_path / "first" / "model.safetensors"
    config = override(tiny_diffusion(), ["steps=1", "learning_rate=1e-30", "precision=float32"])
    plan = Plan(tmp_path / "second", device="cpu")
    go(prepare_diffusion(config, tiny(), data, plan, init_from=source, watch=silent))
    again = safetensors.torch.load_file(tmp_path / "second" / "model.safetensors")
    assert_same(safetensors.torch.load_file(source), again)


def test_a_decoder_trained_alone_leaves_the_latents_as_they_are(
    data: DataSet, tmp_path: Path, autoencoder: Path
) -> None:
    config = override(tiny_autoencoder(), ["train_encoder=false", "latent_noise=0.3", "precision=float32"])
    plan = Plan(tmp_path / "decoder", device="cpu")
    go(prepare_autoencoder(config, tiny(), data, plan, init_from=autoencoder))
    before = native.load_autoencoder(autoencoder)
    after = native.load_autoencoder(tmp_path / "decoder" / "model.safetensors")
    images = to_signed(data.pictures[:3])
    assert torch.equal(before.encode(images).mean, after.encode(images).mean)
    latents = before.encode(images).mean
    assert not torch.equal(before.decode(latents), after.decode(latents))

    run = diffusion_run(data, tmp_path / "first", autoencoder)
    go(run)
    again = prepare_diffusion(
        override(tiny_diffusion(), ["steps=2"]),
        tiny(),
        data,
        Plan(tmp_path / "again", device="cpu"),
        autoencoder=tmp_path / "decoder" / "model.safetensors",
        init_from=tmp_path / "first" / "model.safetensors",
        watch=silent,
    )
    go(again)
    whole = native.load(tmp_path / "again" / "model.safetensors")
    assert torch.equal(whole.autoencoder.decode(latents), after.decode(latents))


def test_an_autoencoder_of_other_latents_is_refused(data: DataSet, tmp_path: Path, autoencoder: Path) -> None:
    go(diffusion_run(data, tmp_path / "first", autoencoder, "steps=1"))
    preset = tiny()
    assert preset.autoencoder is not None
    wider = dataclasses.replace(
        preset, autoencoder=dataclasses.replace(preset.autoencoder, latent_channels=8)
    )
    config = override(tiny_autoencoder(), ["steps=1"])
    go(prepare_autoencoder(config, wider, data, Plan(tmp_path / "wider", device="cpu")))
    with pytest.raises(InputError, match="makes 8 channels at factor 4"):
        prepare_diffusion(
            tiny_diffusion(),
            preset,
            data,
            Plan(tmp_path / "second", device="cpu"),
            autoencoder=tmp_path / "wider" / "model.safetensors",
            init_from=tmp_path / "first" / "model.safetensors",
            watch=silent,
        )


def test_only_one_run_writes_to_a_folder(data: DataSet, tmp_path: Path) -> None:
    config = override(tiny_autoencoder(), ["steps=2"])
    run = prepare_autoencoder(config, tiny(), data, Plan(tmp_path / "run", device="cpu"))
    with pytest.raises(TrainingError, match="Another training run is writing"):
        prepare_autoencoder(config, tiny(), data, Plan(tmp_path / "run", device="cpu", resume=True))
    go(run)
    with pytest.raises(TrainingError, match="already holds a run; add --resume"):
        prepare_autoencoder(config, tiny(), data, Plan(tmp_path / "run", device="cpu"))


def test_resuming_with_other_options_names_them(data: DataSet, tmp_path: Path) -> None:
    train_autoencoder(data, tmp_path / "run", "steps=2")
    with pytest.raises(TrainingError, match="another batch, seed, steps"):
        train_autoencoder(data, tmp_path / "run", "steps=3", "seed=9", "batch=2", resume=True)
    before = torch.get_num_threads()
    try:
        with pytest.raises(TrainingError, match=r"has threads .* --threads, or give --inexact"):
            train_autoencoder(data, tmp_path / "run", "steps=2", resume=True, threads=before + 1)
        train_autoencoder(data, tmp_path / "run", "steps=2", resume=True, threads=before + 1, inexact=True)
    finally:
        torch.set_num_threads(before)


def test_the_precision_is_decided_once_and_kept(
    data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def go_on(folder: str, steps: str, *settings: str, units: bool, resume: bool = False) -> dict[str, Any]:
        monkeypatch.setattr(processor, "multiplies_bf16", lambda: units)
        config = override(tiny_autoencoder(), [steps, *settings])
        return go(prepare_autoencoder(config, tiny(), data, Plan(tmp_path / folder, resume, device="cpu")))

    assert go_on("plain", "steps=2", units=False)["precision"] == "float32"
    assert json.loads((tmp_path / "plain" / "config.json").read_text())["config"]["precision"] == "float32"
    recipe = native.describe(tmp_path / "plain" / "model.safetensors").recipe
    assert recipe["training"]["precision"] == "float32"
    assert go_on("plain", "steps=2", units=True, resume=True)["precision"] == "float32"

    assert go_on("fast", "steps=2", units=True)["precision"] == "bf16"
    with pytest.raises(TrainingError, match="bf16, for which this machine has no units"):
        go_on("fast", "steps=2", units=False, resume=True)
    again = go_on("fast", "steps=2", "precision=bf16", units=False, resume=True)
    assert again["precision"] == "bf16"
    with pytest.raises(TrainingError, match="another precision"):
        go_on("fast", "steps=2", "precision=float32", units=False, resume=True)


def test_a_damaged_checkpoint_is_named(data: DataSet, tmp_path: Path) -> None:
    train_autoencoder(data, tmp_path / "run", "steps=2")
    path = next((tmp_path / "run" / "checkpoints").glob("*"))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(TrainingError, match="not a readable training checkpoint"):
        train_autoencoder(data, tmp_path / "run", "steps=2", resume=True)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_state(data: DataSet, tmp_path: Path) -> None:
    config = override(tiny_autoencoder(), ["steps=12", "precision=float32"])
    run = prepare_autoencoder(config, tiny(), data, Plan(tmp_path / "run", device="cpu"))
    steps = run.steps()
    for _ in range(6):
        next(steps)
    next(iter(run.objective.parameters())).data.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"batch 6 is not finite.*listed in .*not-finite\.json"):
        next(steps)
    kept = last_checkpoint(tmp_path / "run")
    assert all(bool(torch.isfinite(value).all()) for value in kept.values())
    named = json.loads((tmp_path / "run" / "not-finite.json").read_text())
    seen = [str(data.records[i].path) for i in run.order.indices(6).tolist()]
    assert named == {"batch": 6, "pictures": seen}


def test_a_poisonous_batch_costs_no_step_before_it(data: DataSet, tmp_path: Path) -> None:
    config = override(tiny_autoencoder(), ["steps=12", "precision=float32", "checkpoint_every=100"])
    run = prepare_autoencoder(config, tiny(), data, Plan(tmp_path / "run", device="cpu"))
    own = run.objective.batch

    def poisoned(indices: torch.Tensor, step: int, share: slice) -> dict[str, torch.Tensor]:
        batch = own(indices, step, share)
        return batch if step != 4 else batch | {"images": batch["images"] * float("nan")}

    run.objective.batch = poisoned  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match="batch 4 is not finite"):
        for _ in run.steps():
            pass
    assert [path.name for path in run.folder.checkpoints()] == ["step-00000004.safetensors"]


def test_stopping_leaves_a_checkpoint_of_the_step_reached(data: DataSet, tmp_path: Path) -> None:
    config = override(tiny_autoencoder(), ["steps=12", "precision=float32"])
    run = prepare_autoencoder(config, tiny(), data, Plan(tmp_path / "run", device="cpu"))
    for progress in run.steps():
        if progress.report.step == 3:
            run.stop()
    assert [path.name for path in run.folder.checkpoints()] == ["step-00000003.safetensors"]
    assert run.finish({})["finished"] is False


def test_balance_must_name_a_kind_of_the_data(data: DataSet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"balance\.emoji names a kind that no picture has"):
        train_autoencoder(data, tmp_path / "run", "balance.emoji=2")


def test_a_latent_model_asks_for_its_autoencoder(data: DataSet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs a trained autoencoder"):
        prepare_diffusion(tiny_diffusion(), tiny(), data, Plan(tmp_path / "run"), watch=silent)


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pictures"):
        read_data(tmp_path, 32, strict=False, watch=silent)


def test_one_picture_is_enough(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    Image.new("RGB", (40, 30), "teal").save(tmp_path / "data" / "only.png")
    data = read_data(tmp_path / "data", 32, strict=False, watch=silent)
    assert len(data.held_out) == 0
    assert train_autoencoder(data, tmp_path / "run", "steps=2", "evaluate_every=1", "sample_every=1")[
        "finished"
    ]


def test_configs_are_typed() -> None:
    assert isinstance(tiny_autoencoder(), AutoencoderTraining)
    assert isinstance(tiny_diffusion(), DiffusionTraining)
