"""Batches made while the device is at work on the one before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

Batch = Mapping[str, Tensor]


class Ahead:
    """Asked for batch `step`, it lets another thread begin the next, up to `steps`.

    A batch hangs on its number alone, so that making it early changes nothing.  On an accelerator the noise
    and the words of a batch, which come from the CPU, else cost as much time as the update itself.
    """

    def __init__(self, make: Callable[[int], Batch], steps: int) -> None:
        self._make, self._steps = make, steps
        self._thread = ThreadPoolExecutor(1)
        self._begun: dict[int, Future[Batch]] = {}

    def __call__(self, step: int) -> Batch:
        """What `make` gives for `step`; raises what it raised."""
        asked = self._begun.pop(step, None) or self._thread.submit(self._make, step)
        batch = asked.result()
        if step + 1 < self._steps:
            self._begun = {step + 1: self._thread.submit(self._make, step + 1)}
        return batch

    def close(self) -> None:
        """End the thread, after the batch it is at."""
        self._thread.shutdown(cancel_futures=True)
