"""An SVG drawing, or a picture file, as RGB pixels on white."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from calotype.errors import DataError

Pixels = NDArray[np.uint8]


def icon_svg(icon: dict[str, Any], defaults: dict[str, Any], colour: str | None = None) -> str:
    """The SVG document of one icon in Iconify's layout; `colour` is what `currentColor` means."""
    box = {key: icon.get(key, defaults.get(key, value)) for key, value in _BOX.items()}
    left, top, width, height = (f"{float(box[key]):g}" for key in ("left", "top", "width", "height"))
    paint = f' color="{colour}"' if colour else ""
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}"{paint}>'
        f"{icon['body']}</svg>"
    )


_BOX = {"left": 0, "top": 0, "width": 16, "height": 16}


def render_svg(svg: str, size: int) -> Pixels:
    """Draws `svg` as large as fits into a white square of `size` pixels: (H W 3) uint8.

    System fonts are left out, so that the same pixels come out on every machine.  ValueError where the
    drawing cannot be read.
    """
    try:
        from resvg_py import svg_to_bytes
    except ImportError as error:
        raise DataError(
            "Drawing SVG pictures needs the package resvg_py, which is not installed: "
            "install calotype with its `data` extra."
        ) from error
    # resvg scales to the width when both sides are given, so the side that limits is named alone.
    picture = Image.open(io.BytesIO(svg_to_bytes(svg_string=svg, skip_system_fonts=True, width=size, height=size)))
    return on_white(picture, size)


def on_white(picture: Image.Image, size: int) -> Pixels:
    """`picture` composited on white and fitted into a white square: (H W 3) uint8."""
    rgba = picture.convert("RGBA")
    flat = Image.new("RGB", rgba.size, "white")
    flat.paste(rgba, mask=rgba.getchannel("A"))
    if flat.size != (size, size):
        scale = size / max(flat.size)
        fitted = (max(1, round(flat.width * scale)), max(1, round(flat.height * scale)))
        flat = flat.resize(fitted, Image.Resampling.LANCZOS)
        square = Image.new("RGB", (size, size), "white")
        square.paste(flat, ((size - flat.width) // 2, (size - flat.height) // 2))
        flat = square
    return np.asarray(flat)
