"""A restoration from the pictures that were uploaded for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import PIL.Image

from calotype.models.pixel_diffusion import PixelDiffusion
from calotype.safety.policy import Safety
from calotype.tasks import restore
from calotype.tasks.finish import finished_restoration
from calotype.tasks.photo_file import Photo
from calotype.tasks.restoration import Restoration, RestoredPicture, pictures


class Abandoned(Exception):  # noqa: N818
    """Raised by a watch: nobody wants the pictures any more."""


def restored(
    model: PixelDiffusion,
    asked: Restoration,
    uploads: Mapping[str, PIL.Image.Image],
    watch: restore.Watch,
    safety: Safety,
) -> Iterator[RestoredPicture]:
    """The pictures of a restoration, finished, in their order.  InputError as the functions of `restore`."""
    photos = {name: photo_of(image) for name, image in uploads.items()}
    found = asked.run(model, photos["image"], photos.get("mask"), photos.get("kernel"), watch)
    yield from finished_restoration(pictures(asked, found, model), model, safety)


def photo_of(image: PIL.Image.Image) -> Photo:
    """(3 H W) from 0 to 1."""
    levels = np.asarray(image.convert("RGB"), dtype=np.float32) / np.float32(255)
    return Photo(np.ascontiguousarray(levels.transpose(2, 0, 1)))  # (H W 3) -> (3 H W)
