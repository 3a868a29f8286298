"""Pictures laid out on one sheet, for the eye that no figure replaces."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from calotype import durable
from calotype.errors import OutputError


def sheet(pictures: Tensor, columns: int = 8, gap: int = 2) -> Image.Image:
    """uint8 pictures (N 3 H W) in rows of `columns` on white."""
    height, width = pictures.shape[-2:]
    rows = -(-len(pictures) // columns)
    page = torch.full((3, rows * (height + gap) - gap, columns * (width + gap) - gap), 255, dtype=torch.uint8)
    for i, picture in enumerate(pictures):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        page[:, top : top + height, left : left + width] = picture
    return Image.fromarray(page.permute(1, 2, 0).numpy())  # (3 h w) -> (h w 3)


def save_sheet(path: Path, pictures: Tensor, columns: int = 8) -> None:
    """The sheet as PNG, under a temporary name first; OutputError where it cannot be written."""
    partial = path.with_name(path.name + ".tmp")
    try:
        sheet(pictures, columns).save(partial, "PNG")
        durable.rename(partial, path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror}); choose another place.") from error
