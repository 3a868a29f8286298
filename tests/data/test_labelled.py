"""The labelled benchmarks from archives made here, in their packages' layouts."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calotype.data.fetch import file_sha256
from calotype.data.folder import PictureFolder
from calotype.data.labelled import BENCHMARKS, make_labelled
from calotype.errors import DataError, FetchError


def pack(monkeypatch: pytest.MonkeyPatch, cache: Path, name: str, files: dict[str, bytes]) -> None:
    """The benchmark's archive in `cache`, and its hash in the place of the real one's."""
    benchmark = BENCHMARKS[name]
    cache.mkdir()
    with tarfile.open(cache / benchmark.package.archive, "w:gz") as tar:
        for path, data in files.items():
            member = tarfile.TarInfo(f"package/{path}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    digest = file_sha256(cache / benchmark.package.archive)
    own = replace(benchmark, package=replace(benchmark.package, sha256=digest))
    monkeypatch.setitem(BENCHMARKS, name, own)


def quiet(stage: str, done: int, total: int) -> None:
    del stage, done, total


def test_fashion_leaves_out_empty_rows_and_repetitions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    rows = {k: random.integers(0, 256, (12, 784)).tolist() for k in range(10)}
    rows[3] += [[0] * 784, [], rows[3][0]]
    files = {f"src/clothes/{k}.json": json.dumps({"data": v}).encode() for k, v in rows.items()}
    pack(monkeypatch, tmp_path / "cache", "fashion-mnist", files)
    summary = make_labelled("fashion-mnist", tmp_path / "set", tmp_path / "cache", quiet)
    assert summary["left_out"] == {"empty": 2, "duplicate": 1}
    assert sum(summary["split"].values()) == 120
    found = PictureFolder(tmp_path / "set")
    assert found.classes == tuple(sorted(BENCHMARKS["fashion-mnist"].classes))
    dresses = {
        found.image(i)[0].numpy().tobytes()
        for i, record in enumerate(found.records)
        if record.label is not None and found.classes[record.label] == "dress"
    }
    assert dresses == {np.array(row, np.uint8).tobytes() for row in rows[3][:12]}
    assert not list(tmp_path.glob(".set-*"))
    with pytest.raises(DataError, match="not an empty folder"):
        make_labelled("fashion-mnist", tmp_path / "set", tmp_path / "cache", quiet)


def test_mnist_keeps_its_own_test_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    files = {}
    for stem, count in (("train", 30), ("t10k", 10)):
        images = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (count, 28, 28))
        labels = bytes([0, 0, 8, 1]) + count.to_bytes(4, "big")
        files[f"data/{stem}-images-idx3-ubyte"] = images + random.bytes(count * 784)
        files[f"data/{stem}-labels-idx1-ubyte"] = labels + bytes(i % 10 for i in range(count))
    pack(monkeypatch, tmp_path / "cache", "mnist", files)
    summary = make_labelled("mnist", tmp_path / "set", tmp_path / "cache", quiet)
    assert summary["split"]["test"] == 10
    first = PictureFolder(tmp_path / "set", split="test").image(0)[0].numpy()
    assert first.tobytes() == files["data/t10k-images-idx3-ubyte"][16 : 16 + 784]


def test_an_archive_of_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack(monkeypatch, tmp_path / "cache", "mnist", {"readme.md": b"none"})
    with pytest.raises(FetchError, match="is not the MNIST expected"):
        make_labelled("mnist", tmp_path / "set", tmp_path / "cache", quiet)
    assert not list(tmp_path.glob(".set-*"))
