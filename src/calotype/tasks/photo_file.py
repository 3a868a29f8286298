"""Photographs in and out as they are: 8 or 16 bits, grey or colour, with alpha, EXIF and colour profile."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from calotype import durable
from calotype.errors import InputError, OutputError
from calotype.safety.provenance import EDITED, Signer

Floats = NDArray[np.float32]

BYTES_PER_PIXEL = 100
"""Of memory that restoring takes at its highest, beyond the model: about eight copies in float32."""
WRITTEN = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


@dataclass(frozen=True)
class Photo:
    """pixels (C H W) from 0 to 1, C 1 for grey or 3, upright; alpha (H W) likewise; what its file held."""

    pixels: Floats
    alpha: Floats | None = None
    bits: int = 8
    icc: bytes | None = None
    exif: bytes | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.pixels.shape[1], self.pixels.shape[2]

    def with_pixels(self, pixels: Floats) -> Photo:
        """Other pixels (C h w), all else kept; alpha is scaled with them."""
        alpha = self.alpha
        if alpha is not None and alpha.shape != pixels.shape[1:]:
            height, width = pixels.shape[1:]
            scaled = Image.fromarray(alpha).resize((width, height), Image.Resampling.BICUBIC)
            alpha = np.asarray(scaled).clip(0, 1)
        return replace(self, pixels=pixels, alpha=alpha)


def read_photo(path: str | Path, grow: int = 1) -> Photo:
    """The photograph in a file.  `grow`: how many times longer its sides will become.

    Raises InputError: no picture, damaged, animated, of a kind that is not understood, or so large that
    restoring it would not fit into memory, which is said before anything is unpacked.
    """
    path = Path(path)
    try:
        with _any_size(), Image.open(path) as picture:
            _check_size(path, picture.width * grow, picture.height * grow)
            if (frames := getattr(picture, "n_frames", 1)) > 1:
                raise InputError(
                    f"{path} is animated ({frames} frames); save the frame you mean as a picture."
                )
            return _deep(path, picture) if _is_deep(path, picture) else _shallow(path, picture)
    except FileNotFoundError:
        raise InputError(f"There is no file {path}; name a picture.") from None
    except UnidentifiedImageError:
        raise InputError(
            f"{path} is not a picture that can be read; name a PNG, JPEG, TIFF or WebP."
        ) from None
    except InputError:
        raise
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        raise InputError(f"{path} is damaged ({error}); fetch or save it again.") from None


@contextmanager
def _any_size() -> Iterator[None]:
    # our own limit, which is the memory there is, takes the place of Pillow's
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _check_size(path: Path, width: int, height: int) -> None:
    needed, there = width * height * BYTES_PER_PIXEL, free_memory()
    if needed > there:
        raise InputError(
            f"{path} makes {width}x{height} pixels, which would need {needed / 2**30:.1f} GB of memory, and "
            f"{there / 2**30:.1f} GB are free; cut it into parts or make it smaller."
        )


def free_memory() -> int:
    """Bytes that a program can have now: Linux's MemAvailable, elsewhere half of what the machine has."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _is_deep(path: Path, picture: Image.Image) -> bool:
    """Whether it holds 16-bit colour or alpha, which Pillow reads as 8 bits."""
    if picture.format == "PNG":
        depth, kind = _png_kind(path)
        return depth == 16 and kind != PNG_GREY
    if picture.format == "TIFF":
        bits = picture.tag_v2.get(258, ())  # type: ignore[attr-defined]
        return len(bits) > 1 and max(bits) == 16
    return False


PNG_GREY, PNG_GREY_ALPHA = 0, 4


def _png_kind(path: Path) -> tuple[int, int]:
    """Bits of each sample, and the colour type."""
    with path.open("rb") as file:
        head = file.read(26)
    return head[24], head[25]


def _deep(path: Path, picture: Image.Image) -> Photo:
    try:
        cv2: Any = import_module("cv2")
    except ImportError:
        raise InputError(
            f"{path} has 16-bit colour, which OpenCV reads; run: pip install 'calotype[photo]'."
        ) from None
    found = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if found is None:
        raise InputError(f"{path} is damaged or of a kind that OpenCV cannot read; save it again as a PNG.")
    values = found.astype(np.float32) / 65535  # (H W C), blue first
    values = _upright(values, picture.getexif().get(0x0112, 1))
    channels = values.shape[2]
    alpha = values[..., 3] if channels == 4 else None
    pixels = values[..., 2::-1].transpose(2, 0, 1)  # (H W 3) -> (3 H W)
    if picture.format == "PNG" and _png_kind(path)[1] == PNG_GREY_ALPHA:
        pixels = pixels[:1]
    return Photo(np.ascontiguousarray(pixels), alpha, 16, _profile(picture), _exif(picture))


_TURNS = {1: (0, 0), 2: (0, 1), 3: (2, 0), 4: (2, 1), 5: (3, 1), 6: (3, 0), 7: (1, 1), 8: (1, 0)}
"""EXIF orientation: quarter turns to the left, and whether to mirror left and right afterwards."""


def _upright(values: Floats, orientation: int) -> Floats:
    turns, mirror = _TURNS.get(orientation, (0, 0))
    values = np.rot90(values, turns)
    return values[:, ::-1] if mirror else values


def _shallow(path: Path, picture: Image.Image) -> Photo:
    picture.load()
    icc, upright = _profile(picture), ImageOps.exif_transpose(picture)
    exif = _exif(upright)
    if upright.mode == "CMYK":
        upright, icc = _from_cmyk(upright, icc), None
    if upright.mode.startswith("I"):
        values = np.asarray(upright).astype(np.float32)
        if values.max(initial=0) > 65535 or values.min(initial=0) < 0:
            raise InputError(f"{path} has grey values beyond 16 bits; save it with 16 bits.")
        return Photo((values[None] / 65535).astype(np.float32), None, 16, icc, exif)
    if upright.mode == "F":
        raise InputError(f"{path} holds floating-point values; save it with 8 or 16 bits.")
    grey = upright.mode in {"1", "L", "LA"}
    if upright.has_transparency_data:
        whole = np.asarray(upright.convert("LA" if grey else "RGBA"))
        values, alpha = whole[..., :-1], _share(whole[..., -1])
    else:
        values, alpha = np.asarray(upright.convert("L" if grey else "RGB")), None
        values = values.reshape(*values.shape[:2], -1)  # (H W) or (H W 3) -> (H W C)
    return Photo(_share(values.transpose(2, 0, 1)), alpha, 8, icc, exif)  # (H W C) -> (C H W)


def _share(values: NDArray[Any]) -> Floats:
    return (values.astype(np.float32) / 255).astype(np.float32)


def _from_cmyk(picture: Image.Image, icc: bytes | None) -> Image.Image:
    if icc is None:
        return picture.convert("RGB")
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    converted = ImageCms.profileToProfile(picture, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert converted is not None  # only inPlace gives None
    return converted


def _profile(picture: Image.Image) -> bytes | None:
    icc = picture.info.get("icc_profile")
    return icc if isinstance(icc, bytes) and icc else None


def _exif(picture: Image.Image) -> bytes | None:
    """What the camera wrote, but for the orientation: the pixels are upright from now on."""
    exif = picture.getexif()
    exif.pop(0x0112, None)
    return exif.tobytes() if len(exif) else None


def check_photo_path(path: Path, photo: Photo, signer: Signer | None = None) -> None:
    """OutputError, before any work is done, where the photograph could not be kept whole under that name."""
    suffix = path.suffix.lower()
    if suffix not in WRITTEN:
        raise OutputError(f"The output {path} should end in {', '.join(WRITTEN)}.")
    if not path.parent.is_dir():
        raise OutputError(f"The folder {path.parent} does not exist; make it or name another.")
    if photo.bits == 16 and suffix != ".png":
        raise OutputError(f"The picture has 16 bits, which {path} cannot keep here; write a .png.")
    if signer is not None and suffix != ".png":
        raise OutputError(f"Only a PNG can be signed, not {path}; write a .png, or leave --sign out.")
    if photo.alpha is not None and suffix in {".jpg", ".jpeg"}:
        raise OutputError(f"The picture is transparent in places, which {path} cannot keep; write a .png.")


def write_photo(path: Path, photo: Photo, signer: Signer | None = None) -> None:
    """Write under a temporary name, then rename; OutputError where that fails.  `signer` signs a PNG."""
    check_photo_path(path, photo, signer)
    top = 2**photo.bits - 1
    planes = photo.pixels if photo.alpha is None else np.concatenate([photo.pixels, photo.alpha[None]])
    # (C H W) -> (H W C)
    values = np.rint(planes.clip(0, 1) * top).astype(np.uint16 if photo.bits == 16 else np.uint8)
    values = values.transpose(1, 2, 0)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if photo.bits == 16:
            partial.write_bytes(_png16(values, photo))
        else:
            kept = {"icc_profile": photo.icc, "exif": photo.exif}
            options: dict[str, Any] = {name: value for name, value in kept.items() if value}
            if path.suffix.lower() in {".jpg", ".jpeg"}:
                options |= {"quality": 95, "subsampling": 0}
            elif path.suffix.lower() == ".webp":
                options |= {"lossless": True}
            shown = values[..., 0] if values.shape[2] == 1 else values
            Image.fromarray(np.ascontiguousarray(shown)).save(
                partial, WRITTEN[path.suffix.lower()], **options
            )
        if signer is not None:
            partial.write_bytes(signer.sign(partial.read_bytes(), EDITED))
        durable.rename(partial, path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {(error.strerror or str(error)).lower()}.") from None
    finally:
        partial.unlink(missing_ok=True)


def _png16(values: NDArray[Any], photo: Photo) -> bytes:
    """A PNG of 16 bits (H W C): Pillow writes none in colour.  A row is told as its step from the last."""
    height, width, channels = values.shape
    rows = np.ascontiguousarray(values.astype(">u2")).view(np.uint8).reshape(height, -1)  # (H 2WC)
    steps = rows.copy()
    steps[1:] -= rows[:-1]
    filtered = np.concatenate([np.full((height, 1), 2, np.uint8), steps], axis=1)  # filter 2: up
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    parts = [b"\x89PNG\r\n\x1a\n", _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))]
    if photo.icc:
        parts.append(_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(photo.icc)))
    if photo.exif:
        parts.append(_chunk(b"eXIf", photo.exif.removeprefix(b"Exif\0\0")))
    parts += [_chunk(b"IDAT", zlib.compress(filtered.tobytes(), 6)), _chunk(b"IEND", b"")]
    return b"".join(parts)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
