"""A style that `icons` has not seen: emoji as blueprints, white lines on dark blue.

    python recipes/lora-icons/style.py datasets/icons datasets/blueprint

Every picture is one of the set `noto` of `calotype data icons`, turned into its edges.  Which concepts are
held out hangs on the hash of their names.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GROUND, LINE = (24, 56, 120), (240, 246, 255)
STYLE = "blueprint style"
TRAIN, HELD_OUT = 400, 100


def blueprint(picture: Image.Image) -> Image.Image:
    """The lightness' and colours' steps (Sobel) as white lines on blue."""
    values = np.asarray(picture.convert("RGB"), np.float32) / 255
    padded = np.pad(values, ((1, 1), (1, 1), (0, 0)), mode="edge")  # (H W 3) -> (H+2 W+2 3)
    across = _smooth(padded[:, 2:] - padded[:, :-2], 0)  # (H+2 W 3) -> (H W 3)
    down = _smooth(padded[2:] - padded[:-2], 1)  # (H W+2 3) -> (H W 3)
    steps = np.hypot(across, down).max(axis=2) / 4  # (H W), 1 for a jump from black to white
    line = np.clip(steps * 3 - 0.15, 0, 1)[:, :, None]
    mixed = (1 - line) * np.array(GROUND) + line * np.array(LINE)
    return Image.fromarray(mixed.round().astype(np.uint8))


def _smooth(values: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """1, 2, 1 along an axis, which loses its two ends."""
    first, middle, last = (np.take(values, range(i, values.shape[axis] - 2 + i), axis) for i in range(3))
    return first + 2 * middle + last


def order(concept: str) -> bytes:
    return hashlib.sha256(concept.encode()).digest()


def main(source: Path, target: Path) -> None:
    records = map(json.loads, (source / "metadata.jsonl").read_text(encoding="utf-8").splitlines())
    # of the training split: what the model has to bring along is the concept, not the style
    chosen = [r for r in records if r["set"] == "noto" and r["split"] == "train" and len(r["concept"]) < 24]
    chosen.sort(key=lambda record: order(record["concept"]))
    target.mkdir(parents=True, exist_ok=True)
    lines = []
    for i, record in enumerate(chosen[: TRAIN + HELD_OUT]):
        name = Path(record["file_name"]).name
        blueprint(Image.open(source / record["file_name"])).save(target / name)
        text = f"{record['concept']}, {STYLE}"
        split = "train" if i < TRAIN else "validation"
        lines.append(
            json.dumps({"file_name": name, "text": text, "concept": record["concept"], "split": split})
        )
    (target / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
