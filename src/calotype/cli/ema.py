"""`calotype ema`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from calotype.errors import InputError


def ema(
    run: Annotated[Path, typer.Argument(help="The folder of a run trained with snapshot_every.")],
    length: Annotated[
        float, typer.Option(help="Relative width of the average, above 0, below 0.28: 0.1 is usual.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to write the model.")],
    step: Annotated[int | None, typer.Option(help="After which step. Default: the run's last.")] = None,
) -> None:
    """Write the model whose weights are averaged over another length than the training's own."""
    from calotype.checkpoints import native
    from calotype.models.pixel_config import PixelConfig
    from calotype.training.posthoc import average, put, snapshots

    if output.exists():
        raise InputError(f"{output} is there already; name another file with -o.")
    weights = run / "model.safetensors"
    chosen = snapshots(run, step)
    info = native.describe(weights)
    at = step or chosen[-1].step
    values, missed = average(chosen, length, at)
    recipe = info.recipe | {"ema_length": length, "ema_step": at}
    if isinstance(info.config, PixelConfig):
        photos = native.load_pixel(weights)
        put(values, photos.parts(), run)
        native.save_pixel(output, photos, recipe=recipe)
    else:
        model = native.load(weights)
        put(values, model.parts(), run)
        native.save(output, model, recipe=recipe)
    print(output)
    print(
        f"calotype: the average over {length:g} after step {at}, of {len(chosen)} snapshots, whose profile "
        f"it meets to {missed:.2%}",
        file=sys.stderr,
    )
