"""`calotype plan …`: what a command will cost, told to a person."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from calotype.errors import InputError

if TYPE_CHECKING:
    from calotype.cli.clock import Clock
    from calotype.tasks.request import Request
    from calotype.training.config import TrainConfig
    from calotype.training.fit import Plan
    from calotype.training.forecast import Forecast


def plan(context: typer.Context) -> Any:
    """What a command will cost, without doing it: put `plan` before it, as in `calotype plan train …`.

    It may be `train` or `generate`: parameters, operations, peak memory, time on this machine from a short
    calibration, room on the disk.
    """
    from calotype.cli.main import app

    if context.args[:1] not in (["train"], ["generate"]):
        raise InputError(
            "`calotype plan` stands before `train` or `generate` and all that follows them, as in "
            "`calotype plan train diffusion FOLDER`."
        )
    return app([*context.args, "--plan"], prog_name="calotype", standalone_mode=False)


def of_run(told: Forecast, config: TrainConfig, plan: Plan) -> str:
    """A training's forecast in lines, with what stands in its way."""
    from calotype.checkpoints.memory import free
    from calotype.training.fit import training_device

    device = training_device(plan)
    whole, each = told.flops * config.steps, told.flops / config.batch
    lines = [
        f"parameters  {told.parameters:,}, of which {told.trained:,} are trained",
        f"work        {each / 1e9:,.2f} GFLOP a picture, {whole / 1e12:,.1f} TFLOP in all; "
        f"{told.flops / told.step / 1e12:.3f} TFLOP/s reached",
        f"before      {_listed(told.preparing, duration)}",
        f"time        {duration(told.seconds)}: {told.step:.3g} s a step, {_listed(told.running, duration)}",
        f"memory      {size(told.memory)} at the peak"
        + (f", {size(told.device_memory)} on the device" if told.device_memory else ""),
        f"disk        {size(sum(told.disk.values()))}: {_listed(told.disk, size)}",
    ]
    if told.seconds > plan.minutes * 60:
        done = int(config.steps * plan.minutes * 60 / told.seconds)
        lines.append(
            f"--minutes {plan.minutes:g} ends it after about {done:,} of its {config.steps:,} steps."
        )
    room = free(device) if device.type == "cpu" else None
    if room is not None and told.memory > room:
        lines.append(
            f"It does not fit: {size(room)} of memory are free; try --set accumulate=2 or recompute=true."
        )
    left = shutil.disk_usage(plan.folder).free
    if sum(told.disk.values()) > left:
        lines.append(f"It does not fit: {size(left)} of the disk are free; name another place with --out.")
    return "\n".join([*lines, str(Path(plan.folder) / "plan.json")])


def of_drawing(
    request: Request,
    prediction: str | None,
    vae: str | None,
    device: str | None,
    threads: int | None,
    clock: Clock,
    offline: bool,
) -> None:
    """Print what a request would cost, the time from the shell's prompt on."""
    with clock.stage("imports"):
        from calotype.checkpoints import shelf
        from calotype.cli.drawing import set_threads
        from calotype.tasks.forecast import forecast
        from calotype.tasks.studio import pick_device
    with clock.stage("load"):
        set_threads(threads)
        place = pick_device(device)
        found = shelf.recognise(shelf.find(request.model, fetch=not offline), prediction, vae)
        if request.refiner is not None:  # a hub id is fetched here or never
            shelf.find(request.refiner, fetch=not offline)
        asked = request.resolved(found.config)
        model = found.load(place)
    told = forecast(model, asked)
    seconds = clock.stages | told.seconds
    parts = _listed(told.parameters, lambda count: f"{count:,}")
    print(f"parameters  {sum(told.parameters.values()):,}: {parts}")
    print(f"work        {told.flops / 1e12:,.3f} TFLOP for {asked.pictures} picture(s)")
    print(f"time        {duration(sum(seconds.values()))}: {_listed(seconds, duration)}")
    print(f"memory      {size(told.memory)} at the peak")
    print(f"disk        about {size(told.disk)}")


def duration(seconds: float) -> str:
    """As one says it."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes = seconds / 60
    return f"{minutes:.3g} min" if minutes < 100 else f"{minutes / 60:.3g} h"


def size(count: float) -> str:
    """Bytes in MB or GB."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _listed(parts: dict[str, Any], said: Any) -> str:
    return ", ".join(f"{name} {said(value)}" for name, value in parts.items() if value)
