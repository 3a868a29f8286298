"""A picture that a request begins from: named by its path, known by its SHA-256."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, Self

import PIL.Image
from pydantic import BaseModel, ConfigDict, PrivateAttr, model_validator

from calotype.data.pictures import UnreadablePictureError, on_white, read_picture
from calotype.errors import InputError

ROTATED = range(5, 9)
"""Values of EXIF's Orientation (its tag 0x0112) for which width and height change places."""


class Source(BaseModel):
    """A picture file, or a picture in memory.

    path     as the user gave it; "" for a picture in memory
    sha256   of the file's bytes, or of a picture in memory its `fingerprint`; None until `resolved`
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    sha256: str | None = None
    _held: PIL.Image.Image | None = PrivateAttr(None)

    @model_validator(mode="wrap")
    @classmethod
    def _from_anything(cls, value: Any, handler: Any) -> Self:
        """A path or a Pillow picture may stand for a source."""
        if isinstance(value, PIL.Image.Image):
            held = on_white(value)
            source: Self = handler({"path": "", "sha256": fingerprint(held)})
            source._held = held
            return source
        made: Self = handler({"path": str(value)} if isinstance(value, str | Path) else value)
        return made

    def resolved(self) -> Source:
        """The same with its hash; InputError where the file is missing, or another than the hash says."""
        if self._held is not None:
            return self
        if not self.path:
            raise InputError(
                f"The picture this one was made from was in memory (SHA-256 {self._known}); name its file "
                "with --image or --mask."
            )
        if self.sha256 is not None and not Path(self.path).exists():
            raise InputError(
                f"{self.path}, from which this picture was made, is not there any more; say with --image or "
                f"--mask where it is now (SHA-256 {self._known})."
            )
        found = self._hash()
        if self.sha256 not in (None, found) and self.sha256 != fingerprint(self.read()):
            raise InputError(
                f"{self.path} is not the picture this one was made from: its SHA-256 begins with "
                f"{found[:12]}, not {self._known}."
            )
        return self if self.sha256 is not None else self.model_copy(update={"sha256": found})

    @property
    def held(self) -> bool:
        """Whether it is a picture in memory, which no file need be opened for."""
        return self._held is not None

    @property
    def named(self) -> str:
        """What sentences call it."""
        return self.path or "in memory"

    def at(self, path: str) -> Source:
        """The same picture in another place."""
        return Source(path=path, sha256=self.sha256)

    @property
    def _known(self) -> str:
        return (self.sha256 or "")[:12]

    def _hash(self) -> str:
        try:
            with open(self.path, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            reason = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
            raise InputError(f"{self.path} {reason}; name a picture file.") from None

    def size(self) -> tuple[int, int]:
        """(width, height), upright, from the file's header alone; InputError where it is no picture."""
        if self._held is not None:
            return self._held.size
        try:
            with PIL.Image.open(self.path) as picture:
                width, height = picture.size
                turned = picture.getexif().get(0x0112) in ROTATED
        except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as error:
            count = re.search(r"(\d+) pixels", str(error))
            raise InputError(self._too_large(int(count.group(1)) if count else 0)) from None
        except PIL.UnidentifiedImageError:
            raise InputError(f"{self.path} is not a picture; name a PNG, JPEG or WebP file.") from None
        except Exception as error:  # a damaged file makes Pillow raise nearly anything
            raise InputError(f"{self.path} is damaged ({error}); name a whole picture.") from None
        if width * height > (PIL.Image.MAX_IMAGE_PIXELS or float("inf")):
            raise InputError(self._too_large(width * height))
        return (height, width) if turned else (width, height)

    def _too_large(self, pixels: int) -> str:
        return (
            f"{self.path} has {pixels:,} pixels, which take {3 * pixels / 1e9:.1f} GB of memory to unpack "
            "and hundreds of times as much to edit; scale it down first."
        )

    def read(self) -> PIL.Image.Image:
        """The picture upright, RGB of 8 bits, on white; InputError where it cannot be read."""
        if self._held is not None:
            return self._held
        try:
            return PIL.Image.fromarray(read_picture(Path(self.path)))
        except UnreadablePictureError as error:
            raise InputError(f"{self.path} {error}; name a whole picture.") from None


def fingerprint(picture: PIL.Image.Image) -> str:
    """SHA-256 of an RGB picture's size and pixels, whatever file it lies in."""
    size = f"{picture.width}x{picture.height} ".encode()
    return hashlib.sha256(size + picture.tobytes()).hexdigest()
