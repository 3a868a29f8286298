"""What only a reading of the whole file tells: its hashes, and numbers that are none."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from calotype.checkpoints.weights import WeightsFile
from calotype.errors import CheckpointError

BLOCK = 2**22  # bytes, and numbers, at once


@dataclass(frozen=True)
class Digests:
    """All in lower-case hexadecimal digits, as model sites and AUTOMATIC1111's web UI quote them.

    sha256  of the whole file
    autov1  the web UI's first: SHA-256 of 64 KiB from 1 MiB on, 8 digits
    autov3  SHA-256 of a safetensors file behind its header, 12 digits; None for other files
    """

    sha256: str
    autov1: str
    autov3: str | None

    @property
    def autov2(self) -> str:
        """The first ten digits of SHA-256."""
        return self.sha256[:10]


@dataclass(frozen=True)
class NotFinite:
    """How many numbers of a tensor are NaN, and how many infinite."""

    nan: int
    infinite: int


def digests(path: Path) -> Digests:
    """One reading of the file; CheckpointError where that fails."""
    whole, body = hashlib.sha256(), hashlib.sha256()
    try:
        with path.open("rb") as file:
            head = file.read(9)
            safetensors = head[8:9] == b"{"
            behind = 8 + int.from_bytes(head[:8], "little")
            file.seek(2**20)
            autov1 = hashlib.sha256(file.read(2**16)).hexdigest()[:8]
            file.seek(0)
            at = 0
            while block := file.read(BLOCK):
                whole.update(block)
                if safetensors and at + len(block) > behind:
                    body.update(block[max(0, behind - at) :])
                at += len(block)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); check its permissions.") from None
    return Digests(whole.hexdigest(), autov1, body.hexdigest()[:12] if safetensors else None)


def not_finite(file: WeightsFile) -> Mapping[str, NotFinite]:
    """The tensors that hold NaN or infinities, by name."""
    import torch

    found = {}
    for name, info in file.shapes.items():
        if not info.dtype.finite_or_not:
            continue
        nan = bad = 0
        for numbers in file.tensor(name).flatten().split(BLOCK):
            wide = numbers.float() if info.dtype.itemsize == 1 else numbers  # float8 has no isfinite
            finite = torch.isfinite(wide)
            if not bool(finite.all()):
                bad += int((~finite).sum())
                nan += int(torch.isnan(wide).sum())
        if bad:
            found[name] = NotFinite(nan, bad - nan)
    return found
