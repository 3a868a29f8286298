"""What gets its name outlasts a crash: the bytes are flushed before the rename, the folder after it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from calotype import durable


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the disk was asked for, in its order."""
    said: list[str] = []
    flush, replace = os.fsync, os.replace

    def fsync(handle: int) -> None:
        said.append(f"flush {Path(os.readlink(f'/proc/self/fd/{handle}')).name}")
        flush(handle)

    def rename(source: Path, target: Path) -> None:
        said.append(f"rename {source.name} {target.name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", rename)
    return said


def test_a_file(tmp_path: Path, told: list[str]) -> None:
    (tmp_path / "new").write_text("new")
    (tmp_path / "kept").write_text("old")
    durable.rename(tmp_path / "new", tmp_path / "kept")
    assert told == ["flush new", "rename new kept", f"flush {tmp_path.name}"]
    assert (tmp_path / "kept").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_folder(tmp_path: Path, told: list[str]) -> None:
    (tmp_path / "new" / "part").mkdir(parents=True)
    (tmp_path / "new" / "part" / "file").write_text("new")
    durable.rename(tmp_path / "new", tmp_path / "kept")
    assert sorted(told[:3]) == ["flush file", "flush new", "flush part"]
    assert told[3:] == ["rename new kept", f"flush {tmp_path.name}"]


def test_a_disk_that_says_so_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no room, some file systems say so only when they are asked to flush."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "new").write_text("new")
    (tmp_path / "kept").write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        durable.rename(tmp_path / "new", tmp_path / "kept")
    assert (tmp_path / "kept").read_text() == "old"


def test_a_file_system_that_flushes_no_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flush = os.fsync

    def fsync(handle: int) -> None:
        if os.readlink(f"/proc/self/fd/{handle}") == str(tmp_path):
            raise OSError(errno.EINVAL, "Invalid argument")
        flush(handle)

    (tmp_path / "new").write_text("new")
    monkeypatch.setattr(os, "fsync", fsync)
    durable.rename(tmp_path / "new", tmp_path / "kept")
    assert (tmp_path / "kept").read_text() == "new"
