"""`calotype replay`: a picture made again from its own record."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from calotype.cli.clock import Clock
from calotype.cli.drawing import set_threads, watched
from calotype.errors import InputError


def replay(
    picture: Annotated[Path, typer.Argument(help="A PNG that Calotype made.")],
    model: Annotated[
        str | None, typer.Option(help="Where its model is, if not where the picture says.")
    ] = None,
    prediction: Annotated[str | None, typer.Option(help="As when the picture was made.")] = None,
    vae: Annotated[str | None, typer.Option(help="As when the picture was made.")] = None,
    image: Annotated[str | None, typer.Option(help="Where the picture is that it began from.")] = None,
    mask: Annotated[str | None, typer.Option(help="Where its mask is.")] = None,
    look_in: Annotated[
        list[Path] | None,
        typer.Option(help="A folder with files it was made with, whose names alone it says; again for more."),
    ] = None,
    output: Annotated[str | None, typer.Option("-o", "--output", help="Write the replay too.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda …. Default: the best one here.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads. Default: torch's choice.")] = None,
) -> int:
    """Make a picture again from its own metadata and report how far the pixels differ.

    Exit code 0 if they are identical, 1 if they are not.
    """
    clock = Clock()
    from calotype.checkpoints import shelf
    from calotype.models.precision import DTYPES, parse
    from calotype.tasks import picture as files
    from calotype.tasks.replay import Comparison, replay
    from calotype.tasks.studio import pick_device

    made, record = files.read(picture, look_in or ())
    record = record.moved(image=image, mask=mask)
    record.request.check_sources()
    if output is not None:
        files.check_writable(files.output_paths(output, 1))
        files.keep_sources(files.output_paths(output, 1), [picture])
    set_threads(threads)
    # a name that only the picture gives is never fetched
    path = its_model(record.request.model) if model is None else shelf.find(model, fetch=True)
    loaded = shelf.load(
        path,
        pick_device(device),
        DTYPES[parse(record.precision)],
        prediction=prediction,
        vae=vae,
        widen=None,
    )
    identical = False
    for event in watched(replay(loaded, picture, made, record), clock):
        if isinstance(event, Comparison):
            identical = event.identical
            if output is not None:
                event.again.save(output)
            verdict = "identical" if identical else "different"
            print(f"{picture}: {verdict}, largest difference {event.largest}, mean {event.mean:.6f} of 255")
    return 0 if identical else 1


def its_model(name: str) -> Path:
    from calotype.checkpoints import shelf

    try:
        return shelf.find(name)
    except InputError:
        raise InputError(
            f"The picture's model {name} is not here; say with --model where it is, or with --look-in in "
            "which folder its files lie."
        ) from None
