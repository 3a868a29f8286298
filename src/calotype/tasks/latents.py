"""Finished latents beside the picture they are to become: kept before decoding, and developed again later.

Decoding needs more memory at once than all steps before it, and a process that the system kills for it says
nothing.  So what minutes of sampling made lies on the disk before the decoder runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from calotype.checkpoints.weights import write_safetensors
from calotype.checkpoints.weights_file import open_weights
from calotype.diffusion.windows import Windows
from calotype.errors import InputError
from calotype.models.latent_diffusion import LatentDiffusion
from calotype.tasks import places
from calotype.tasks.canvas import Canvas, canvas
from calotype.tasks.cut import cut
from calotype.tasks.picture import KEY, Picture, Record
from calotype.tasks.pixels import decode, fitting, windows_of

SUFFIX = ".latents.safetensors"
NAME = "latents"


def beside(picture: Path) -> Path:
    """Where the latents of a picture are kept: out.png's in out.latents.safetensors."""
    return picture.with_suffix(SUFFIX)


def picture_of(path: Path) -> Path:
    """The inverse of `beside`."""
    return path.with_name(path.name.removesuffix(SUFFIX) + ".png")


def write(path: Path, latents: Tensor, record: Record) -> None:
    """Latents (C h w) with their picture's record, atomically; OutputError where that fails."""
    write_safetensors(path, {NAME: latents.detach().to("cpu").contiguous()}, {KEY: record.to_json()})


def read(path: Path, look_in: Sequence[Path] = ()) -> tuple[Tensor, Record]:
    """The inverse of `write`; files it was made with are looked for in the folders `look_in`, in the current
    one, beside the latents.

    Raises CheckpointError for a file that cannot be read, InputError for one that holds no latents of ours.
    """
    file = open_weights(path)
    told = file.metadata.get(KEY)
    if told is None or NAME not in file.shapes:
        raise InputError(f"{path} holds no latents that Calotype kept; name a file that ends in {SUFFIX}.")
    record = Record.from_json(told)
    found = places.beside(record.request, look_in, path.parent)
    return file.tensor(NAME).clone(), replace(record, request=found)


def develop(
    model: LatentDiffusion,
    latents: Tensor,
    record: Record,
    index: int,
    windows: Windows | None,
    given: Canvas | None,
) -> Picture:
    """The picture of latents (C h w): decoded, cut to size, and what a mask keeps laid back.

    windows  in which the decoder sees them; None for the whole at once
    given    the canvas it was drawn on, None where it began from noise
    """
    asked = record.request
    image = decode(model, latents, windows).crop((0, 0, asked.width, asked.height))
    if asked.wrap is not None and given is None:
        image, latents = cut(image, latents, asked.wrap)
    return Picture(image if given is None else given.restored(image), latents, record, index)


def developed(model: LatentDiffusion, latents: Tensor, record: Record, tile: int | None = None) -> Picture:
    """The picture of latents that were kept, as the run would have made it.

    tile  pixels a side of the windows to decode in; None for as the request says, or as memory allows

    Raises InputError where the model is another than that of the latents, or a picture they began from cannot
    be had.
    """
    if model.weights_hash != record.weights_hash:
        raise InputError(
            f"These latents were made with other weights ({record.model_name}, {record.weights_hash[:12]}) "
            f"than these ({model.config.name}, {model.weights_hash[:12]}); give the right file with --model."
        )
    asked = record.request
    factor = model.config.factor
    wanted = (model.config.unet.out_channels, -(-asked.height // factor), -(-asked.width // factor))
    if tuple(latents.shape) != wanted:
        raise InputError(
            f"The latents are of shape {tuple(latents.shape)}, not {wanted}; the file is damaged."
        )
    asked.check_sources()
    given = canvas(model, asked)
    if tile is not None:
        asked = asked.model_copy(update={"tile": tile})
    windows = windows_of(model, asked) or fitting(model, *latents.shape[-2:])
    return develop(model, latents, record, 0, windows, given)
