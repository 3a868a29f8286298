"""torch's files, zips above all: what lies about itself is one sentence, and bombs take little memory."""

from __future__ import annotations

import io
import re
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.checkpoints.test_weights_file import TENSORS, make, refused
from torch_files import dictionary, number, old, storage, tensor, whole, write_zip

from calotype.checkpoints import torch_file
from calotype.checkpoints.weights_file import open_weights


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
