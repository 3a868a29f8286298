"""What a camera writes beside a picture, its place and owner, never gets past the reading."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from calotype.data.folder import PictureFolder
from calotype.data.pictures import on_white, read_picture

SECRET = b"Ada-Lovelace-camera"


def photograph(path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x010F] = SECRET.decode()
    exif.get_ifd(0x8825)[29] = SECRET.decode()  # GPSDateStamp, among what tells the place
    Image.fromarray(pixels).save(path, exif=exif)
    assert SECRET in path.read_bytes()


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_reading_leaves_exif_and_place_behind(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"photo.{suffix}"
    photograph(path)
    with Image.open(path) as opened:
        assert opened.getexif().get_ifd(0x8825)
        bare = Image.fromarray(np.asarray(opened.convert("RGB")))
    read = read_picture(path)
    assert type(read) is np.ndarray
    assert np.array_equal(read, np.asarray(bare))
    folder = PictureFolder(tmp_path, 32)
    loaded = folder.load_all(32)
    assert SECRET.decode() not in repr(folder.records)
    assert SECRET not in loaded.numpy().tobytes()


def test_what_is_laid_on_white_and_written_again_holds_none(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    photograph(path)
    with Image.open(path) as opened:
        flat = on_white(opened)
    for kind in ("PNG", "JPEG", "WEBP"):
        buffer = BytesIO()
        flat.save(buffer, kind)
        assert SECRET not in buffer.getvalue()
