"""What a stranger may put into a folder of weights: bombs, pipes, links, names that move the cursor."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.checkpoints.families import CONFIGS, TOKENIZER
from tests.checkpoints.test_mutations import bounds
from torch_files import LAYOUTS

from calotype.checkpoints import diffusers_writer, doctor, shelf
from calotype.checkpoints.weights import Shards, read_json
from calotype.checkpoints.weights_file import open_weights
from calotype.cli import main as cli
from calotype.conditioning import tokenizer
from calotype.conditioning.tokenizer import Tokenizer
from calotype.errors import CalotypeError, CheckpointError, InputError, printable
from calotype.models.latent_diffusion import build

CLEAR = "\x1b[2J\x1b]0;owned\x07\n"
"""Clears a terminal, renames its window, rings, begins a line."""


def some_quick(values: list[Any], *quick: Any) -> list[Any]:
    """Those that are not quick only `make verify` tries."""
    return [
        pytest.param(value, marks=[] if value in quick else pytest.mark.verify, id=str(number))
        for number, value in enumerate(values)
    ]


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("valid") / "folder"
    diffusers_writer.write(folder, build(CONFIGS["sd1"], TOKENIZER, seed=1), None, {})
    return folder


@pytest.fixture
def folder(valid: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(valid, tmp_path / "folder"))


def refused(path: Path) -> str:
    """The sentence with which the folder is refused, in bounded time and memory; no terminal minds it."""
    with bounds(), pytest.raises(CalotypeError) as caught:
        shelf.load(path)
    sentence = str(caught.value)
    assert sentence.isprintable()
    assert len(sentence) < 1000
    sentence.encode()
    return sentence


def sparse(path: Path) -> None:
    """A terabyte that takes no room."""
    path.unlink(missing_ok=True)
    path.touch()
    os.truncate(path, 2**40)


# JSON and vocabularies


FILES = [
    *("model_index.json", "unet/config.json", "scheduler/scheduler_config.json", "calotype.json"),
    *("tokenizer/vocab.json", "tokenizer/merges.txt", "tokenizer/special_tokens_map.json"),
]


@pytest.mark.parametrize("name", some_quick(FILES, "unet/config.json", "tokenizer/merges.txt"))
def test_a_terabyte_is_not_read(name: str, folder: Path) -> None:
    assert (folder / name).is_file(), "nothing would be tested"
    sparse(folder / name)
    assert "has more than" in refused(folder)


@pytest.mark.parametrize("name", some_quick(FILES, "unet/config.json", "tokenizer/merges.txt"))
def test_nobody_waits_at_a_pipe(name: str, folder: Path) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    if name in ("calotype.json", "tokenizer/special_tokens_map.json"):  # those may be missing
        with bounds():
            shelf.load(folder)
    else:
        refused(folder)


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".json")])
@pytest.mark.parametrize(
    "bomb",
    some_quick(["[" * 100_000, '{"a":' * 100_000, '{"a":' + "9" * 5000 + "}", "[]", "\x00"], "[" * 100_000),
)
def test_json_that_is_deep_long_or_none(name: str, bomb: str, folder: Path) -> None:
    (folder / name).write_text(bomb)
    refused(folder)


@pytest.mark.verify
def test_json_of_nothing_but_lists_stays_small(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"a":[' + "[]," * 5_000_000 + "[]]}")
    with bounds():
        assert len(read_json(path)["a"]) == 5_000_001


WORDS: dict[str, Any] = {
    "a number beyond the model": {"a</w>": 10**6},
    "a negative number": {"a</w>": -1},
    "a number of a thousand digits": {"a</w>": 10**999},
    "half a letter": {"\ud800": 3},
    "no words": None,
}


@pytest.mark.parametrize("what", WORDS)
def test_vocabularies(what: str, folder: Path) -> None:
    path = folder / "tokenizer" / "vocab.json"
    changed = WORDS[what]
    told = {} if changed is None else json.loads(path.read_text()) | changed
    path.write_text(json.dumps(told))
    refused(folder)


@pytest.mark.parametrize("line", ["a", " ", "a b c d", "\ufffe x", "x" * 10**6, "<|endoftext|> a"])
def test_merges_that_join_nothing(line: str, folder: Path) -> None:
    path = folder / "tokenizer" / "merges.txt"
    path.write_text(path.read_text() + line + "\n")
    refused(folder)


def test_vocabularies_are_as_long_as_they_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "TEXT_LIMIT", 20_000)
    TOKENIZER.save_clip_files(tmp_path)
    merges = tmp_path / "merges.txt"
    merges.write_text(merges.read_text() + "\n" * (20_000 - merges.stat().st_size))
    assert Tokenizer.from_clip_files(tmp_path, 12).merges == TOKENIZER.merges


@pytest.mark.parametrize(
    ("place", "key", "value"),
    [
        *(("scheduler/scheduler_config.json", "beta_start", value) for value in (-1, 0, 1e308)),
        *(("scheduler/scheduler_config.json", "beta_end", value) for value in (-1, 0, 1e308)),
        ("scheduler/scheduler_config.json", "beta_end", 10**400),
        ("scheduler/scheduler_config.json", "num_train_timesteps", 10**9),
        ("calotype.json", "name", "\ud800"),
        ("calotype.json", "about", 5),
        ("calotype.json", "size", "y" * 5000),
        ("calotype.json", "defaults", {"y" * 5000: 1}),
        ("model_index.json", "_class_name", CLEAR),
        ("model_index.json", "_class_name", "y" * 5000),
        ("unet/config.json", "block_out_channels", [10**9] * 4),
        ("unet/config.json", "layers_per_block", 10**9),
    ],
)  # fmt: skip
def test_settings_that_make_no_model(place: str, key: str, value: object, folder: Path) -> None:
    path = folder / place
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    refused(folder)


# indices and links


def test_an_index_of_twenty_thousand_names(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors")
    index = tmp_path / "x.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {f"a{i}": "x.safetensors" for i in range(20_000)}}))
    with bounds(), pytest.raises(CheckpointError, match="promises a0, a1, a10 and 19997 more"):
        Shards(index)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/b", "..", "", ".", "x" * 10**6, "x\0", CLEAR, "\ud800"]
)
def test_an_index_that_leads_elsewhere(name: str, tmp_path: Path) -> None:
    index = tmp_path / "x.safetensors.index.json"
    for told in ({"a": name}, {name: "x.safetensors"}):
        index.write_text(json.dumps({"weight_map": told}))
        with pytest.raises(CheckpointError) as caught:
            Shards(index)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 1000


LINKS = [
    "/dev/zero",
    "/dev/urandom",
    "/proc/self/mem",
    "/proc/self/environ",
    "/etc/passwd",
    "/",
    "loop",
    "nowhere",
]


@pytest.mark.parametrize("target", some_quick(LINKS, "/dev/zero", "/etc/passwd", "loop"))
@pytest.mark.parametrize(
    "name", ["unet/diffusion_pytorch_model.safetensors", "unet/config.json", "tokenizer/merges.txt"]
)
def test_links_that_lead_elsewhere(name: str, target: str, folder: Path) -> None:
    """A link is followed, as the hub's own cache needs it; what is there is refused, and none of it told."""
    path = folder / name
    path.unlink()
    path.symlink_to(path if target == "loop" else target)
    sentence = refused(folder)
    assert "root:" not in sentence
    assert os.environ["PATH"] not in sentence


def test_a_collection_that_contains_itself(
    valid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALOTYPE_MODELS", str(tmp_path))
    (tmp_path / "again").symlink_to(tmp_path)
    (tmp_path / "model").symlink_to(valid)
    (tmp_path / "zero.safetensors").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.ckpt")
    with bounds():
        assert cli.run(["models"]) == 0
        assert shelf.find("model") == tmp_path / "model"
        with pytest.raises(CheckpointError, match="is not a file"):
            open_weights(tmp_path / "pipe.ckpt")


# names


def test_names_do_not_move_the_cursor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALOTYPE_MODELS", str(tmp_path))
    name = f"{CLEAR}\u202e.safetensors"
    save_file({"emb_params": torch.zeros(3, 768)}, tmp_path / name, {CLEAR: CLEAR, "\x9b2J": "\x9b2J"})
    (tmp_path / f"{CLEAR}.ckpt").write_bytes(b"<html>")
    told = [
        cli.run(["models"]),
        cli.run(["inspect", str(tmp_path / name)]),
        cli.run(["inspect", f"{CLEAR}.ckpt"]),
    ]
    captured = capsys.readouterr()
    assert told == [0, 0, 1]
    assert "x1b[2J" in captured.out
    assert all(line.isprintable() for line in (captured.out + captured.err).split("\n"))
    assert cli.run(["inspect", str(tmp_path / name), "--json"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out)["metadata"][CLEAR] == CLEAR
    assert out.isascii()


def test_what_is_printable_stays() -> None:
    assert printable("模型 é 😍.ckpt") == "模型 é 😍.ckpt"
    assert printable("a\x1b\n\u202e\ud800") == r"a\x1b\n\u202e\ud800"
    assert str(InputError("no\nline")) == r"no\nline"


def test_prompts_that_are_no_text(capsys: pytest.CaptureFixture[str]) -> None:
    """A byte of another encoding on the command line."""
    for words in (["\udcff"], ["a", "--negative", "\udcff"]):
        assert cli.run(["generate", *words]) == 2
        assert "are no text" in capsys.readouterr().err


# weights


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_small_file_makes_no_large_model(layout: str, tmp_path: Path) -> None:
    """A thousand tensors of 4 MB each, and one of them is stored."""
    stored = torch.zeros(2**20)
    path = tmp_path / "x.ckpt"
    tensors = {str(i): stored for i in range(1000)}
    torch.save(tensors, path, _use_new_zipfile_serialization=layout == "zip")
    with pytest.raises(CheckpointError, match=r"4194304000 bytes by showing its own .* again and again"):
        open_weights(path)
    torch.save(dict(list(tensors.items())[:4]), path, _use_new_zipfile_serialization=layout == "zip")
    assert len(open_weights(path).shapes) == 4


@pytest.mark.parametrize("key", ["config", "tokenizer", "recipe", "format"])
@pytest.mark.parametrize(
    "text",
    some_quick(
        ["[" * 100_000, "9" * 5000, "null", "{}", CLEAR, '"\\ud800"', '{"a": "\\ud800"}'],
        "[" * 100_000,
        CLEAR,
    ),
)
def test_metadata_of_calotypes_own(key: str, text: str, tiny_file: Path, tmp_path: Path) -> None:
    spoilt, raw = tmp_path / "spoilt.safetensors", tiny_file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    header["__metadata__"][key] = text
    told = json.dumps(header).encode()
    spoilt.write_bytes(len(told).to_bytes(8, "little") + told + raw[8 + length :])
    sentence = ""
    with bounds():
        try:
            shelf.load(spoilt)
            doctor.examine(spoilt)
        except CalotypeError as error:
            sentence = str(error)
    assert sentence.isprintable()
    assert len(sentence) < 1000
