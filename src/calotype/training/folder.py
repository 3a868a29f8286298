"""The folder of one run: its lock, configuration, metrics, checkpoints and samples."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image
from torch import Tensor

from calotype import durable
from calotype.errors import OutputError, TrainingError
from calotype.training.state import write_checkpoint


def write_text(path: Path, text: str) -> None:
    """Write under a temporary name, then rename, so that no reader sees half a file."""
    partial = path.with_name(path.name + ".tmp")
    try:
        partial.write_text(text, encoding="utf-8")
        durable.rename(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(f"{path} cannot be written: {error.strerror}; choose another folder.") from error


class RunFolder:
    """`metrics.jsonl`, `tensorboard/`, `samples/`, `checkpoints/`, `config.json`, and a lock held while open.

    Raises TrainingError when another run holds the folder, or when it holds a run and `resume`
    is not set; OutputError when it cannot be written.  Of several processes only the `main` one locks it
    and writes.
    """

    def __init__(self, path: Path, *, resume: bool, main: bool = True) -> None:
        self.path = path
        self.metrics = path / "metrics.jsonl"
        self._lock: IO[str] | None = None
        if main:
            self._open(resume)

    def _open(self, resume: bool) -> None:
        path = self.path
        try:
            for name in ("checkpoints", "samples", "tensorboard"):
                (path / name).mkdir(parents=True, exist_ok=True)
            self._lock = (path / "lock").open("w")
        except OSError as error:
            raise OutputError(
                f"The run folder {path} cannot be made: {error.strerror}; choose another with --out."
            ) from error
        try:
            # A kernel lock: it falls with the process, however that dies.
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise TrainingError(
                f"Another training run is writing to {path}; wait for it or choose another folder with --out."
            ) from None
        for partial in (path / "checkpoints").glob("*.tmp"):
            partial.unlink()
        if self.checkpoints() and not resume:
            self._lock.close()
            raise TrainingError(
                f"{path} already holds a run; add --resume to go on with it, or choose another --out."
            )

    def checkpoints(self) -> list[Path]:
        """The checkpoints, oldest first."""
        return self.checkpoints_in(self.path)

    @staticmethod
    def checkpoints_in(path: Path) -> list[Path]:
        """Those of a folder, whoever holds it."""
        return sorted((path / "checkpoints").glob("step-*.safetensors"))

    def write_checkpoint(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], keep: int) -> Path:
        """Write a state and its facts, `step` among them, and remove all but the newest `keep`."""
        path = self.path / "checkpoints" / f"step-{facts['step']:08d}.safetensors"
        write_checkpoint(path, tensors, facts)
        for old in self.checkpoints()[:-keep]:
            old.unlink()
        return path

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        try:
            with self.metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise _unwritable(self.metrics, error) from error

    def history(self) -> list[dict[str, Any]]:
        """All whole lines of metrics.jsonl; one cut short by a kill is left out."""
        if not self.metrics.is_file():
            return []
        records = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:
                continue
        return records

    def rewind(self, step: int) -> None:
        """Drop the metrics of steps after `step`: they will be made again."""
        kept = [json.dumps(record) for record in self.history() if record["step"] <= step]
        write_text(self.metrics, "".join(line + "\n" for line in kept))

    def write_samples(self, step: int, pictures: Tensor) -> Path:
        """Save pictures (N 3 H W) in [-1, 1] as one contact sheet of eight columns."""
        path = self.path / "samples" / f"step-{step:08d}.png"
        partial = path.with_suffix(".tmp")
        try:
            Image.fromarray(contact_sheet(pictures)).save(partial, "PNG")
            durable.rename(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise _unwritable(path, error) from error
        return path

    def close(self) -> None:
        """Let go of the lock."""
        if self._lock is not None:
            self._lock.close()


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{path} cannot be written ({error.strerror or error}); free some space and go on with --resume."
    )


def contact_sheet(pictures: Tensor, columns: int = 8, gap: int = 2) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Pictures (N 3 H W) in [-1, 1] on one white sheet (h w 3) of uint8."""
    count, _, height, width = pictures.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    scaled = ((pictures.clamp(-1, 1) + 1) * 127.5).round().byte()
    for i, picture in enumerate(scaled.permute(0, 2, 3, 1).cpu().numpy()):  # (N 3 H W) -> (N H W 3)
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = picture
    return sheet
