"""Edges of pictures, as ControlNets are trained to look at: white on black, by OpenCV's Canny."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from calotype import durable
from calotype.data.folder import PictureFolder
from calotype.data.pictures import Pixels, UnreadablePictureError, read_picture
from calotype.errors import DataError, InputError, OutputError

LOW, HIGH = 100, 200
"""Thresholds of the gradient, of 0 to 255: those that ControlNet's own example begins with."""


def edges(picture: Pixels) -> Pixels:
    """The edges of a picture (H W 3) uint8, as a picture: (H W 3) uint8, 255 where there is one.

    Raises InputError without OpenCV.
    """
    try:
        cv2: Any = import_module("cv2")
    except ImportError:
        raise InputError(
            "Edges are found by OpenCV: pip install 'calotype[photo]', or name a folder of control pictures."
        ) from None
    found = cv2.Canny(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), LOW, HIGH)  # -> (H W)
    return np.repeat(found[..., None], 3, axis=2)  # (H W) -> (H W 3)


def write_edges(source: Path, out: Path, progress: Callable[[int, int], None]) -> int:
    """The edges of a picture as the PNG `out`, or of every picture of a folder below `out`, by the same
    names; how many were written.

    Raises DataError for a folder without pictures or a picture that cannot be read, OutputError where a file
    cannot be written.
    """
    if source.is_dir():
        records = PictureFolder(source).records
        places = {
            record.path: out / record.path.relative_to(source).with_suffix(".png") for record in records
        }
    else:
        places = {source: out}
    for done, (path, place) in enumerate(places.items(), 1):
        try:
            found = edges(read_picture(path))
        except UnreadablePictureError as error:
            raise DataError(f"{path} {error}: repair or remove it.") from error
        partial = place.with_name(place.name + ".tmp")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(found).save(partial, "PNG")
            durable.rename(partial, place)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise OutputError(f"{place} cannot be written ({error}); choose another place.") from error
        progress(done, len(places))
    return len(places)


def edges_of(pictures: Tensor) -> Tensor:
    """Of several pictures (B 3 H W) uint8: same."""
    found = [
        edges(one) for one in pictures.permute(0, 2, 3, 1).contiguous().numpy()
    ]  # (B 3 H W) -> (B H W 3)
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).contiguous()  # (B H W 3) -> (B 3 H W)
