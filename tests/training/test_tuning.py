"""Trainings that begin with a finished model: what learns, what stays, what others read in the end."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tests.checkpoints.families import CONFIGS, TOKENIZER
from tests.checkpoints.test_lora_files import in_diffusers, ours, theirs
from tests.networks.reference import randomise, relative_error
from torch import Tensor

from calotype.checkpoints import embedding, lora, native, shelf, single_file
from calotype.errors import InputError, TrainingError
from calotype.models.latent_diffusion import LatentDiffusion, build
from calotype.networks.lora import Adapter
from calotype.training.adapters import TARGETS, LoraObjective, chosen
from calotype.training.config import override
from calotype.training.fit import Plan, Run
from calotype.training.sessions import DataSet, read_data
from calotype.training.tune_config import DreamBoothTraining, FineTuning, InversionTraining, LoraTraining
from calotype.training.tuning import (
    Base,
    captioned,
    prepare_dreambooth,
    prepare_finetune,
    prepare_inversion,
    prepare_lora,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard.*")

Files = Callable[[str], Path]

QUICK = ("precision=float32", "steps=4", "batch=2", "warmup=1", "sample_every=0", "evaluate_every=0")
SOME = "targets=unet.down_blocks.*.attn?.to_q;unet.mid_block.*.proj_in;text_encoder.*layers.0.self_attn.*"
FAST = "learning_rate=0.05"
SOON = ("checkpoint_every=2", "log_every=1", "image_size=32")


def silent(what: str, done: int, total: int) -> None:
    del what, done, total


@pytest.fixture(scope="module")
def data(shapes: Path) -> DataSet:
    return read_data(shapes, 32, strict=True, watch=silent)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A family's tiny single file, random in every weight."""
    folder = tmp_path_factory.mktemp("models")

    def of(name: str) -> Path:
        path = folder / f"{name}.safetensors"
        if not path.exists():
            model = build(CONFIGS[name], TOKENIZER, seed=1)
            for part in model.parts().values():
                randomise(part)
            single_file.write(path, model, torch.float32, {})
        return path

    return of


def plan(folder: Path, **options: Any) -> Plan:
    return Plan(folder, device="cpu", **options)


def lora_run(base: Base, data: DataSet, folder: Path, *settings: str, **options: Any) -> Run:
    config = override(LoraTraining(rank=2), [*QUICK, *SOON, *settings])
    layout = options.pop("layout", "kohya")
    return prepare_lora(config, base, data, plan(folder, **options), layout=layout, watch=silent)


def finetune_run(base: Base, data: DataSet, folder: Path, *settings: str, **options: Any) -> Run:
    config = override(FineTuning(), [*QUICK, *SOON, *settings])
    return prepare_finetune(config, base, data, plan(folder, **options), watch=silent)


def dreambooth_run(base: Base, data: DataSet, folder: Path, *settings: str, **options: Any) -> Run:
    begun = DreamBoothTraining(
        prompt="a sks apple", class_prompt="a red apple", class_pictures=2, rank=2, learning_rate=0.01
    )
    config = override(begun, [*QUICK, *SOON, *settings])
    return prepare_dreambooth(config, base, data, plan(folder, **options), watch=silent)


def inversion_run(base: Base, data: DataSet, folder: Path, *settings: str, **options: Any) -> Run:
    config = override(InversionTraining(word="<it>", initial="apple", vectors=2), [*QUICK, *SOON, *settings])
    return prepare_inversion(config, base, data, plan(folder, **options), watch=silent)


RUNS = {
    "lora": lora_run,
    "finetune": finetune_run,
    "dreambooth": dreambooth_run,
    "inversion": inversion_run,
}


def go(run: Run) -> list[float]:
    losses = [state.report.parts["loss"] for state in run.steps()]
    run.finish({})
    return losses


def weights(model: LatentDiffusion) -> dict[str, Tensor]:
    parts = model.parts().items()
    return {
        f"{part}.{name}": value.clone() for part, net in parts for name, value in net.state_dict().items()
    }


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


@pytest.mark.filterwarnings("ignore")  # diffusers and PEFT warn of their own
@pytest.mark.parametrize("name", ["sd1", pytest.param("sdxl", marks=pytest.mark.verify)])
@torch.no_grad()
def test_what_is_trained_diffusers_loads_in_both_layouts(
    files: Files, name: str, data: DataSet, tmp_path: Path
) -> None:
    model = shelf.load(files(name), dtype=torch.float64)
    pipe = in_diffusers(model, tmp_path)
    plain, before = ours(model, "denoiser"), weights(model)
    for layout in ("kohya", "diffusers"):
        with torch.enable_grad():
            go(lora_run(Base.of(str(files(name))), data, tmp_path / layout, SOME, FAST, layout=layout))
        made = tmp_path / layout / "lora.safetensors"
        assert not (tmp_path / layout / "model.safetensors").exists()
        found = lora.read(made, model)
        assert found.unknown == ()
        pipe.load_lora_weights(str(made))
        adapters = [Adapter(model.denoiser), Adapter(model.text_encoder)]
        for adapter, part in zip(adapters, ("denoiser", "text_encoder"), strict=True):
            adapter.apply([(found.changes[part], 1.0)])
            assert relative_error(ours(model, part), theirs(pipe, model, part)) <= 1e-6
        assert relative_error(ours(model, "denoiser"), plain) > 0.01
        for adapter in adapters:
            adapter.remove()
        same(weights(model), before)
        pipe.unload_lora_weights()


@pytest.mark.verify
def test_a_lora_learns_and_alone_lies_in_the_checkpoint(files: Files, data: DataSet, tmp_path: Path) -> None:
    base = Base.of(str(files("sd1")))
    run = lora_run(
        base, data, tmp_path / "run", "steps=40", "batch=4", "learning_rate=0.02", "evaluate_every=40"
    )
    model = run.objective._model[0]
    before = weights(base.load())
    losses = go(run)
    assert sum(losses[-10:]) < 0.95 * sum(losses[:10])
    stored = safetensors.torch.load_file(sorted((tmp_path / "run" / "checkpoints").glob("*"))[-1])
    assert {name.split("/")[0] for name in stored} == {"model", "ema", "optimizer"}
    assert all("low.changes." in name for name in stored)
    assert isinstance(run.objective, LoraObjective)
    run.objective.remove()
    same(weights(model), before)
    told = json.loads((tmp_path / "run" / "report.json").read_text())
    assert told["kind"] == "lora"
    assert told["finished"]


@pytest.mark.parametrize("name", ["sd1", pytest.param("sdxl", marks=pytest.mark.verify)])
def test_a_fine_tuned_model_is_a_single_file_with_its_other_parts_as_they_were(
    files: Files, data: DataSet, tmp_path: Path, name: str
) -> None:
    go(finetune_run(Base.of(str(files(name))), data, tmp_path / "run", "learning_rate=1e-3"))
    before, after = (
        weights(shelf.load(path)) for path in (files(name), tmp_path / "run" / "model.safetensors")
    )
    assert before.keys() == after.keys()
    changed = {
        name.split(".")[0] for name in before if not torch.equal(before[name].half(), after[name].half())
    }
    assert changed == {"denoiser"}
    same(weights(shelf.load(files(name))), before)  # the file it began with is not written to


def test_what_calotype_made_comes_out_in_its_own_layout(
    tiny_file: Path, data: DataSet, tmp_path: Path
) -> None:
    settings = ("train_text_encoder=true", "learning_rate=1e-3")
    go(finetune_run(Base.of(str(tiny_file)), data, tmp_path / "run", *settings))
    before, after = native.load(tiny_file), native.load(tmp_path / "run" / "model.safetensors")
    changed = {
        part
        for part, net in before.parts().items()
        for name, value in net.state_dict().items()
        if not torch.equal(value.half(), after.parts()[part].state_dict()[name].half())
    }
    assert changed == {"denoiser", "text_encoder"}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind == "lora" else [pytest.mark.verify]) for kind in RUNS]
)
def test_an_interrupted_run_ends_with_the_same_bits(
    files: Files, data: DataSet, tmp_path: Path, kind: str
) -> None:
    base = Base.of(str(files("sd1")))
    go(RUNS[kind](base, data, tmp_path / "whole"))
    steps = RUNS[kind](base, data, tmp_path / "broken").steps()
    for _ in range(3):  # the checkpoint is of step 2
        next(steps)
    steps.close()
    go(RUNS[kind](base, data, tmp_path / "broken", resume=True))
    ends = [sorted((tmp_path / name / "checkpoints").glob("*"))[-1] for name in ("whole", "broken")]
    same(*(safetensors.torch.load_file(path) for path in ends))


def test_a_run_goes_on_from_its_own_weights_only(files: Files, data: DataSet, tmp_path: Path) -> None:
    go(lora_run(Base.of(str(files("sd1"))), data, tmp_path / "run"))
    other = build(CONFIGS["sd1"], TOKENIZER, seed=2)
    single_file.write(tmp_path / "other.safetensors", other, torch.float32, {})
    with pytest.raises(TrainingError, match="has weights sampled-"):
        lora_run(Base.of(str(tmp_path / "other.safetensors")), data, tmp_path / "run", resume=True)
    with pytest.raises(TrainingError, match=r"another .*rank"):
        lora_run(Base.of(str(files("sd1"))), data, tmp_path / "run", "rank=3", resume=True)


def test_sdxl_hears_the_size_and_nothing_as_zeros(files: Files, data: DataSet, tmp_path: Path) -> None:
    run = finetune_run(Base.of(str(files("sdxl"))), data, tmp_path / "run", "train_text_encoder=true")
    objective, model = run.objective, run.objective._model[0]
    tokens = model.text_encoder.tokenize(["", "a red circle"]).transpose(0, 1)  # (T B L) -> (B T L)
    heard = objective.known(torch.zeros(2, 4, 16, 16), tokens)
    said = model.text_encoder(["a red circle"])
    told = model.config.sizes.vector(32, 32, negative=False)
    assert not heard.tokens[0].any()
    assert torch.equal(heard.vector[0], torch.cat([torch.zeros(64), told[0]]))
    assert relative_error(heard.tokens[1:], said.tokens) <= 1e-5
    assert relative_error(heard.vector[1:], torch.cat([said.vector, told], dim=1)) <= 1e-5
    run.folder.close()


def test_targets_are_named_or_patterns() -> None:
    model = build(CONFIGS["sd1"], TOKENIZER, seed=1)
    for target in TARGETS:
        assert chosen(model, [target])
    assert set(chosen(model, ["self", "cross"])) == set(chosen(model, ["attention"]))
    keys = chosen(model, ["unet.*.attn2.to_k"])
    assert keys
    assert all(name.endswith("attn2.to_k") for name in keys.values())
    with pytest.raises(InputError, match="did you mean 'attention'"):
        chosen(model, ["attentoin"])


def test_only_pictures_without_words_take_the_caption(data: DataSet) -> None:
    bare = dataclasses.replace(data.records[0], captions=())
    mixed = dataclasses.replace(data, records=[bare, *data.records[1:]])
    named = captioned(mixed, FineTuning(caption="a shape"))
    assert named.records[0].captions == ("a shape",)
    assert named.records[1:] == data.records[1:]


@pytest.mark.parametrize(("name", "what"), [("sd1-inpainting", "a mask"), ("lcm", "a guidance embedding")])
def test_models_that_are_told_more_are_refused(
    files: Files, data: DataSet, tmp_path: Path, name: str, what: str
) -> None:
    with pytest.raises(InputError, match=what):
        finetune_run(Base.of(str(files(name))), data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.verify
def test_dreambooth_learns_the_subject_beside_its_class(files: Files, data: DataSet, tmp_path: Path) -> None:
    base = Base.of(str(files("sd1")))
    run = dreambooth_run(base, data, tmp_path / "run")
    objective = run.objective
    assert sorted(path.name for path in (tmp_path / "run" / "class").glob("*.png")) == [
        "00000.png",
        "00001.png",
    ]
    told = objective.batch(torch.tensor([0, 1]), 0, slice(None))
    with torch.no_grad():
        parts = objective(**told)
    assert float(parts["loss"]) == pytest.approx(float(parts["subject"] + parts["prior"]), rel=1e-6)
    assert not torch.equal(told["noise"], told["class_noise"])
    assert not torch.equal(told["context"], told["class_context"])
    go(run)
    assert (tmp_path / "run" / "lora.safetensors").exists()
    with pytest.raises(InputError, match="class-prompt"):
        DreamBoothTraining(prompt="a sks apple")


@pytest.mark.parametrize("name", ["sd1", pytest.param("sdxl", marks=pytest.mark.verify)])
def test_a_learned_word_is_a_file_and_the_model_stays(
    files: Files, data: DataSet, tmp_path: Path, name: str
) -> None:
    base = Base.of(str(files(name)))
    run = inversion_run(base, data, tmp_path / "run", "learning_rate=0.1")
    go(run)
    model = base.load()
    found = embedding.read(tmp_path / "run" / "it.safetensors", model)
    ids = model.text_encoder.tokenizer.ids("apple")
    begun = model.text_encoder.towers[0].token_embedding.weight[ids[0]]
    assert found.vectors[0].shape == (2, 64)
    assert relative_error(found.vectors[0][0], begun) > 0.01
    stored = safetensors.torch.load_file(sorted((tmp_path / "run" / "checkpoints").glob("*"))[-1])
    assert {key.split("/")[1].split(".")[0] for key in stored} == {"vectors"}
    trained = {
        key: value for key, value in weights(run.objective._model[0]).items() if "token_emb" not in key
    }
    same(trained, {key: value for key, value in weights(model).items() if "token_emb" not in key})
