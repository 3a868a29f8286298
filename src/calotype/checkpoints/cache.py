"""Tensors computed once and kept: latents, text features, the networks that measure."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from calotype import durable
from calotype.errors import OutputError


def cache_folder() -> Path:
    """Where caches live: $CALOTYPE_CACHE, or calotype/ in the user's cache folder."""
    named = os.environ.get("CALOTYPE_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "calotype"


def cached(key: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors from the cache file of `key` (which names all that they depend on), computed if absent.

    Of processes that ask at once, on one machine, one computes and the others wait for it.  Raises
    OutputError when the cache cannot be written.
    """
    path = cache_folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.safetensors"
    if path.is_file():
        return dict(safetensors.torch.load_file(path))
    waiting = path.with_suffix(".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = waiting.open("w")
    except OSError as error:
        raise _unwritable(path.parent, error) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # falls with the process, however that dies
        if path.is_file():
            return dict(safetensors.torch.load_file(path))
        made = compute()
        partial = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            safetensors.torch.save_file(made, partial)
            durable.rename(partial, path)
        except (OSError, SafetensorError) as error:
            partial.unlink(missing_ok=True)
            raise _unwritable(path.parent, error) from error
        waiting.unlink(missing_ok=True)  # who waits has it open, and then finds the cache filled
    return made


def _unwritable(folder: Path, error: Exception) -> OutputError:
    return OutputError(
        f"The cache folder {folder} cannot be written ({error}); free some space there "
        "or name another folder in CALOTYPE_CACHE."
    )
