"""What a run will cost before it is begun: a few of its steps on a few of its pictures, reckoned up.

Nothing is modelled that can be measured: the steps are the run's own, on this machine, and so are the
checkpoint, the evaluation and the sheet of samples.  What grows with the data set is counted.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from calotype.checkpoints.memory import peak
from calotype.errors import InputError, OutputError
from calotype.training.config import TrainConfig, to_json
from calotype.training.dreambooth import AT_ONCE
from calotype.training.few import Few
from calotype.training.fit import Plan, Run
from calotype.training.folder import RunFolder, write_text
from calotype.training.page import PLAN
from calotype.training.sessions import DataSet, Watch
from calotype.training.tune_config import DreamBoothTraining

Prepare = Callable[[TrainConfig, DataSet, Plan, Watch], Run]
"""Makes the run of a configuration on pictures, and says on the way what is being prepared."""

CALIBRATION = 8.0
"""Seconds that the measured steps take together, at least."""
FEWEST = 4
"""Steps that are measured, at least ..."""
MOST = 1000
"""... and at most."""


@dataclass(frozen=True)
class Forecast:
    """What a run takes, in seconds and bytes on this machine, with so many threads.

    config      the run's configuration as JSON
    flops       floating-point operations of one step, forward, backward and update
    step        seconds of one step
    preparing   seconds before the first step, by what is done (once: latents and features are cached)
    running     seconds by what is done, which together are the run's
    memory      the process's peak; `device_memory` that of CUDA's, 0 without
    disk        what lies there at the end, by kind
    """

    config: str
    threads: int
    pictures: int
    parameters: int
    trained: int
    flops: int
    step: float
    preparing: dict[str, float]
    running: dict[str, float]
    memory: int
    device_memory: int
    disk: dict[str, int]

    @property
    def seconds(self) -> float:
        """Of the run, from its first step to its last."""
        return sum(self.running.values())

    def write(self, folder: Path) -> None:
        """Into `folder`, as the run that begins there will find it."""
        write_text(folder / PLAN, json.dumps(asdict(self), indent=1) + "\n")


def forecast(
    prepare: Prepare, few: Few, config: TrainConfig, plan: Plan, *, seconds: float | None = None
) -> Forecast:
    """Measure a few steps of the run that `plan` would begin, for about `seconds`, and reckon it up.

    Raises InputError where its folder holds a run already, OutputError where it cannot be written, and
    whatever preparing the run raises.
    """
    if plan.resume or RunFolder.checkpoints_in(plan.folder):
        raise InputError(
            f"A plan is made of a whole run, but {plan.folder} holds one or --resume is given; "
            "leave --resume out and name a new folder with --out."
        )
    made = not plan.folder.exists()
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
        place = tempfile.TemporaryDirectory(dir=plan.folder, prefix="calibration-")
    except OSError as error:
        raise OutputError(
            f"The run folder {plan.folder} cannot be made: {error.strerror}; choose another with --out."
        ) from error
    try:
        with place as name, _own_cache(Path(name) / "cache"):
            trial = replace(plan, folder=Path(name) / "run", minutes=math.inf)
            longer = config.steps + MOST + FEWEST  # so that even the shortest run has steps to measure
            quiet = replace(config, steps=longer, evaluate_every=0, sample_every=0, checkpoint_every=0)
            speeds = _Speeds()
            run = prepare(_with_few_drawn(quiet), few.data, trial, speeds)
            return _reckoned(
                run, few, config, _Measured(run, config, CALIBRATION if seconds is None else seconds), speeds
            )
    except BaseException:
        if made and not any(plan.folder.iterdir()):
            plan.folder.rmdir()
        raise


def _with_few_drawn(config: TrainConfig) -> TrainConfig:
    """DreamBooth without most of the pictures that it draws of the class."""
    if not isinstance(config, DreamBoothTraining):
        return config
    return replace(config, class_pictures=min(config.class_pictures, 2 * AT_ONCE))


class _Speeds:
    """Seconds for one of each thing that is prepared, from what its preparing tells on the way."""

    def __init__(self) -> None:
        self._began: dict[str, tuple[float, int]] = {}
        self.each: dict[str, float] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        del total
        now = time.monotonic()
        began, first = self._began.setdefault(what, (now, done))
        if done > first:
            self.each[what] = (now - began) / (done - first)


class _Measured:
    """One of everything that the run does, timed."""

    def __init__(self, run: Run, config: TrainConfig, seconds: float) -> None:
        steps = run.steps()
        next(steps)
        first = time.monotonic() - run.started
        spent: list[float] = []
        next(steps)  # memory is still being taken
        while len(spent) < FEWEST or (sum(spent) < seconds and len(spent) < MOST):
            spent.append(_timed(lambda: next(steps)))
        self.step = statistics.median(spent)
        self.start = max(0.0, first - self.step)
        with FlopCounterMode(display=False) as counter:
            next(steps)
        self.flops = int(counter.get_total_flops())
        steps.close()
        board = run.new_board()
        self.evaluation = _timed(lambda: run.evaluate(board, 1)) if config.evaluate_every else 0.0
        self.sample = _timed(lambda: run.sample(board, 1)) if config.sample_every else 0.0
        board.close()
        self.saving = _timed(run.save)
        self.averages = sum(v.nbytes for ema in run.state.averages for v in ema.average.values())
        run.finish({})


def _timed(do: Callable[[], object]) -> float:
    began = time.monotonic()
    do()
    return time.monotonic() - began


def _times(every: int, steps: int) -> int:
    """How often something is done every so many steps and after the last."""
    return 0 if not every else steps // every + (steps % every > 0)


def _reckoned(run: Run, few: Few, config: TrainConfig, each: _Measured, speeds: _Speeds) -> Forecast:
    pictures, share = few.pictures + few.held_out, few.share
    latents, words = run.objective.kept()
    spoken = few.captions / max(1, few.captions_here)
    sheets = _times(config.sample_every, config.steps)
    saves = _times(config.checkpoint_every, config.steps) + 1
    running = {
        "start": each.start,
        "steps": each.step * config.steps,
        "evaluation": each.evaluation * _times(config.evaluate_every, config.steps),
        "samples": each.sample * sheets,
        "checkpoints": each.saving * saves,
    }
    folder = run.folder.path
    state = run.folder.checkpoints()[-1].stat().st_size
    sheet = max((path.stat().st_size for path in (folder / "samples").iterdir()), default=0)
    # a sheet lies there twice, once in TensorBoard's file
    disk = {
        # the last is written twice
        "checkpoints": state * min(max(1, saves - 1), config.keep_checkpoints),
        "averages": each.averages * _times(config.snapshot_every, config.steps),
        "weights": _size(folder / run.objective.product),
        "samples and metrics": 2 * sheet * sheets + 500 * _times(config.log_every, config.steps),
        "caches": int(latents * share + words * spoken) if latents else 0,
    }
    counts = {}
    if isinstance(config, DreamBoothTraining) and config.prior_weight:
        counts["drawing the class"] = config.class_pictures
        drawn = [path.stat().st_size for path in (folder / "class").glob("*.png")]
        disk["the class"] = sum(drawn) * config.class_pictures // len(drawn)
    device = run.accelerator.device
    parameters = list(run.objective.parameters())
    still = sum(p.numel() for part in run.objective.still() for p in part.parameters())
    return Forecast(
        config=to_json(config),
        threads=torch.get_num_threads(),
        pictures=few.pictures,
        parameters=sum(p.numel() for p in parameters) + still,
        trained=sum(p.numel() for p in parameters if p.requires_grad),
        flops=each.flops,
        step=each.step,
        preparing={"reading pictures": few.reading * pictures}
        | {what: second * counts.get(what, pictures) for what, second in speeds.each.items()},
        running=running,
        memory=whole_memory(few, latents, words, peak()),
        device_memory=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0,
        disk=disk,
    )


def whole_memory(few: Few, latents: int, words: int, held: int) -> int:
    """The peak with all pictures in bytes, from the one with a few, `held`, of which `latents` were for what
    was made of these pictures, and `words` for what was made of their captions.
    """
    here = few.bytes + latents + words
    there = (few.bytes + latents) * few.share + words * few.captions / max(1, few.captions_here)
    # while the pictures are read and parted into splits, they lie in memory twice
    return int(max(held - here + there, few.before + 2 * few.bytes * few.share))


def _size(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


@contextmanager
def _own_cache(folder: Path) -> Iterator[None]:
    """Caches of a few pictures are of no use later, and one from before would hide what making it takes."""
    before = os.environ.get("CALOTYPE_CACHE")
    os.environ["CALOTYPE_CACHE"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["CALOTYPE_CACHE"]
        else:
            os.environ["CALOTYPE_CACHE"] = before
