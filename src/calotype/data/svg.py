"""An icon in Iconify's layout as an SVG document, and a drawing as pixels on white."""

import io
from importlib.util import find_spec
from typing import Any

import numpy as np
from PIL import Image

from calotype.data.pictures import Pixels, on_white
from calotype.errors import DataError

_BOX = {"left": 0, "top": 0, "width": 16, "height": 16}


def icon_svg(icon: dict[str, Any], defaults: dict[str, Any], colour: str | None = None) -> str:
    """The SVG document of one icon; `colour` is what `currentColor` means in it.

    Weather icons fade their rain in: such animated parts start invisible, and are shown here.
    """
    box = {key: icon.get(key, defaults.get(key, value)) for key, value in _BOX.items()}
    left, top, width, height = (f"{float(box[key]):g}" for key in ("left", "top", "width", "height"))
    paint = f' color="{colour}"' if colour else ""
    body = icon["body"].replace(' opacity="0"', "") if "<animate" in icon["body"] else icon["body"]
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}"{paint}>{body}</svg>'
    )


def require_renderer() -> None:
    """DataError where the package that draws SVG is not installed: better known before a long fetch."""
    if find_spec("resvg_py") is None:
        raise DataError(
            "Drawing icons needs the package resvg_py, which is not installed: install calotype with its "
            "`data` extra."
        )


def draw(payload: str | bytes, size: int, trim: bool = False) -> Pixels:
    """An SVG document, or the bytes of a picture file, fitted into a white square: (size size 3) uint8.

    `trim` cuts away the empty page around the drawing first.  System fonts are left out, so that the same
    pixels come out on every machine.  ValueError or OSError where the payload cannot be read.
    """
    if isinstance(payload, str):
        from resvg_py import svg_to_bytes

        side = 4 * size if trim else size
        # resvg keeps the drawing's proportions within the width and height it is given.
        payload = bytes(
            svg_to_bytes(svg_string=payload, skip_system_fonts=True, width=side, height=side, dpi=96)
        )
    with Image.open(io.BytesIO(payload)) as picture:
        flat = on_white(picture)
    return _in_square(_trimmed(flat) if trim else flat, size)


def _trimmed(picture: Image.Image) -> Image.Image:
    """What is not white in a picture, with a margin of a twentieth of it."""
    ink = picture.convert("L").point(lambda value: 255 if value < 250 else 0).getbbox()
    if ink is None:
        return picture
    left, top, right, bottom = ink
    margin = max(right - left, bottom - top) // 20
    page = Image.new("RGB", (right - left + 2 * margin, bottom - top + 2 * margin), "white")
    page.paste(picture.crop(ink), (margin, margin))
    return page


def _in_square(picture: Image.Image, size: int) -> Pixels:
    """The whole of a picture, as large as fits, in the middle of a white square."""
    if picture.size == (size, size):
        return np.asarray(picture)
    scale = size / max(picture.size)
    fitted = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    square = Image.new("RGB", (size, size), "white")
    square.paste(
        picture.resize(fitted, Image.Resampling.LANCZOS), ((size - fitted[0]) // 2, (size - fitted[1]) // 2)
    )
    return np.asarray(square)
