"""`calotype.train`: the same runs as `calotype train …`, as one Python call."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from calotype.data.folder import PictureFolder
from calotype.errors import InputError
from calotype.models.presets import PRESETS
from calotype.training.config import AutoencoderTraining, DiffusionTraining
from calotype.training.fit import Plan, Run
from calotype.training.recipes import AUTOENCODER_RECIPES, DIFFUSION_RECIPES
from calotype.training.sessions import (
    picture_shapes,
    picture_size,
    prepare_autoencoder,
    prepare_diffusion,
    read_data,
)

Part = Literal["all", "autoencoder", "diffusion"]


@dataclass(frozen=True)
class Trained:
    """`path` is the checkpoint that `calotype.load` takes; `reports` the end report of each part trained."""

    path: Path
    reports: dict[str, dict[str, Any]]


def train(
    model: str,
    dataset: str | Path | PictureFolder,
    *,
    epochs: float | None = None,
    out: str | Path = "runs",
    part: Part = "all",
    autoencoder: str | Path | None = None,
    init_from: str | Path | None = None,
    autoencoder_config: AutoencoderTraining | None = None,
    diffusion_config: DiffusionTraining | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Trained:
    """Train the preset `model` ("icons", "tiny", …) on a folder of captioned pictures.

    `part` chooses the autoencoder, the diffusion model on a finished `autoencoder`, or both in turn;
    `epochs` overrides the configurations' steps.  Runs are written to `out`/autoencoder and
    `out`/diffusion and can be resumed.  Raises InputError, DataError, TrainingError or CheckpointError.
    """
    if model not in PRESETS:
        raise InputError(f"There is no model preset {model!r}; choose one of {', '.join(PRESETS)}.")
    model_config = PRESETS[model]()
    folder = dataset.path if isinstance(dataset, PictureFolder) else dataset
    strict = isinstance(dataset, PictureFolder) and dataset.strict
    first = autoencoder_config or AUTOENCODER_RECIPES.get(model, AutoencoderTraining)()
    second = diffusion_config or DIFFUSION_RECIPES.get(model, DiffusionTraining)()
    sizes = picture_size(first, model_config), picture_size(second, model_config)
    shapes = picture_shapes(first, model_config), picture_shapes(second, model_config)
    data = read_data(folder, sizes[0], strict=strict, watch=silent, shapes=shapes[0])
    if epochs is not None:
        first = replace(first, steps=max(1, math.ceil(epochs * len(data.pictures) / first.batch)))
        second = replace(second, steps=max(1, math.ceil(epochs * len(data.pictures) / second.batch)))
    reports: dict[str, dict[str, Any]] = {}
    source = Path(init_from) if init_from else None
    if part in {"all", "autoencoder"} and model_config.autoencoder is not None:
        plan = Plan(Path(out) / "autoencoder", resume=resume)
        run = prepare_autoencoder(first, model_config, data, plan, init_from=source)
        reports["autoencoder"] = complete(run, progress=progress)
        autoencoder = plan.folder / "model.safetensors"
    if part in {"all", "diffusion"}:
        if (sizes[1], shapes[1]) != (sizes[0], shapes[0]):
            data = read_data(folder, sizes[1], strict=strict, watch=silent, shapes=shapes[1])
        plan = Plan(Path(out) / "diffusion", resume=resume)
        run = prepare_diffusion(
            second,
            model_config,
            data,
            plan,
            autoencoder=Path(autoencoder) if autoencoder else None,
            init_from=source if part == "diffusion" else None,
            watch=silent,
        )
        reports["diffusion"] = complete(run, progress=progress)
    return Trained(plan.folder / "model.safetensors", reports)


def complete(run: Run, *, progress: bool, extra: dict[str, Any] | None = None) -> dict[str, Any]:
    """Take a run to its end (or time limit) and write its weights and report.

    The first Ctrl-C or SIGTERM ends it after the step it is in, with a checkpoint; a second one at once.
    """
    from calotype.training.progress import bar

    with _ending_gently(run), bar(run.config.steps, run.state.step, visible=progress and run.main) as show:
        for state in run.steps():
            show(state)
    return run.finish(extra or {})


@contextmanager
def _ending_gently(run: Run) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may take signals
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        run.stop()
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def silent(what: str, done: int, total: int) -> None:
    """A watcher that tells nobody."""
    del what, done, total
