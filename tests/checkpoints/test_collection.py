"""The folder CALOTYPE_MODELS and the hub's local cache: what a name means.  Nothing here asks the network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from safetensors.torch import save_file
from tests.checkpoints.families import CONFIGS, TOKENIZER

from calotype.checkpoints import collection, diffusers_writer, hub, shelf
from calotype.errors import CheckpointError, FetchError, InputError
from calotype.models.latent_diffusion import build


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "models"
    for name in ("sd/one.safetensors", "sd/one.ckpt", "loras/style.safetensors", "a/same.pt", "b/same.pt"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_bytes(b"x")
    (made / "notes.txt").write_text("no model")
    (made / ".cache").mkdir()
    (made / ".cache" / "hidden.safetensors").write_bytes(b"x")
    (made / "big" / "unet").mkdir(parents=True)
    (made / "big" / "model_index.json").write_text("{}")
    (made / "big" / "unet" / "part.safetensors").write_bytes(b"x")
    (made / "loop").symlink_to(made)
    monkeypatch.setenv(collection.VARIABLE, str(made))
    return made


def test_what_lies_in_the_folder(folder: Path) -> None:
    assert collection.models_folder() == folder
    found = collection.entries(folder)
    assert {name: path.relative_to(folder).as_posix() for name, path in found.items()} == {
        "a/same": "a/same.pt",
        "b/same": "b/same.pt",
        "big": "big",
        "loras/style": "loras/style.safetensors",
        "sd/one": "sd/one.safetensors",
        "sd/one.ckpt": "sd/one.ckpt",
    }


def test_names_in_the_folder(folder: Path) -> None:
    for name, place in (
        ("one", "sd/one.safetensors"),
        ("sd/one", "sd/one.safetensors"),
        ("one.ckpt", "sd/one.ckpt"),
        ("sd/one.ckpt", "sd/one.ckpt"),
        ("style.safetensors", "loras/style.safetensors"),
        ("big", "big"),
        ("b/same", "b/same.pt"),
    ):
        assert collection.find(name, folder) == folder / place
        assert shelf.find(name) == folder / place
    with pytest.raises(InputError, match="several models called 'same'; name one of a/same, b/same"):
        collection.find("same", folder)
    with pytest.raises(InputError, match="did you mean 'style'"):
        collection.find("styl", folder)
    with pytest.raises(InputError, match="there are: a/same, b/same"):
        collection.find("zzzzz", folder)
    with pytest.raises(InputError, match="There is no model 'styl'; did you mean 'style'"):
        shelf.find("styl")
    with pytest.raises(InputError, match=r"There is no one\.pt in .*there are: a/same, b/same"):
        collection.find("one", folder, (".pt",))
    assert shelf.find("icons").name == "icons.safetensors", "what is shipped comes first"


def test_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(collection.VARIABLE, raising=False)
    assert collection.models_folder() is None
    monkeypatch.setenv(collection.VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"CALOTYPE_MODELS is .*nowhere, which is no folder"):
        shelf.find("one")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "folder"
    diffusers_writer.write(folder, build(CONFIGS["sd1"], TOKENIZER), torch.float16, {})
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Path]:
    """Puts a folder into a hub's cache of its own, as someone/model; nobody can reach the hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv(collection.VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", refuse)

    def put(folder: Path) -> Path:
        home = tmp_path / "hub" / "models--someone--model"
        snapshot = home / "snapshots" / ("0" * 40)
        shutil.copytree(folder, snapshot)
        (home / "refs").mkdir()
        (home / "refs" / "main").write_text("0" * 40)
        return snapshot

    return put


def refuse(*_: object, **__: object) -> str:
    pytest.fail("the hub was asked")


def test_the_local_cache_comes_first(cache: Callable[[Path], Path], written: Path) -> None:
    snapshot = cache(written)
    for fetch in (True, False):
        for name in ("someone/model", "someone/model:fp16"):
            found = shelf.find(name, fetch=fetch)
            assert found.resolve() == snapshot.resolve()
    assert shelf.recognise(found).config.name == "sd1"


@pytest.mark.usefixtures("cache")
def test_nothing_is_fetched_unless_that_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FetchError, match="no file or folder someone/model, and the local cache"):
        shelf.find("someone/model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FetchError, match="without --offline"):
        shelf.find("someone/model", fetch=True)


@pytest.mark.usefixtures("cache")
def test_what_is_no_id(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    for name in ("runs/model", "someone/model.safetensors", "a/b/c", "/abs/model", "someone/..", "./model"):
        assert not hub.is_id(name), name
        with pytest.raises(InputError, match=r"There is no (file|model)"):
            shelf.find(name, fetch=True)


def test_an_unfinished_copy_is_completed(
    cache: Callable[[Path], Path], written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = cache(written)
    gone = snapshot / "vae" / "diffusion_pytorch_model.safetensors"
    gone.unlink()
    with pytest.raises(FetchError, match="does not hold all of such a model"):
        shelf.find("someone/model")
    local = huggingface_hub.snapshot_download
    asked: list[list[str]] = []

    def fetched(
        repository: str, local_files_only: bool = False, allow_patterns: list[str] | None = None
    ) -> str:
        if not local_files_only:
            assert allow_patterns is not None
            asked.append(allow_patterns)
            shutil.copy(written / "vae" / gone.name, gone)
        return str(local(repository, local_files_only=True))

    everything = [path.relative_to(written).as_posix() for path in written.rglob("*") if path.is_file()]
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetched)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_: str(snapshot / "model_index.json"))
    monkeypatch.setattr(
        huggingface_hub.HfApi,
        "list_repo_files",
        lambda *_: [*everything, "README.md", "model.ckpt", "unet/diffusion_pytorch_model.bin"],
    )
    assert shelf.recognise(shelf.find("someone/model", fetch=True)).config.name == "sd1"
    assert sorted(asked[0]) == sorted(name for name in everything if name != "calotype.json")


def test_only_what_is_read_is_fetched() -> None:
    names = [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "text_encoder/config.json",
        "text_encoder/model-00001-of-00002.safetensors",
        "text_encoder/model-00002-of-00002.safetensors",
        "text_encoder/model.safetensors.index.json",
        "text_encoder/model.fp16-00001-of-00001.safetensors",
        "text_encoder/model.safetensors.index.fp16.json",
        "vae/config.json",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "safety_checker/model.safetensors",
        "v1-5.safetensors",
    ]
    plain = hub.needed("someone/model", names, None)
    assert set(plain) == {
        *(name for name in names if name.endswith("config.json") or name == "model_index.json"),
        "unet/diffusion_pytorch_model.safetensors",
        "text_encoder/model-00001-of-00002.safetensors",
        "text_encoder/model-00002-of-00002.safetensors",
        "text_encoder/model.safetensors.index.json",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    }
    half = hub.needed("someone/model", names, "fp16")
    assert {name for name in half if name.endswith("safetensors")} == {
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "text_encoder/model.fp16-00001-of-00001.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    }
    with pytest.raises(CheckpointError, match="no safetensors for unet in the variant bf16"):
        hub.needed("someone/model", names, "bf16")
    with pytest.raises(CheckpointError, match="no safetensors for unet; use another"):
        hub.needed("someone/model", ["unet/config.json", "unet/diffusion_pytorch_model.bin"], None)


NO = SimpleNamespace(headers={}, request=None, status_code=404)
"""An answer, as far as the hub's errors look at it."""


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            RepositoryNotFoundError("401", response=NO),
            "has no model someone/model, or shows it only",
        ),
        (LocalEntryNotFoundError("no connection"), "hub cannot be reached; try again online"),
        (EntryNotFoundError("404"), "has no model_index.json"),
        (HfHubHTTPError("503 busy\nmore", response=NO), r"cannot be fetched .* \(503 busy\)"),
        (OSError("disk full"), r"cannot be fetched .* \(disk full\)"),
    ],
)
def test_what_cannot_be_fetched_is_one_sentence(
    error: Exception, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(FetchError, match=sentence) as caught:
        shelf.find("someone/model", fetch=True)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("cache")
def test_another_kind_is_refused_before_it_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = tmp_path / "model_index.json"
    index.write_text(json.dumps({"_class_name": "FluxPipeline"}))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_: str(index))
    with pytest.raises(CheckpointError, match="someone/model is Flux"):
        shelf.find("someone/model", fetch=True)


def test_a_vae_file_is_no_model(folder: Path) -> None:
    save_file({"x": torch.zeros(1)}, folder / "x.safetensors")
    with pytest.raises(CheckpointError, match="another kind of model"):
        shelf.recognise(shelf.find("x"))
