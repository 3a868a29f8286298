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
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch_files import LAYOUTS, dictionary, number, old, storage, tensor, whole, write_zip

from calotype.checkpoints import safetensors_file, torch_file
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


# safetensors' headers that lie.

F32 = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


def lying(**changes: object) -> bytes:
    return packed({"w": F32 | changes}, bytes(16))


LIES = {
    "longer than the file": (packed({"w": F32}, length=10**6), "cut short or damaged: its header should"),
    "longest of all": (packed({"w": F32}, bytes(16), length=2**64 - 1), "its header should have 1844674"),
    "of no length": (packed({"w": F32}, bytes(16), length=0), "no JSON"),
    "too short": (packed({"w": F32}, bytes(16), length=20), "no JSON"),
    "into the numbers": (packed({"w": F32}, bytes(16), length=80), "no JSON"),
    "no JSON": (packed(b"{w: 1}"), "no JSON"),
    "not UTF-8": (packed(b'{"\xff": 1}'), "no JSON"),
    "endless lists": (packed(b'{"a":' + b"[" * 200_000), "no JSON"),
    "a number of 5000 digits": (packed(b'{"a":' + b"9" * 5000 + b"}"), "no JSON"),
    "two objects": (packed(b"{}{}"), "no JSON"),
    "an entry of text": (packed({"w": "F32"}), "'w' has no dtype, shape and two data_offsets"),
    "an entry of a list": (packed({"w": []}), "'w' has no dtype"),
    "no dtype": (packed({"w": {"shape": [1], "data_offsets": [0, 4]}}, bytes(4)), "'w' has no dtype"),
    "a dtype of number": (lying(dtype=32), "'w' has no dtype"),
    "a shape of text": (lying(shape="22"), "'w' has no dtype"),
    "one offset": (lying(data_offsets=[16]), "'w' has no dtype"),
    "three offsets": (lying(data_offsets=[0, 8, 16]), "'w' has no dtype"),
    "an unknown dtype": (lying(dtype="F4"), "stores 'w' as 'F4'"),
    "a fraction": (lying(shape=[2.0, 2]), "'w' has an impossible shape"),
    "a flag": (lying(shape=[True, 4]), "'w' has an impossible shape"),
    "a negative size": (lying(shape=[-2, -2]), "'w' has an impossible shape"),
    "2^63": (lying(shape=[2**63, 2]), "'w' has an impossible shape"),
    "2^64 in 4 bytes": (lying(shape=[2**32, 2**32]), "'w' has an impossible shape"),
    "2^64 + 4": (lying(shape=[2**62 + 1, 4]), "'w' has an impossible shape"),
    "nothing of 2^80": (lying(shape=[0, 2**40, 2**40], data_offsets=[0, 0]), "'w' has an impossible shape"),
    "40 sizes": (lying(shape=[1] * 39 + [4]), "'w' has an impossible shape"),
    "a fraction's offset": (lying(data_offsets=[0, 16.0]), "'w' has an impossible shape"),
    "an offset below": (lying(data_offsets=[-16, 0]), "'w' does not fill its place"),
    "offsets exchanged": (lying(data_offsets=[16, 0]), "'w' does not fill its place"),
    "too little room": (lying(data_offsets=[0, 12]), "'w' does not fill its place"),
    "too much room": (lying(data_offsets=[0, 20]), "'w' does not fill its place"),
    "2^63 as an offset": (lying(data_offsets=[2**63, 2**63 + 16]), "'w' leaves a hole before it"),
    "beyond the file": (packed({"w": F32}, bytes(15)), "its tensors take 16 bytes, but 15 follow"),
    "less than the file": (packed({"w": F32}, bytes(17)), "its tensors take 16 bytes, but 17 follow"),
    "no tensors but numbers": (packed({}, bytes(1)), "its tensors take 0 bytes, but 1 follow"),
    "overlapping": (
        packed({"a": F32, "b": F32 | {"data_offsets": [8, 24]}}, bytes(24)),
        "'b' overlaps another",
    ),
    "the same place": (packed({"a": F32, "b": F32}, bytes(16)), "'b' overlaps another"),
    "a hole": (packed({"a": F32, "b": F32 | {"data_offsets": [20, 36]}}, bytes(36)), "'b' leaves a hole"),
    "a hole at the start": (lying(data_offsets=[16, 32]), "'w' leaves a hole before it"),
    "a name twice": (
        packed(b'{"w":%b,"w":%b}' % ((json.dumps(F32).encode(),) * 2), bytes(16)),
        "names 'w' twice",
    ),
    "a field twice": (
        packed(b'{"w":{"dtype":"F16","dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}', bytes(16)),
        "names 'dtype' twice",
    ),
    "metadata of numbers": (packed({"__metadata__": {"a": 1}}), "metadata that are no texts"),
    "metadata of half a letter": (
        packed({"__metadata__": {"title": "\ud800"}}),
        "metadata that are no texts",
    ),
    "metadata of a list": (packed({"__metadata__": ["a"]}), "metadata that are no texts"),
}


@pytest.mark.parametrize("lie", LIES)
def test_lying_headers(lie: str, tmp_path: Path) -> None:
    content, message = LIES[lie]
    assert message in refused(tmp_path / "x.safetensors", content)


def test_headers_that_do_not_lie(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(packed({}))
    assert open_weights(path).shapes == {}
    empty = {"dtype": "F16", "shape": [0, 5], "data_offsets": [16, 16]}
    path.write_bytes(packed({"z": F32, "e": empty, "__metadata__": {"a": "b"}}, bytes(16)))
    file = open_weights(path)
    assert file.tensor("e").shape == (0, 5)
    assert file.tensor("z").shape == (2, 2)
    assert list(file.shapes) == ["z", "e"]


def test_a_header_of_17_million_bytes(tmp_path: Path) -> None:
    assert "far more than weights need" in refused(tmp_path / "x", packed(b"{" + b" " * (2**24 + 1)))


def test_every_dtype_of_safetensors(tmp_path: Path) -> None:
    dtypes = [TYPES[name].in_torch for name in safetensors_file._NAMES.values()]
    noise = torch.randint(0, 2, (8, 16), dtype=torch.uint8, generator=GENERATOR)
    tensors = {str(dtype): noise.clone().view(dtype) for dtype in dtypes}
    save_file(tensors, tmp_path / "x")
    file = open_weights(tmp_path / "x")
    for name, value in tensors.items():
        assert file.tensor(name).dtype == value.dtype
        assert torch.equal(file.tensor(name).view(torch.uint8), noise)


# Zips.


def rezipped(path: Path, prefix: str, **options: int) -> bytes:
    """The members of a zip under another folder."""
    made = io.BytesIO()
    with zipfile.ZipFile(path) as before, zipfile.ZipFile(made, "w", **options) as after:
        for info in before.infolist():
            after.writestr(prefix + info.filename.partition("/")[2], before.read(info))
    return made.getvalue()


@pytest.mark.parametrize("prefix", ["archive/", "v1-5-pruned/", "a/b/", "", "模型/"])
def test_the_folder_within_does_not_matter(prefix: str, tmp_path: Path) -> None:
    path = make("zip", tmp_path / "x.ckpt")
    path.write_bytes(rezipped(path, prefix))
    file = open_weights(path)
    assert all(torch.equal(file.tensor(name), value) for name, value in TENSORS.items())


def test_files_of_more_than_4_gib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As zip64 writes them: sizes and places in a further field, the directory's end in a further record."""
    path = make("zip", tmp_path / "x.ckpt")
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 8)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)
    path.write_bytes(rezipped(path, "archive/"))
    assert b"PK\x06\x07" in path.read_bytes()
    file = open_weights(path)
    assert all(torch.equal(file.tensor(name), value) for name, value in TENSORS.items())


def test_zip_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make("zip", tmp_path / "x.ckpt")
    assert "is a compressed or encrypted archive" in refused(
        path, rezipped(path, "a/", compression=zipfile.ZIP_DEFLATED)
    )
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**25))
    assert len(bomb.getvalue()) < 2**17
    tracemalloc.start()
    assert "compressed" in refused(path, bomb.getvalue())
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()
    monkeypatch.setattr(torch_file, "MEMBER_LIMIT", 5)
    many = {str(i): b"" for i in range(4)}
    assert "of 6 files, far more" in refused(write_zip(path, whole(b"}"), many))
    del many["3"]
    assert open_weights(write_zip(path, whole(b"}"), many)).shapes == {}


def altered(content: bytes, signature: bytes, at: int, value: bytes) -> bytes:
    """The record's field at `at` bytes from the last such signature."""
    start = content.rindex(signature) + at
    return content[:start] + value + content[start + len(value) :]


ENTRY, END = b"PK\x01\x02", b"PK\x05\x06"
ALTERED: dict[str, Callable[[bytes], bytes]] = {
    "encrypted": lambda c: altered(c, ENTRY, 8, b"\x01"),
    "another size than packed": lambda c: altered(c, ENTRY, 24, b"\x07"),
    "a file that begins outside": lambda c: altered(c, ENTRY, 42, b"\xff\xff\xff\x7f"),
    "a file that ends outside": lambda c: altered(c, ENTRY, 20, struct.pack("<LL", 2**31, 2**31)),
    "sizes in a field that is absent": lambda c: altered(c, ENTRY, 20, b"\xff" * 8),
    "a signature": lambda c: altered(c, ENTRY, 0, b"PK\x09\x09"),
    "another name there": lambda c: c.replace(b"archive/data.pkl", b"archive/DATA.pkl", 1),
    "a longer name there": lambda c: altered(c, b"PK\x03\x04", 26, b"\x40"),
    "too many files": lambda c: altered(c, END, 10, b"\xff\xff"),
    "too few files": lambda c: altered(c, END, 10, b"\x01\x00"),
    "a longer directory": lambda c: altered(c, END, 12, b"\xff\xff\xff\x7f"),
    "a directory elsewhere": lambda c: altered(c, END, 16, b"\x00\x00\x00\x00"),
    "a comment": lambda c: altered(c, END, 20, b"\x09\x00"),
    "something after it": lambda c: c + b"x",
}


@pytest.mark.parametrize("what", ALTERED)
def test_zip_directories_that_lie(what: str, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.pt", whole(dictionary(step=number(1))))
    assert open_weights(path).scalars == {"step": 1}
    assert re.search(
        "compressed or encrypted|makes no sense", refused(path, ALTERED[what](path.read_bytes()))
    )


def test_zips_of_other_things(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    body = whole(dictionary(step=number(1)))
    assert "TorchScript" in refused(write_zip(path, body, constants_pkl=body))
    with pytest.warns(UserWarning, match="Duplicate name"):
        write_zip(path, body, data_pkl=body)
    assert "makes no sense" in refused(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", body)
        archive.writestr("b/data.pkl", body)
    assert "with 2 data.pkl" in refused(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/model.safetensors", body)
    assert "with no data.pkl" in refused(path)


def test_big_endian(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", whole(b"}"))
        archive.writestr("archive/byteorder", "big")
    assert "byte order is 'big', not 'little'" in refused(path)
    machine = whole(dictionary(little_endian=b"\x89"))
    assert "not written on a little-endian machine" in refused(path, old(whole(b"}"), machine=machine))


def test_storages_that_are_missing_or_short(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    body = whole(dictionary(w=tensor(storage(), (4,), (1,))))
    assert "lacks its storage '0'" in refused(write_zip(path, body))
    assert "storage of 'w' is smaller than the file says" in refused(write_zip(path, body, {"0": bytes(15)}))
    assert open_weights(write_zip(path, body, {"0": bytes(16)})).tensor("w").tolist() == [0.0] * 4
    assert "lacks its storage '0'" in refused(path, old(body))
    assert "two lengths for its storage '0'" in refused(path, old(body, {"0": (3, bytes(16))}))
    assert "two lengths" in refused(path, old(body, {"0": (-1, bytes(16))}))
    assert "storage '0' ends after the file" in refused(path, old(body, {"0": (4, bytes(15))}))
    assert "does not use, or twice" in refused(path, old(body, {"0": (4, bytes(16)), "1": (4, bytes(16))}))
    twice = whole(b"](" + b"X\x01\x00\x00\x000" * 2 + b"e")
    assert "does not use, or twice" in refused(path, old(body, {"0": (4, bytes(16))}, keys=twice))
    assert "no list of its storages" in refused(path, old(body, keys=whole(b"}")))
    assert "another version" in refused(path, old(body, protocol=whole(number(1000))))
    huge = whole(dictionary(w=tensor(storage(count=2**62), (4,), (1,))))
    assert "smaller than the file says" in refused(write_zip(path, huge, {"0": bytes(16)}))
    assert "ends after the file" in refused(path, old(huge, {"0": (2**62, bytes(16))}))
    nothing = whole(dictionary(w=tensor(storage(count=0), (0,), (1,))))
    assert open_weights(write_zip(path, nothing)).tensor("w").shape == (0,)


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
