"""Reads one picture file, whatever its mode, as RGB pixels on white."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

Pixels = NDArray[np.uint8]
Size = int | Callable[[int, int], tuple[int, int]] | None
"""A side of a square, or what gives of a picture's (width, height) the (height, width) to read it at."""

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"))


class UnreadablePictureError(Exception):
    """Why a picture cannot be used, in a few words: its caller names the file."""


def read_picture(path: Path | BytesIO, size: Size = None) -> Pixels:
    """The picture in `path`, or in the bytes of a file, as (H W 3) uint8, upright, alpha composited on white.

    With `size`, its shorter side is scaled to `size` (Lanczos) and the middle square cut out; of a size
    that is a function of (width, height), the middle of the (height, width) which that gives.  Of an
    animation the first frame is taken.  UnreadablePictureError for anything that is no whole picture, or
    that unpacks to more pixels than Pillow's limit against decompression bombs.
    """
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > (Image.MAX_IMAGE_PIXELS or float("inf")):
                raise UnreadablePictureError(f"unpacks to {picture.width}x{picture.height} pixels")
            rgb = on_white(ImageOps.exif_transpose(picture))
    except UnreadablePictureError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadablePictureError("unpacks to too many pixels") from error
    except FileNotFoundError as error:
        raise UnreadablePictureError("is missing") from error
    except UnidentifiedImageError as error:
        raise UnreadablePictureError("is not a picture") from error
    except Exception as error:  # a damaged file makes Pillow raise nearly anything, struct.error among it
        raise UnreadablePictureError(f"is damaged: {error}") from error
    if size is None:
        return np.asarray(rgb)
    return np.asarray(middle_square(rgb, size) if isinstance(size, int) else middle(rgb, size(*rgb.size)))


def upright_size(path: Path) -> tuple[int, int]:
    """(width, height) of the picture in `path` as it is read, from the file's header alone; (0, 0) where that
    cannot be read.
    """
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            turned = picture.getexif().get(0x0112, 1) >= 5  # of EXIF's orientations, those on a side
    except Exception:  # as in `read_picture`, which says what is wrong with the file
        return (0, 0)
    return (height, width) if turned else (width, height)


def on_white(picture: Image.Image) -> Image.Image:
    """Any Pillow picture as RGB; what is transparent becomes white."""
    if picture.mode.startswith("I") or picture.mode == "F":
        picture = _to_eight_bits(picture)
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    rgba = picture.convert("RGBA")
    flat = Image.new("RGB", rgba.size, "white")
    flat.paste(rgba, mask=rgba.getchannel("A"))
    return flat


def _to_eight_bits(picture: Image.Image) -> Image.Image:
    """Grey of 16 bits, or floats in [0, 1], as 8 bits: Pillow's own conversion would clip at 255."""
    values = np.asarray(picture).astype(np.float64)
    top = 1.0 if picture.mode == "F" else 65535.0
    return Image.fromarray(np.rint(values.clip(0, top) * (255.0 / top)).astype(np.uint8))


def middle_square(picture: Image.Image, size: int) -> Image.Image:
    """The middle square of a picture, at `size` by `size` pixels."""
    return middle(picture, (size, size))


def middle(picture: Image.Image, shape: tuple[int, int]) -> Image.Image:
    """As much of the middle of a picture as has the shape (height, width), at so many pixels."""
    height, width = shape
    if picture.size == (width, height):
        return picture
    scale = min(picture.width / width, picture.height / height)
    across, down = scale * width, scale * height
    left, top = (picture.width - across) / 2, (picture.height - down) / 2
    box = (left, top, left + across, top + down)
    return picture.resize((width, height), Image.Resampling.LANCZOS, box=box)
