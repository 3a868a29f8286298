"""The text encoder taught alone what its captions look like."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from calotype.checkpoints import native
from calotype.errors import CheckpointError, InputError
from calotype.models.latent_diffusion import LatentDiffusion, build
from calotype.models.presets import tiny
from calotype.training.config import override
from calotype.training.denoising import DiffusionObjective
from calotype.training.fit import Plan, Run
from calotype.training.recipes import tiny_autoencoder, tiny_diffusion, tiny_text
from calotype.training.sessions import (
    DataSet,
    prepare_autoencoder,
    prepare_diffusion,
    prepare_text,
    read_data,
)
from calotype.training.words import TextObjective

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard.*")


def silent(what: str, done: int, total: int) -> None:
    del what, done, total


def go(run: Run) -> dict[str, Any]:
    for _ in run.steps():
        pass
    return run.finish({})


@pytest.fixture(scope="module")
def data(shapes: Path) -> DataSet:
    return read_data(shapes, 32, strict=True, watch=silent)


@pytest.fixture(scope="module")
def autoencoder(data: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("autoencoder")
    config = override(tiny_autoencoder(), ["precision=float32", "steps=40"])
    go(prepare_autoencoder(config, tiny(), data, Plan(folder, device="cpu")))
    return folder / "model.safetensors"


def text_run(data: DataSet, folder: Path, autoencoder: Path | None, *settings: str, **plan: Any) -> Run:
    config = override(tiny_text(), ["precision=float32", "steps=12", *settings])
    return prepare_text(
        config, tiny(), data, Plan(folder, device="cpu", **plan), autoencoder=autoencoder, watch=silent
    )


@pytest.mark.verify
def test_each_caption_comes_to_foretell_the_mean_of_its_pictures(
    data: DataSet, tmp_path: Path, autoencoder: Path
) -> None:
    settings = ("steps=500", "batch=16", "learning_rate=4e-3", "caption_dropout=0.2", "sample_every=500")
    run = text_run(data, tmp_path / "run", autoencoder, *settings, "evaluate_every=500")
    go(run)
    objective = run.objective
    assert isinstance(objective, TextObjective)
    latents = objective._training.latents.draw(torch.arange(len(data.pictures)), torch.zeros(1))
    captions = [record.captions[0] for record in data.records]
    asked = ["a green circle", "a blue square", "a yellow triangle", ""]
    means = torch.stack([latents[[not ask or text == ask for text in captions]].mean(dim=0) for ask in asked])
    with torch.no_grad():
        said = objective.foretold(objective.text_encoder.tokenize(asked).transpose(0, 1))
    whole = float((latents - latents.mean(dim=0)).square().mean())
    # (S C h w), (M C h w) -> (S M): every answer is near its own mean, and nearest to it
    errors = (said[:, None] - means[None]).square().flatten(2).mean(2)
    assert errors.argmin(dim=1).tolist() == [0, 1, 2, 3]
    assert float(errors.diagonal().max()) < 0.25 * whole
    history = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("validation_loss" in record for record in history)
    assert (tmp_path / "run" / "samples" / "step-00000500.png").is_file()


@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("muon", marks=pytest.mark.verify)])
def test_an_interrupted_text_run_ends_with_the_same_bits(
    data: DataSet, tmp_path: Path, autoencoder: Path, optimizer: str
) -> None:
    go(text_run(data, tmp_path / "whole", autoencoder, f"optimizer={optimizer}"))
    steps = text_run(data, tmp_path / "broken", autoencoder, f"optimizer={optimizer}").steps()
    for _ in range(7):
        next(steps)
    steps.close()
    go(text_run(data, tmp_path / "broken", autoencoder, f"optimizer={optimizer}", resume=True))
    whole, broken = (
        safetensors.torch.load_file(tmp_path / name / "model.safetensors") for name in ("whole", "broken")
    )
    parts = {name.partition(".")[0] for name in whole}
    assert parts == {"text_encoder", "denoiser"}
    assert {name for name in whole if name.startswith("denoiser")} == {
        "denoiser.network.outline.weight",
        "denoiser.network.outline.bias",
    }
    assert all(torch.equal(whole[name], broken[name]) for name in whole)


@pytest.mark.parametrize("changes", [{"outline_cells": 0}, {"outline_cells": 3}, {"outline_side": 2}])
def test_the_outline_must_be_as_large_as_the_latents(
    data: DataSet, tmp_path: Path, autoencoder: Path, changes: dict[str, int]
) -> None:
    model = dataclasses.replace(tiny(), unet=dataclasses.replace(tiny().unet, **changes))
    plan = Plan(tmp_path / "run", device="cpu")
    side = model.unet.outline_cells * model.unet.outline_side
    with pytest.raises(
        InputError, match=f"takes an outline of {side} x {side} from its text, the latents are 8"
    ):
        prepare_text(tiny_text(), model, data, plan, autoencoder=autoencoder, watch=silent)


def test_a_model_without_text_has_no_text_stage(data: DataSet, tmp_path: Path, autoencoder: Path) -> None:
    plan = Plan(tmp_path / "run", device="cpu")
    textless = dataclasses.replace(tiny(), text=())
    with pytest.raises(InputError, match="takes no text"):
        prepare_text(tiny_text(), textless, data, plan, autoencoder=autoencoder, watch=silent)


def test_the_text_stage_asks_for_an_autoencoder(data: DataSet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs a trained autoencoder"):
        text_run(data, tmp_path / "run", None)


def diffusion_on(
    data: DataSet, folder: Path, text: Path, autoencoder: Path | None, init_from: Path | None
) -> LatentDiffusion:
    config = override(tiny_diffusion(), ["steps=2", "train_text_encoder=false", "precision=float32"])
    run = prepare_diffusion(
        config,
        tiny(),
        data,
        Plan(folder, device="cpu"),
        autoencoder=autoencoder,
        text_encoder=text,
        init_from=init_from,
        watch=silent,
    )
    assert isinstance(run.objective, DiffusionObjective)
    go(run)
    return native.load(folder / "model.safetensors")


def test_the_diffusion_model_stands_on_the_text_stage(
    data: DataSet, tmp_path: Path, autoencoder: Path
) -> None:
    go(text_run(data, tmp_path / "text", autoencoder))
    text = tmp_path / "text" / "model.safetensors"
    model = diffusion_on(data, tmp_path / "run", text, autoencoder, None)
    encoder, outline = native.load_text_encoder(text)
    mine, stored = model.text_encoder.state_dict(), encoder.state_dict()
    # to the bit, signs of zeros included: what is cached of a text encoder goes by its hash
    assert native.weights_sha256(mine) == native.weights_sha256(stored)
    read = model.denoiser.network.outline
    assert read is not None
    # two steps of training later
    assert torch.allclose(read.weight, outline["weight"], atol=0.02)


def test_another_text_encoder_under_a_trained_model(data: DataSet, tmp_path: Path, autoencoder: Path) -> None:
    go(text_run(data, tmp_path / "text", autoencoder))
    text = tmp_path / "text" / "model.safetensors"
    # a model that heard a text encoder of another width, its weights all told apart from fresh ones
    encoder, _ = native.load_text_encoder(text)
    narrow = dataclasses.replace(encoder.configs[0].clip, width=8, mlp_width=16)
    config = dataclasses.replace(
        tiny(),
        text=(dataclasses.replace(encoder.configs[0], clip=narrow),),
        unet=dataclasses.replace(tiny().unet, context_width=8),
        autoencoder=native.load_autoencoder(autoencoder).config,
    )
    model = build(config, encoder.tokenizer)
    for value in model.denoiser.parameters():
        torch.nn.init.normal_(value, std=0.05)
    native.save(tmp_path / "old.safetensors", model, dtype=torch.float32)

    new = diffusion_on(data, tmp_path / "run", text, autoencoder, tmp_path / "old.safetensors")
    assert new.config.unet.context_width == 16
    before, after = model.denoiser.state_dict(), new.denoiser.state_dict()
    changed = {name for name in before if before[name].shape != after[name].shape}
    assert changed
    assert all(".attend_context." in name or name == "network.outline.weight" for name in changed), changed
    kept = [
        name for name in before if name not in changed and "outline" not in name and before[name].ndim > 1
    ]
    # two steps move a weight by little; a fresh one would lie elsewhere
    assert all(torch.allclose(before[name], after[name], atol=0.02) for name in kept)


def test_a_file_without_a_text_encoder_is_refused(autoencoder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no text encoder; name one made by `calotype train text`"):
        native.load_text_encoder(autoencoder)


def test_it_goes_on_from_a_trained_text_encoder(data: DataSet, autoencoder: Path, tmp_path: Path) -> None:
    go(text_run(data, tmp_path / "first", autoencoder))
    trained = tmp_path / "first" / "model.safetensors"
    config = override(tiny_text(), ["precision=float32", "steps=1", "learning_rate=1e-9"])
    plan = Plan(tmp_path / "second", device="cpu")
    run = prepare_text(config, tiny(), data, plan, autoencoder=autoencoder, init_from=trained, watch=silent)
    go(run)
    first, second = (
        native.load_text_encoder(path)[0] for path in (trained, plan.folder / "model.safetensors")
    )
    for name, value in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value, atol=1e-3, rtol=0)


def test_reworded_captions_are_a_function_of_the_step(
    data: DataSet, autoencoder: Path, tmp_path: Path
) -> None:
    plain = text_run(data, tmp_path / "plain", autoencoder)
    run = text_run(data, tmp_path / "a", autoencoder, "rewording=0.5")
    again = text_run(data, tmp_path / "b", autoencoder, "rewording=0.5")
    tokens = [each.objective.batch(torch.arange(8), 3, slice(None))["tokens"] for each in (plain, run, again)]
    assert torch.equal(tokens[1], tokens[2])
    changed = (tokens[0] != tokens[1]).any(dim=(1, 2))  # (B T L) -> (B)
    assert changed.any()
    assert not changed.all()
    half = run.objective.batch(torch.arange(8), 3, slice(4, 8))["tokens"]
    assert torch.equal(half, tokens[1][4:])
    for each in (plain, run, again):
        each.folder.close()
