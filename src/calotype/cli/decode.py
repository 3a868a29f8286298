"""`calotype decode`: pictures of latents that a run kept and did not come to decode."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from calotype.cli import safety
from calotype.cli.drawing import set_threads, tell
from calotype.cli.replay import its_model
from calotype.errors import InputError


def decode(
    latents: Annotated[list[Path], typer.Argument(help="Files that end in .latents.safetensors.")],
    output: Annotated[
        str | None, typer.Option("-o", "--output", help="PNG to write. Default: beside the latents.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Where the model is, if not where the latents say.")
    ] = None,
    prediction: Annotated[str | None, typer.Option(help="As when the latents were made.")] = None,
    vae: Annotated[str | None, typer.Option(help="As when the latents were made.")] = None,
    look_in: Annotated[
        list[Path] | None,
        typer.Option(help="A folder with files they were made with, whose names alone they say."),
    ] = None,
    tile: Annotated[
        int | None, typer.Option(help="Decode in windows of so many pixels. Default: as memory allows.")
    ] = None,
    content_check: safety.ContentCheck = None,
    content_threshold: safety.Threshold = None,
    block_list: safety.Words = None,
    metadata: safety.Metadata = "full",
    device: Annotated[str | None, typer.Option(help="cpu, cuda …. Default: the best one here.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads. Default: torch's choice.")] = None,
) -> None:
    """Make the pictures of latents that a run kept before it failed; prints the path of each."""
    from calotype.checkpoints import shelf
    from calotype.models.offload import Offload
    from calotype.models.precision import DTYPES, parse
    from calotype.tasks import latents as kept
    from calotype.tasks import picture as files
    from calotype.tasks.finish import finished, is_shipped, wanted
    from calotype.tasks.studio import pick_device

    if tile is not None and tile < 1:
        raise InputError(f"tile is {tile}; give a number of pixels, at least 1.")
    guards = safety.safety(content_check, content_threshold, block_list, metadata)
    found = [kept.read(path, look_in or ()) for path in latents]
    for _, record in found:
        guards.refuse_words(wanted(record.request))
    paths = [kept.picture_of(path) for path in latents]
    if output is not None:
        paths = files.output_paths(output, len(latents))
    files.check_writable(paths)
    set_threads(threads)
    names = dict.fromkeys((model or record.request.model, record.precision) for _, record in found)
    for name, precision in names:
        # a name that only the file gives is never fetched
        place = its_model(name) if model is None else shelf.find(name, fetch=True)
        on = pick_device(device)
        dtype = DTYPES[parse(precision)]
        alone = Offload(on, dtype)  # of all networks the decoder is read
        loaded = shelf.load(place, on, dtype, prediction=prediction, vae=vae, offload=alone, widen=None)
        for (made, record), path in zip(found, paths, strict=True):
            if (model or record.request.model, record.precision) == (name, precision):
                checked = guards.checks(is_shipped(loaded, record.request))
                picture = finished(kept.developed(loaded, made, record, tile), guards, checked)
                picture.save(path)
                print(path, flush=True)
                tell(picture)
