"""Any weights file is recognised by what it holds; damaged, lying and foreign ones are one sentence."""

from __future__ import annotations

import io
import json
import os
import random
import re
import struct
import sys
import tracemalloc
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch_files import LAYOUTS

from calotype.checkpoints.number_type import TYPES
from calotype.checkpoints.weights_file import TensorInfo, open_weights
from calotype.errors import CheckpointError

GENERATOR = torch.Generator().manual_seed(2)
TENSORS = {
    "model.diffusion_model.in.weight": torch.randn(4, 3, 3, 3, generator=GENERATOR),
    "model.diffusion_model.in.bias": torch.randn(4, generator=GENERATOR),
    "cond_stage_model.half": torch.randn(7, 5, generator=GENERATOR).half(),
    "first_stage_model.brain": torch.randn(9, generator=GENERATOR).bfloat16(),
    "position_ids": torch.arange(77).unsqueeze(0),
    "flags": torch.tensor([True, False, True]),
    "number": torch.tensor(3),
}
FORMATS = ("safetensors", *LAYOUTS)


def make(kind: str, path: Path) -> Path:
    if kind == "safetensors":
        save_file(TENSORS, path, {"format": "pt", "modelspec.title": "小"})
    else:
        value = {"state_dict": TENSORS, "global_step": 875000, "epoch": 4, "turned": TENSORS["flags"]}
        torch.save(value, path, _use_new_zipfile_serialization=kind == "zip")
    return path


def packed(header: object, raw: bytes = b"", *, length: int | None = None) -> bytes:
    """A safetensors file with any header, which may claim another length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + raw


def refused(path: Path, content: bytes | None = None) -> str:
    """The sentence with which a file is refused: one line that names it and says what to do."""
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        open_weights(path)
    sentence = str(caught.value)
    assert sentence.startswith(str(path))
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert re.search("[;,] ", sentence), "it says what to do"
    return sentence.removeprefix(str(path)).strip()


# Three formats, one way to read them.


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt", ""])
def test_the_content_tells_the_format(kind: str, suffix: str, tmp_path: Path) -> None:
    file = open_weights(make(kind, tmp_path / f"x{suffix}"))
    assert file.shapes == {
        name: TensorInfo(tuple(value.shape), TYPES[str(value.dtype).removeprefix("torch.")])
        for name, value in TENSORS.items()
    }
    for name, value in TENSORS.items():
        assert torch.equal(file.tensor(name), value)
        assert file.tensor(name).is_contiguous()
    if kind == "safetensors":
        assert file.metadata == {"format": "pt", "modelspec.title": "小"}
        assert file.scalars == {}
    else:
        assert file.metadata == {}
        assert file.scalars == {"global_step": 875000, "epoch": 4}
    with pytest.raises(CheckpointError, match="has no tensor 'turned'"):
        file.tensor("turned")


@pytest.mark.parametrize("length", [0x80, 0x180, 0x4B50, 0x3C3C, 0x8080])
def test_a_length_may_look_like_another_format(length: int, tmp_path: Path) -> None:
    """A pickle begins with 0x80 and a zip with 0x4B50, as a header's length may."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}).ljust(length)
    path = tmp_path / "x"
    path.write_bytes(packed(header.encode(), b"\5\6"))
    assert open_weights(path).tensor("w").tolist() == [5, 6]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells where memory comes from")
@pytest.mark.parametrize("kind", FORMATS)
def test_tensors_are_the_files_own_pages(kind: str, tmp_path: Path) -> None:
    path = make(kind, tmp_path / "x")
    before = path.read_bytes()
    found = open_weights(path).tensor("model.diffusion_model.in.weight")
    lines = Path("/proc/self/maps").read_text().splitlines()
    ranges = [line.split()[0].split("-") for line in lines if line.endswith(f" {path}")]
    inside = [int(low, 16) <= found.data_ptr() < int(high, 16) for low, high in ranges]
    assert any(inside) or kind == "old"  # which aligns nothing, so that most tensors are copied
    found.fill_(7)  # the tensor can be written to, and the file stays as it is
    assert path.read_bytes() == before
    assert torch.equal(open_weights(path).tensor("position_ids"), TENSORS["position_ids"])


def test_a_forgotten_tensor_is_read_again_and_its_neighbours_are_left_alone(tmp_path: Path) -> None:
    save_file({"a": torch.ones(3000), "b": torch.ones(3000), "c": torch.ones(3000)}, tmp_path / "f")
    file = open_weights(tmp_path / "f")
    first, middle, last = (file.tensor(name) for name in "abc")
    for value in (first, middle, last):
        value += 1
    file.forget("b")
    assert bool((first == 2).all())
    assert bool((last == 2).all())
    if sys.platform.startswith("linux"):
        assert bool((middle[1024:-1024] == 1).all())  # whole pages as they stand in the file


@pytest.mark.parametrize("shift", range(8))
def test_unaligned_numbers_are_copied_into_place(shift: int, tmp_path: Path) -> None:
    """Not all writers pad safetensors' header; complex128 kernels would end the process."""
    value = torch.randn(50, dtype=torch.float64, generator=GENERATOR)
    start = 8 + 100 + shift
    header = json.dumps({"w": {"dtype": "F64", "shape": [50], "data_offsets": [0, 400]}}).ljust(100 + shift)
    path = tmp_path / "x.safetensors"
    path.write_bytes(packed(header.encode(), value.numpy().tobytes()))
    found = open_weights(path).tensor("w")
    assert torch.equal(found, value)
    assert found.data_ptr() % 8 == 0, start


def resident() -> int:
    """KiB of files that this process has read into its memory."""
    found = re.search(r"RssFile:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what was read")
def test_opening_reads_no_tensor(tmp_path: Path) -> None:
    """2 GiB of weights, of which the disk holds the header alone."""
    told = json.dumps({"w": {"dtype": "F32", "shape": [2**19, 2**10], "data_offsets": [0, 2**31]}})
    header = packed(told.ljust(120).encode())
    path = tmp_path / "x.safetensors"
    path.write_bytes(header)
    os.truncate(path, len(header) + 2**31)
    before = resident()
    found = open_weights(path)
    assert found.shapes["w"].shape == (2**19, 2**10)
    assert found.tensor("w")[-1, -4:].tolist() == [0.0] * 4
    assert resident() - before < 2**15


# What is no weights file is named.


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; fetch it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4265380512\n", "git-lfs pointer"),
        (b"<!DOCTYPE html><html>Sign in</html>", "web page"),
        (b"\n  <html lang=en>", "web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "web page"),
        (b"GGUF\x03\0\0\0" + bytes(100), "GGUF"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "neither a safetensors file nor one of torch.save"),
        (b'{"weight_map": {"a": "b"}}', "neither a safetensors file nor one of torch.save"),
        (b"x", "neither a safetensors file nor one of torch.save"),
        (b"\x80", "is cut short within its pickle"),
        (b"\x80\x04K\x01.", "is a pickle, but not one of torch.save's"),
        (b"PK\x03\x04", "its zip directory makes no sense"),
        (b"PK\x05\x06" + bytes(18), "a zip archive with no data.pkl"),
    ],
)
def test_what_it_is_instead(content: bytes, message: str, tmp_path: Path) -> None:
    assert message in refused(tmp_path / "model.ckpt", content)


def test_no_file(tmp_path: Path) -> None:
    assert "is not a file" in refused(tmp_path)
    assert "is not a file" in refused(tmp_path / "missing.ckpt")


def test_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make("zip", tmp_path / "x.ckpt")

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    assert "cannot be read (Permission denied)" in refused(path)


@pytest.mark.parametrize("value", [[torch.ones(1)], torch.ones(1), 3, "text"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_dictionary(value: object, layout: str, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "x.pt", _use_new_zipfile_serialization=layout == "zip")
    assert "no dictionary of tensors" in refused(tmp_path / "x.pt")


def test_whole_modules_are_refused_by_their_class(tmp_path: Path) -> None:
    for layout in LAYOUTS:
        torch.save(torch.nn.Linear(1, 1), tmp_path / "x.pt", _use_new_zipfile_serialization=layout == "zip")
        assert "calls 'torch.nn.modules.linear.Linear'" in refused(tmp_path / "x.pt")


def test_two_tensors_of_one_name(tmp_path: Path) -> None:
    torch.save({"a": {"b": torch.ones(1)}, "a.b": torch.zeros(1)}, tmp_path / "x.pt")
    assert "two tensors named 'a.b'" in refused(tmp_path / "x.pt")


# Files that broke on the way.


@pytest.mark.parametrize("kind", FORMATS)
def test_cut_at_every_sixteenth(kind: str, tmp_path: Path) -> None:
    content = make(kind, tmp_path / "x").read_bytes()
    for length in {len(content) * i // 16 for i in range(16)} | {1, 8, 9, len(content) - 1}:
        assert re.search("cut short|empty|neither|lacks", refused(tmp_path / "x", content[:length]))


EXTREMES = [0, 1, 2, 4, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1]


def mutated(content: bytes, chance: random.Random) -> bytes:
    """One to three changes, half of them where the file tells its own structure."""
    for _ in range(chance.randint(1, 3)):
        raw = bytearray(content)
        ends = [chance.randrange(min(1500, len(raw))), len(raw) - 1 - chance.randrange(min(1500, len(raw)))]
        at = chance.choice([*ends, chance.randrange(len(raw))])
        other, length = chance.randrange(len(raw)), chance.choice([1, 4, 8, 30, 100, 1000])
        match chance.randrange(6):
            case 0:
                raw[at] ^= 1 << chance.randrange(8)
            case 1:
                raw[at] = chance.randrange(256)
            case 2:
                raw[at : at + length] = raw[other : other + length]  # another place's bytes
            case 3:
                del raw[at : at + length]
            case 4:
                raw[at:at] = raw[other : other + length]
            case 5:
                size = chance.choice([1, 2, 4, 8])
                value = chance.choice(EXTREMES) % 256**size
                raw[at : at + size] = value.to_bytes(size, chance.choice(["little", "big"]))
        content = bytes(raw) or b"\0"
    if content.startswith(b"{", 8) and chance.random() < 0.5:  # numbers of a header, kept readable
        numbers = list(re.finditer(rb"\d+", content[8:800]))
        if numbers:
            found = chance.choice(numbers)
            put = str(chance.choice([*EXTREMES, -1, int(found[0]) + 1, int(found[0]) - 1])).encode()
            put = put[: len(found[0])].rjust(len(found[0]))
            content = content[: 8 + found.start()] + put + content[8 + found.end() :]
    return content


def raw(value: Tensor) -> Tensor:
    """Its bytes, for what a mutation leaves need not be a number that equals itself."""
    return value.contiguous().flatten().view(torch.uint8)


def by_the_library(kind: str, content: bytes) -> dict[str, Tensor] | None:
    """What safetensors or torch read, where they read it at all."""
    try:
        if kind == "safetensors":
            return safetensors.torch.load(content)
        found = torch.load(io.BytesIO(content), weights_only=True)
        return dict(found["state_dict"])
    except Exception:  # whatever theirs may raise; only what they read is compared
        return None


@pytest.mark.filterwarnings("ignore")  # torch warns of what mutated pickles do
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("count", [70, pytest.param(700, marks=pytest.mark.verify)])
def test_mutated_files(kind: str, count: int, tmp_path: Path) -> None:
    """Each is refused in one sentence, or all of its tensors can be read and are those the library reads."""
    path = make(kind, tmp_path / "x")
    content = path.read_bytes()
    refusals: list[str] = []
    loads = compared = 0
    tracemalloc.start()
    try:
        for seed in range(count):
            changed = mutated(content, random.Random(seed))
            path.unlink()
            path.write_bytes(changed)
            try:
                file = open_weights(path)
            except CheckpointError as error:
                refusals.append(str(error))
                continue
            found = {name: file.tensor(name) for name in file.shapes}
            loads += 1
            theirs = by_the_library(kind, changed)
            if theirs is not None and theirs.keys() == found.keys():
                compared += 1
                for name, value in theirs.items():
                    mine = found[name]
                    assert (mine.dtype, mine.shape) == (value.dtype, value.shape), (seed, name)
                    assert torch.equal(raw(mine), raw(value)), (seed, name)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 * 2**20
    # the mutations neither miss nor break everything
    assert len(refusals) > count // 5
    assert compared > count // 20
    assert loads + len(refusals) == count
    assert all(sentence.startswith(f"{path} ") for sentence in refusals)
    assert not any("\n" in sentence for sentence in refusals)
