"""From any format that Calotype reads to any that it writes; the weights keep every bit."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import torch

from calotype.checkpoints import diffusers_writer, native, shelf, single_file
from calotype.checkpoints.found import Found
from calotype.errors import InputError, OutputError

Format = Literal["native", "single-file", "diffusers"]
FORMATS: tuple[Format, ...] = get_args(Format)

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def convert(
    source: str,
    target: str | Path,
    format: str | None = None,
    dtype: str | None = None,
    *,
    prediction: str | None = None,
    vae: str | None = None,
    drop_unknown: bool = False,
    fetch: bool = True,
) -> Format:
    """Write the model again; returns the format it was written in.

    source      a shipped name, a file, a folder, or an id of the hub's; `fetch`: whether that may be fetched
    format      None for what the target's name says: .safetensors is a single file, no suffix a folder
    dtype       of `DTYPES`; None keeps the precisions there are, and with them every bit
    prediction  what the U-Net predicts (eps, v, x0), for files that do not say it or say it wrongly
    vae         a file or folder whose autoencoder takes the place of the model's own
    drop_unknown  leave out tensors for which the model has no place, which are an error otherwise

    The text layers and the projection that SD 2.x does not use have no place in a diffusers folder.
    Raises InputError for a wrong argument, CheckpointError for a model that the format cannot express,
    OutputError where the target cannot be written.
    """
    target = Path(target).expanduser()
    kind = _format(target, format)
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"dtype is {dtype!r}; give one of {', '.join(DTYPES)}.")
    path = shelf.find(source, fetch=fetch)
    if target.exists() and (target.is_dir() or target.samefile(path)):
        raise OutputError(f"{target} is there already; choose another name or remove it.")
    found = shelf.recognise(path, prediction, vae)
    recipe = dict(found.recipe) if isinstance(found, Found) else native.describe(path).recipe
    if drop_unknown and isinstance(found, Found):
        found = found.without_unknown()
    model = found.load(dtype=None)
    stored = None if dtype is None else DTYPES[dtype]
    if kind == "native":
        native.save(target, model, recipe=recipe, dtype=stored)
    elif kind == "single-file":
        single_file.write(target, model, stored, recipe)
    else:
        diffusers_writer.write(target, model, stored, recipe)
    return kind


def _format(target: Path, asked: str | None) -> Format:
    if asked is None:
        return "single-file" if target.suffix == ".safetensors" else "diffusers"
    known: Format | None = next((kind for kind in FORMATS if kind == asked), None)
    if known is None:
        raise InputError(f"format is {asked!r}; give one of {', '.join(FORMATS)}.")
    if known != "diffusers" and target.suffix != ".safetensors":
        raise InputError(f"{target} should end in .safetensors, as {known} files do; name it so.")
    return known
