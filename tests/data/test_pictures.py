"""Reading single pictures: every mode Pillow knows, and every way a file can be bad."""

import contextlib
import io

import numpy as np
import pytest
from PIL import Image

from calotype.data.pictures import UnreadablePictureError, on_white, read_picture


def test_alpha_becomes_white(tmp_path):
    picture = Image.new("RGBA", (8, 8), (200, 0, 0, 0))
    picture.putpixel((1, 2), (200, 0, 0, 255))
    picture.putpixel((3, 2), (200, 0, 0, 128))
    picture.save(tmp_path / "a.png")
    pixels = read_picture(tmp_path / "a.png")
    assert pixels.shape == (8, 8, 3)
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[2, 1].tolist() == [200, 0, 0]
    assert np.abs(pixels[2, 3].astype(int) - [227, 127, 127]).max() <= 1


def test_palette_transparency_becomes_white(tmp_path):
    picture = Image.new("P", (4, 4), 0)
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putpixel((0, 0), 1)
    picture.save(tmp_path / "p.png", transparency=0)
    pixels = read_picture(tmp_path / "p.png")
    assert pixels[0, 0].tolist() == [40, 50, 60]
    assert pixels[3, 3].tolist() == [255, 255, 255]


def test_sixteen_bit_grey_keeps_its_range(tmp_path):
    values = np.array([[0, 257 * 100], [257 * 200, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "g.png")
    assert read_picture(tmp_path / "g.png")[..., 0].tolist() == [[0, 100], [200, 255]]


def test_float_grey_is_in_unit_range():
    picture = Image.fromarray(np.array([[0.0, 0.5], [1.0, 3.0]], np.float32))
    assert np.asarray(on_white(picture))[..., 1].tolist() == [[0, 128], [255, 255]]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "CMYK", "YCbCr", "RGB", "HSV"])
def test_every_mode_becomes_rgb(mode):
    assert on_white(Image.new(mode, (5, 4))).mode == "RGB"


def test_exif_orientation_is_applied(tmp_path):
    picture = Image.new("RGB", (16, 8), "white")
    picture.paste((255, 0, 0), (0, 0, 8, 8))  # the left half is red
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    picture.save(tmp_path / "t.jpg", exif=exif, quality=95)
    pixels = read_picture(tmp_path / "t.jpg")
    assert pixels.shape == (16, 8, 3)
    assert pixels[2, 4, 1] < 60
    assert pixels[13, 4, 1] > 200


def test_size_cuts_the_middle_square(tmp_path):
    picture = Image.new("RGB", (40, 20), "blue")
    picture.paste((255, 255, 0), (10, 0, 30, 20))
    picture.save(tmp_path / "wide.png")
    pixels = read_picture(tmp_path / "wide.png", 10)
    assert pixels.shape == (10, 10, 3)
    assert np.abs(pixels.astype(int) - [255, 255, 0]).max() < 30  # Lanczos rings a little


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("keep", [0, 1, 8, 20, 33, 40, 100, 1000])
def test_truncated_png_is_refused(tmp_path, keep):
    (tmp_path / "t.png").write_bytes(_png()[:keep])
    with pytest.raises(UnreadablePictureError, match=r"is (damaged|not a picture)"):
        read_picture(tmp_path / "t.png")


def test_any_flipped_byte_is_read_or_refused(tmp_path):
    whole, path = _png(), tmp_path / "f.png"
    for position in range(0, 400, 3):
        bad = bytearray(whole)
        bad[position] ^= 0xA5
        path.write_bytes(bad)
        with contextlib.suppress(UnreadablePictureError):
            assert read_picture(path).shape[2] == 3


def test_text_and_missing_and_folder_are_refused(tmp_path):
    (tmp_path / "n.png").write_text("no picture")
    with pytest.raises(UnreadablePictureError, match="is not a picture"):
        read_picture(tmp_path / "n.png")
    with pytest.raises(UnreadablePictureError, match="is missing"):
        read_picture(tmp_path / "gone.png")
    with pytest.raises(UnreadablePictureError, match="is damaged"):
        read_picture(tmp_path)


@pytest.mark.parametrize("limit", [3000, 1000])
def test_decompression_bomb_is_refused(tmp_path, monkeypatch, limit):
    (tmp_path / "b.png").write_bytes(_png())  # 4096 pixels: beyond the limit, or beyond twice the limit
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(UnreadablePictureError, match="unpacks to"):
        read_picture(tmp_path / "b.png")
