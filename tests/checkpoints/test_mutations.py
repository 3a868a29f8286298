"""Spoilt checkpoints of every format: one clear sentence or a load that works, in bounded time and memory."""

from __future__ import annotations

import resource
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.checkpoints import mutations

from calotype.errors import CalotypeError

SECONDS = 60  # of one file, on a machine however busy; what hangs takes longer
MEMORY = 2 * 2**30  # bytes of address space above what the process has already
NAMES = [
    *("m.safetensors", "own.safetensors", "zip.ckpt", "old.ckpt", "folder"),
    *("style", "word", "word.pt", "net"),
]


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, mutations.Sample]:
    return mutations.samples(tmp_path_factory.mktemp("valid"))


@contextmanager
def bounds() -> Iterator[None]:
    """Within it, a file that takes too long or asks for too much memory is an error that fails the test."""

    def late(*_: object) -> None:
        raise AssertionError(f"after {SECONDS} s it is still at it")

    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, late)
    resource.setrlimit(resource.RLIMIT_AS, (has + MEMORY, limits[1]))
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGALRM, before)


def test_the_samples_are_valid(samples: dict[str, mutations.Sample]) -> None:
    assert list(samples) == NAMES
    for sample in samples.values():
        with bounds():
            assert sample.use(sample.path)


@pytest.mark.filterwarnings("ignore")  # of numbers that overflow, of keys that a LoRA matches in part
@pytest.mark.parametrize("count", [4, pytest.param(223, marks=pytest.mark.verify)])  # times 9: 2,007
@pytest.mark.parametrize("name", NAMES)
def test_mutations(name: str, count: int, samples: dict[str, mutations.Sample], tmp_path: Path) -> None:
    sample = samples[name]
    target = tmp_path / sample.path.name
    ends: Counter[str] = Counter()
    faults: list[str] = []
    for seed in range(count):
        mutations.spoil(sample.path, target, seed)
        try:
            with bounds():
                ends["made" if sample.use(target) else "nothing"] += 1
        except CalotypeError as error:
            ends["refused"] += 1
            if len(str(error)) > 4000 or not all(c.isprintable() or c == "\n" for c in str(error)):
                faults.append(f"seed {seed}: a message that is no sentence: {str(error)[:300]!r}")
        except BaseException as error:
            faults.append(f"seed {seed}: {type(error).__name__}: {str(error)[:300]}")
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    assert not faults, "\n".join(faults)
    assert ends["refused"]
    assert count < 50 or ends["made"]
