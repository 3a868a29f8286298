"""Memory that stays with the process once it was taken."""

import resource
import subprocess
import sys

import pytest

MAPS = """
import resource
from calotype.models.allocation import keep_freed
if {keep}:
    keep_freed()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
bytes(bytearray(2**27))
before = faults()
for _ in range(3):
    bytes(bytearray(2**27))
print(faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_what_was_freed_is_used_again() -> None:
    def faults(keep: bool) -> int:
        done = subprocess.run(
            [sys.executable, "-c", MAPS.format(keep=keep)], capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    pages = 6 * 2**27 // resource.getpagesize()
    assert faults(keep=True) < pages / 20
    assert faults(keep=False) > pages / 1000  # huge pages, where the system makes them, are 512 times larger


ROOM = """
from pathlib import Path
from calotype.models.allocation import give_back, keep_freed
keep_freed()
def held():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith("VmRSS"))
first, last = bytearray(2**27), bytearray(2**20)
del first
before = held()
give_back()
print(before - held())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_what_was_kept_is_given_back_when_asked_for() -> None:
    done = subprocess.run([sys.executable, "-c", ROOM], capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 > 0.9 * 2**27
