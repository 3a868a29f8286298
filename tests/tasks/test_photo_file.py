"""Photographs in and out as they are, and one sentence for what cannot be used."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from calotype.errors import InputError, OutputError
from calotype.tasks import photo_file
from calotype.tasks.photo_file import Photo, read_photo, write_photo

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def levels(*shape: int, top: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(0, top, shape)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_eight_bits_come_back_to_the_bit(tmp_path: Path, mode: str, suffix: str) -> None:
    bands = len(mode)
    values = levels(7, 9, bands).astype(np.uint8)
    if "A" in mode:
        values[..., -1] |= 1  # WebP forgets colours that cannot be seen
    source = tmp_path / "in.png"
    Image.fromarray(values.squeeze()).save(source, icc_profile=ICC)
    photo = read_photo(source)
    assert photo.pixels.shape == (3 if "RGB" in mode else 1, 7, 9)
    assert (photo.alpha is not None) == ("A" in mode)
    write_photo(tmp_path / f"out{suffix}", photo)
    with Image.open(tmp_path / f"out{suffix}") as again:
        assert again.info["icc_profile"] == ICC
        np.testing.assert_array_equal(np.asarray(again.convert(mode)), values.squeeze())


@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_sixteen_bits_come_back_to_the_bit(tmp_path: Path, bands: int) -> None:
    pixels = levels(max(1, bands - 1 + bands % 2), 6, 8, top=65536).astype(np.float32) / 65535
    alpha = None if bands % 2 else levels(6, 8, top=65536).astype(np.float32) / 65535
    first = Photo(pixels, alpha, 16, ICC, None)
    write_photo(tmp_path / "a.png", first)
    again = read_photo(tmp_path / "a.png")
    assert again.bits == 16
    assert again.icc == ICC
    np.testing.assert_allclose(again.pixels, pixels, atol=1e-7)
    if alpha is not None:
        assert again.alpha is not None
        np.testing.assert_allclose(again.alpha, alpha, atol=1e-7)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("deep", [False, True])
def test_pictures_stand_upright_and_keep_the_rest_of_their_exif(
    tmp_path: Path, orientation: int, deep: bool
) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "Talbot"
    path = tmp_path / "turned.png"
    values = levels(4, 6, 3).astype(np.uint8)
    picture = Image.fromarray(values)
    if deep:
        planes = values.transpose(2, 0, 1).astype(np.float32) / 255
        write_photo(path, Photo(planes, None, 16, None, exif.tobytes()))
    else:
        picture.save(path, exif=exif)
    photo = read_photo(path)
    assert photo.bits == (16 if deep else 8)
    holder = io.BytesIO()
    picture.save(holder, "PNG", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(holder)))
    np.testing.assert_allclose(photo.pixels.transpose(1, 2, 0) * 255, expected, atol=1e-3)
    write_photo(tmp_path / "out.jpg", Photo(photo.pixels, None, 8, None, photo.exif))
    with Image.open(tmp_path / "out.jpg") as again:
        assert again.getexif().get(0x0112, 1) == 1
        assert again.getexif()[0x010F] == "Talbot"


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    path = tmp_path / "print.jpg"
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(path, quality=95)
    red = read_photo(path)
    assert red.icc is None
    np.testing.assert_allclose(red.pixels[:, 0, 0], [1, 0, 0], atol=0.02)


def test_palettes_keep_their_transparency(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    picture = Image.fromarray(levels(5, 5, top=3).astype(np.uint8)).convert("P")
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.save(path, transparency=1)
    photo = read_photo(path)
    assert photo.pixels.shape == (3, 5, 5)
    assert photo.alpha is not None


def bomb(path: Path, width: int, height: int) -> None:
    """A PNG that says it is huge and holds next to nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 99)))


def test_hostile_files_get_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb(tmp_path / "huge.png", 60_000, 60_000)
    (tmp_path / "text.png").write_text("no picture")
    Image.fromarray(levels(40, 40, 3).astype(np.uint8)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:700])
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tif")
    for name, message in {
        "huge.png": r"60000x60000 pixels, which would need \d+\.\d GB",
        "text.png": "not a picture",
        "cut.png": "damaged",
        "moving.gif": r"animated \(2 frames\)",
        "float.tif": "floating-point",
        "missing.png": "no file",
    }.items():
        with pytest.raises(InputError, match=message) as caught:
            read_photo(tmp_path / name)
        assert name in str(caught.value)
    monkeypatch.setattr(photo_file, "BYTES_PER_PIXEL", 2**40)
    with pytest.raises(InputError, match="160x160"):
        read_photo(tmp_path / "whole.png", grow=4)


def test_outputs_that_would_lose_something_are_refused(tmp_path: Path) -> None:
    clear = Photo(np.zeros((3, 2, 2), np.float32), np.ones((2, 2), np.float32))
    deep = Photo(np.zeros((3, 2, 2), np.float32), None, 16)
    for photo, name, message in (
        (clear, "a.jpg", "transparent"),
        (deep, "a.jpg", "16 bits"),
        (clear, "a.bmp", "should end in"),
        (clear, "nowhere/a.png", "does not exist"),
    ):
        with pytest.raises(OutputError, match=message):
            write_photo(tmp_path / name, photo)
    assert not list(tmp_path.iterdir())
