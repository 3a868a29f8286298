"""How long a training takes to begin on very many tiny pictures: finding, reading and hashing them.

    python benchmarks/many_files.py [--count 100000] [--side 32]

Makes PNG files with a caption beside every tenth, in a temporary folder, and removes them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from calotype.data.folder import PictureFolder
from calotype.training.few import read_few


def make(folder: Path, count: int, side: int) -> None:
    random = np.random.default_rng(0)
    for i in range(count):
        place = folder / f"{i // 1000:03}"
        place.mkdir(exist_ok=True)
        pixels = np.broadcast_to(random.integers(0, 256, 3, np.uint8), (side, side, 3))
        Image.fromarray(np.ascontiguousarray(pixels)).save(place / f"{i:06}.png", compress_level=1)
        if i % 10 == 0:
            (place / f"{i:06}.txt").write_text(f"colour {i}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--side", type=int, default=32)
    given = parser.parse_args()
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        make(Path(name), given.count, given.side)
        since = time.perf_counter()
        read_few(name, given.side, strict=True)
        seconds["plan's few"] = time.perf_counter() - since
        since = time.perf_counter()
        folder = PictureFolder(name, size=given.side)
        seconds["opening"] = time.perf_counter() - since
        since = time.perf_counter()
        pictures = folder.load_all(given.side)
        seconds["reading"] = time.perf_counter() - since
        since = time.perf_counter()
        folder.content_hash()
        seconds["hashing"] = time.perf_counter() - since
    assert len(pictures) == given.count
    rounded = {what: round(value, 2) for what, value in seconds.items()}
    print(json.dumps({"pictures": given.count, "side": given.side, "seconds": rounded}, indent=1))


if __name__ == "__main__":
    main()
