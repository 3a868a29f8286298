"""Where the time of one command goes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager


def since_start() -> float:
    """Seconds since this process was started, the interpreter's own start included (Linux, else Python's)."""
    try:
        with open("/proc/self/stat", encoding="ascii") as file:
            # Field 22, counted after the name, which may hold blanks: clock ticks from boot to our start.
            ticks = int(file.read().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError):
        return time.process_time()


class Clock:
    """Wall seconds by stage, in the order of their first use; `start-up` is what came before the clock."""

    def __init__(self) -> None:
        self.stages = {"start-up": since_start()}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time spent inside to the stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + time.perf_counter() - started

    def report(self) -> str:
        """One line per stage with seconds and share, then the sum."""
        total = sum(self.stages.values())
        lines = [f"{name:>10} {spent:7.3f} s {spent / total:6.1%}" for name, spent in self.stages.items()]
        return "\n".join([*lines, f"{'together':>10} {total:7.3f} s"])
