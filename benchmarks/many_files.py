"""How long a training takes to begin on very many tiny pictures: finding, reading and hashing them.

    python benchmarks/many_files.py [--count 100000] [--side 32]

Makes PNG files with a caption beside every tenth, in a temporary folder, and removes them.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from calotype.data.folder import PictureFolder
from calotype.training.few import read_few


def make(folder: Path, count: int, side: int) -> None:
    """256 pictures of one colour each, over and over."""
    files = []
    for colour in np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8):
        pixels = np.ascontiguousarray(np.broadcast_to(colour, (side, side, 3)))
        Image.fromarray(pixels).save(file := io.BytesIO(), "PNG")
        files.append(file.getvalue())
    for i in range(count):
        place = folder / f"{i // 1000:03}"
        place.mkdir(exist_ok=True)
        (place / f"{i:06}.png").write_bytes(files[i % 256])
        if i % 10 == 0:
            (place / f"{i:06}.txt").write_text(f"colour {i}")


@contextmanager
def timed(what: str, seconds: dict[str, list[float]]) -> Iterator[None]:
    """Adds the seconds spent inside, of the clock and of the CPU."""
    clock, spent = time.perf_counter(), time.process_time()
    yield
    seconds[what] = [round(time.perf_counter() - clock, 2), round(time.process_time() - spent, 2)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--side", type=int, default=32)
    given = parser.parse_args()
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        make(Path(name), given.count, given.side)
        with timed("a plan's few", seconds):
            read_few(name, given.side, strict=True)
        with timed("opening", seconds):
            folder = PictureFolder(name, size=given.side)
        with timed("reading", seconds):
            pictures = folder.load_all(given.side)
        with timed("hashing", seconds):
            folder.content_hash()
    assert len(pictures) == given.count
    print(
        json.dumps({"pictures": given.count, "side": given.side, "seconds (clock, CPU)": seconds}, indent=1)
    )


if __name__ == "__main__":
    main()
