"""Calotype's own file: there and back, and one sentence for everything that can be wrong with it."""

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from calotype.checkpoints import native, shelf
from calotype.checkpoints.weights_file import WeightsFile
from calotype.conditioning.tokenizer import Tokenizer
from calotype.errors import CheckpointError, InputError, OutputError
from calotype.models.latent_diffusion import LatentDiffusion, build
from calotype.models.presets import tiny


@pytest.fixture(scope="module")
def model() -> LatentDiffusion:
    tokenizer = Tokenizer.train(["a red apple", "一个红苹果"], size=768, context_length=16)
    return build(tiny().fitted_to(tokenizer), tokenizer, seed=3)


@pytest.fixture
def file(model: LatentDiffusion, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    native.save(path, model, recipe={"steps": 5}, dtype=torch.float32)
    return path


def test_there_and_back(model: LatentDiffusion, file: Path) -> None:
    again = native.load(file)
    assert again.config == model.config
    assert again.text_encoder.tokenizer is not None
    assert model.text_encoder.tokenizer is not None
    assert again.text_encoder.tokenizer.vocab == model.text_encoder.tokenizer.vocab
    for name, part in model.parts().items():
        stored = again.parts()[name].state_dict()
        assert stored.keys() == part.state_dict().keys()
        for key, value in part.state_dict().items():
            assert torch.equal(value, stored[key]), key
    assert not any(part.training for part in again.parts().values())
    with torch.no_grad():
        x, sigma = torch.randn(2, 4, 8, 8), torch.tensor([2.0, 0.1])
        condition = model.text_encoder(["red", ""])
        assert torch.equal(model.denoiser(x, sigma, condition), again.denoiser(x, sigma, condition))


def test_half_on_disk_full_in_memory(model: LatentDiffusion, tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    digest = native.save(path, model)
    info = native.describe(path)
    assert info.dtype == "float16"
    assert info.weights_hash == digest
    assert info.parameters.keys() == {"autoencoder", "text_encoder", "denoiser"}
    again = native.load(path)
    assert again.weights_hash == digest
    weight = next(again.denoiser.parameters())
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight, next(model.denoiser.parameters()), rtol=1e-3, atol=1e-6)
    # What was read is written to the same bits, so the hash is the model's own.
    assert native.save(tmp_path / "again.safetensors", again) == digest
    assert next(native.load(path, dtype=torch.bfloat16).denoiser.parameters()).dtype == torch.bfloat16


def test_what_is_copied_lies_channels_last_and_leaves_the_file(
    model: LatentDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "half.safetensors"
    native.save(path, model)
    left: list[str] = []
    monkeypatch.setattr(WeightsFile, "forget", lambda _, name: left.append(name))
    for dtype, form in ((torch.float32, torch.channels_last), (None, torch.contiguous_format)):
        left.clear()
        states = {name: part.state_dict() for name, part in native.load(path, dtype=dtype).parts().items()}
        kernels = [value for state in states.values() for value in state.values() if value.ndim == 4]
        assert kernels
        assert all(kernel.is_contiguous(memory_format=form) for kernel in kernels)
        names = {f"{part}.{name}" for part, state in states.items() for name in state}
        assert set(left) == (names if dtype else set())  # else they are views of the file


def test_building_is_repeatable_and_parts_are_independent(model: LatentDiffusion) -> None:
    tokenizer = model.text_encoder.tokenizer
    before = torch.get_rng_state()
    again = build(model.config, tokenizer, seed=3)
    assert torch.equal(before, torch.get_rng_state())
    other = build(model.config, tokenizer, seed=4)
    wider = build(dataclasses.replace(model.config, autoencoder=None), tokenizer, seed=3)
    for name in ("text_encoder", "denoiser"):
        mine = native.weights_sha256(model.parts()[name].state_dict())
        assert mine == native.weights_sha256(again.parts()[name].state_dict())
        assert mine == native.weights_sha256(wider.parts()[name].state_dict())
        assert mine != native.weights_sha256(other.parts()[name].state_dict())


def test_a_part_alone(model: LatentDiffusion, tmp_path: Path) -> None:
    path = tmp_path / "autoencoder.safetensors"
    native.save(path, model, parts=("autoencoder",), dtype=torch.float32)
    autoencoder = native.load_autoencoder(path)
    for key, value in model.autoencoder.state_dict().items():
        assert torch.equal(value, autoencoder.state_dict()[key])
    with pytest.raises(CheckpointError, match="no text encoder"):
        native.load(path)
    native.save(path, model, parts=("denoiser",))
    with pytest.raises(CheckpointError, match="no autoencoder"):
        native.load_autoencoder(path)


def rewrite(path: Path, tensors: dict[str, torch.Tensor] | None = None, **metadata: str | None) -> None:
    """The same file with some tensors (all) or metadata (the named) exchanged; None takes a key out."""
    with safe_open(str(path), framework="pt") as opened:
        old = dict(opened.metadata())
    kept = {key: value for key, value in (old | metadata).items() if value is not None}
    save_file(load_file(path) if tensors is None else tensors, path, kept)


def test_missing_extra_and_misshapen_keys_are_named(file: Path) -> None:
    tensors = load_file(file)
    names = sorted(tensors)
    removed = dict(tensors)
    del removed[names[0]]
    rewrite(file, removed)
    with pytest.raises(CheckpointError, match=f"lacks {names[0]}"):
        native.load(file)
    rewrite(file, tensors | {"denoiser.surplus": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"unknown denoiser\.surplus"):
        native.load(file)
    rewrite(file, tensors | {"other.surplus": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"unknown other\.surplus"):
        native.load(file)
    rewrite(file, tensors | {names[0]: torch.zeros(2, 7, 1)})
    with pytest.raises(CheckpointError, match=rf"misshapen {names[0]} \(2, 7, 1\) instead of"):
        native.load(file)


def test_damaged_files_are_one_sentence(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    broken = tmp_path / "broken.safetensors"
    for length in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        broken.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"cut short|empty|neither"):
            native.load(broken)
    broken.write_bytes(b"\x89PNG not weights at all" * 100)
    with pytest.raises(CheckpointError, match="is neither a safetensors file nor"):
        native.describe(broken)
    with pytest.raises(CheckpointError, match="not a file"):
        native.load(tmp_path)
    save_file({"weight": torch.zeros(2)}, broken)
    with pytest.raises(CheckpointError, match="not a checkpoint of Calotype's"):
        native.load(broken)
    for key in ("config", "tokenizer", "weights_sha256"):
        broken.write_bytes(whole)
        rewrite(broken, **{key: None})
        with pytest.raises(CheckpointError, match=f"lacks '{key}'"):
            native.load(broken)
    for key, value in (("tokenizer", "{}"), ("tokenizer", "["), ("config", "{}"), ("recipe", "[")):
        broken.write_bytes(whole)
        rewrite(broken, **{key: value})
        with pytest.raises(CheckpointError, match=r"broken\.safetensors"):
            native.describe(broken) if key == "recipe" else native.load(broken)


def test_saving_fails_cleanly(model: LatentDiffusion, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        native.save(tmp_path / "missing" / "x.safetensors", model)
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        native.save(tmp_path / "folder.safetensors", model)
    sick = build(model.config, model.text_encoder.tokenizer)
    with torch.no_grad():
        next(sick.denoiser.parameters()).fill_(1e6)
    with pytest.raises(CheckpointError, match=r"denoiser\..*not finite in torch\.float16"):
        native.save(tmp_path / "x.safetensors", sick)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.safetensors"]


def test_names_are_found_or_the_nearest_is_suggested(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "shipped", lambda: {"icons": Path("icons.safetensors")})
    assert shelf.find("icons") == Path("icons.safetensors")
    assert shelf.find(str(file)) == file
    with pytest.raises(InputError, match="did you mean 'icons'"):
        shelf.find("icon")
    with pytest.raises(InputError, match="shipped are: icons"):
        shelf.find("zzzzzz")
    with pytest.raises(InputError, match="no file"):
        shelf.find("nowhere/icons.safetensors")
