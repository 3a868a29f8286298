"""Files that outlast a crash: what was written under a temporary name gets its own once the disk holds it.

A rename alone may reach the disk before the bytes do, and a power cut then leaves a file of the right name
without them.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def rename(partial: Path, path: Path) -> None:
    """Give a finished file, or a folder of finished files, the name it keeps; OSError where the disk refuses.

    What is there under that name before stays until then.  A file takes one wait for the disk, and its folder
    another (docs/measured.md).
    """
    for part in [*partial.rglob("*"), partial] if partial.is_dir() else [partial]:
        _flush(part)
    os.replace(partial, path)
    with contextlib.suppress(OSError):  # some file systems flush no folders
        _flush(path.parent)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
