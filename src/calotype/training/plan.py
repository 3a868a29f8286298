"""How a run is to be made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Plan:
    """How to run, apart from what is learned: nothing in here changes the weights.

    `minutes` ends the run early, with a checkpoint, once that much time has passed; `threads`
    is the number of CPU threads, which exact resuming has to keep; `fsdp` leaves every process a part of
    the weights.
    """

    folder: Path
    resume: bool = False
    minutes: float = math.inf
    device: str | None = None
    threads: int | None = None
    inexact: bool = False
    fsdp: bool = False
