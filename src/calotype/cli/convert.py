"""`calotype convert`: a model in another format."""

from __future__ import annotations

from typing import Annotated

import typer


def convert(
    source: Annotated[
        str, typer.Argument(metavar="IN", help="A name from `calotype models`, a file, a folder, a hub id.")
    ],
    target: Annotated[str, typer.Argument(metavar="OUT", help="The file or folder to write.")],
    format: Annotated[
        str | None,
        typer.Option(
            help="diffusers, single-file or native. Default: single-file for a .safetensors, else diffusers."
        ),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, float16 or bfloat16. Default: as it is, to the bit.")
    ] = None,
    prediction: Annotated[
        str | None, typer.Option(help="What its U-Net predicts, where the file is wrong: eps, v or x0.")
    ] = None,
    vae: Annotated[
        str | None, typer.Option(help="A file or folder whose autoencoder is used instead of the model's.")
    ] = None,
    drop_unknown: Annotated[
        bool, typer.Option("--drop-unknown", help="Leave out tensors for which the model has no place.")
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Fetch nothing, even for a hub id.")] = False,
) -> None:
    """Write a model in another format; prints what was written."""
    from calotype.checkpoints.convert import convert

    written = convert(
        source,
        target,
        format,
        dtype,
        prediction=prediction,
        vae=vae,
        drop_unknown=drop_unknown,
        fetch=not offline,
    )
    print(f"{target} ({written})")
