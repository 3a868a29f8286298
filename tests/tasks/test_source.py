"""Pictures that people give: every kind of file is right, or one sentence."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from calotype.errors import InputError
from calotype.models.presets import icons, tiny
from calotype.tasks.request import Request
from calotype.tasks.source import Source, fingerprint

GREY = np.linspace(0, 65535, 32 * 24).astype(np.uint16).reshape(24, 32)


def header_only(path: Path, width: int, height: int) -> Path:
    """A PNG that says how large it is and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def resolved(**fields: Any) -> Any:
    return Request(prompts="x", **fields).resolved(tiny())


def test_sixteen_bit_grey(tmp_path: Path) -> None:
    PIL.Image.fromarray(GREY).save(tmp_path / "grey.png")
    read = np.asarray(Source(path=str(tmp_path / "grey.png")).read())
    assert np.abs(read[..., 0] - GREY / 257).max() <= 0.51
    assert (read[..., 0] == read[..., 2]).all()


def test_cmyk_animated_and_transparent(tmp_path: Path) -> None:
    PIL.Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg")
    red = np.asarray(Source(path=str(tmp_path / "cmyk.jpg")).read())[4, 4]
    assert red[0] > 200 > 80 > red[1]
    first, second = PIL.Image.new("RGB", (8, 8), "red"), PIL.Image.new("RGB", (8, 8), "blue")
    first.save(tmp_path / "two.gif", save_all=True, append_images=[second])
    assert Source(path=str(tmp_path / "two.gif")).read().getpixel((4, 4)) == (255, 0, 0)
    PIL.Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "glass.png")
    assert Source(path=str(tmp_path / "glass.png")).read().getpixel((4, 4)) == (255, 255, 255)


def test_pictures_stand_upright(tmp_path: Path) -> None:
    lying = PIL.Image.new("RGB", (12, 8), "white")
    lying.paste("black", (0, 0, 4, 8))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to see it upright
    lying.save(tmp_path / "lying.png", exif=exif)
    source = Source(path=str(tmp_path / "lying.png"))
    assert source.size() == source.read().size == (8, 12)
    assert source.read().getpixel((4, 1)) == (0, 0, 0)
    asked = resolved(image=str(tmp_path / "lying.png"))
    assert (asked.width, asked.height) == (8, 12)


def test_hashes(tmp_path: Path) -> None:
    picture = PIL.Image.fromarray((GREY // 257).astype(np.uint8)).convert("RGB")
    picture.save(tmp_path / "one.png")
    (tmp_path / "other.png").write_bytes((tmp_path / "one.png").read_bytes())
    asked = resolved(image=tmp_path / "one.png")
    assert asked.image.path == str(tmp_path / "one.png")
    assert len(asked.image.sha256) == 64
    assert resolved(image=tmp_path / "other.png").image.sha256 == asked.image.sha256
    assert asked.image.at(str(tmp_path / "other.png")).resolved().sha256 == asked.image.sha256
    # a picture in memory is known by its pixels, and so is a file of them
    held = resolved(image=picture).image
    assert (held.path, held.sha256) == ("", fingerprint(picture))
    assert held.at(str(tmp_path / "one.png")).resolved().sha256 == held.sha256
    PIL.Image.new("RGB", (32, 24)).save(tmp_path / "third.png")
    with pytest.raises(InputError, match="is not the picture this one was made from"):
        held.at(str(tmp_path / "third.png")).resolved()
    with pytest.raises(InputError, match="not there any more; say with --image"):
        asked.image.at(str(tmp_path / "gone.png")).resolved()
    with pytest.raises(InputError, match="was in memory"):
        Source(path="", sha256=held.sha256).resolved()


def test_what_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    good, mask = tmp_path / "good.png", tmp_path / "mask.png"
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)).save(good)
    PIL.Image.new("L", (16, 16), 255).save(mask)
    (tmp_path / "words.png").write_text("not a picture")
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:-200])
    huge = header_only(tmp_path / "huge.png", 60_000, 60_000)
    wide = tmp_path / "wide.png"
    PIL.Image.new("1", (9000, 9000)).save(wide)
    for fields, said in (
        ({"image": tmp_path / "gone.png"}, "gone.png is missing; name a picture file."),
        ({"image": tmp_path}, "cannot be read"),
        ({"image": tmp_path / "words.png"}, "is not a picture"),
        ({"image": huge}, "3,600,000,000 pixels, which take 10.8 GB of memory"),
        ({"image": wide}, "would become 9000x9000 pixels, which takes about"),
        ({"image": good, "mask": mask}, "is 16x16 pixels, but"),
        ({"image": good, "tile": 30}, "needs a multiple of 4"),
        ({"image": good, "margin": (8, 0, 0, 0), "width": 32}, "decide the size"),
        ({"image": good, "margin": (4090, 0, 0, 0)}, "the longest side is 4096"),
    ):
        with pytest.raises(InputError, match=said):
            resolved(**fields)
    with pytest.raises(InputError, match=r"cut\.png is damaged"):
        Source(path=str(tmp_path / "cut.png")).read()
    with pytest.raises(InputError, match="takes about 83 GB"):
        Request(prompts="x", image=wide).resolved(icons())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"strength": 0.5}, "needs an image or hires_from"),
        ({"mask": "m.png"}, "mask is given, but needs an image"),
        ({"margin": (8, 8, 8, 8)}, "margin is given, but needs an image"),
        ({"invert": "walk"}, "invert is given, but needs an image"),
        ({"was": "a cat"}, "needs invert"),
        ({"vary_seed": 3}, "needs vary"),
        ({"blend": 0.5}, "toward"),
        ({"image": "i.png", "strength": 0}, "strength is 0"),
        ({"image": "i.png", "strength": 1.5}, "strength is 1.5"),
        ({"image": "i.png", "strength": float("nan")}, "strength is nan"),
        ({"image": "i.png", "margin": (0, 0, 0, 0)}, "not all 0"),
        ({"image": "i.png", "margin": (-4, 0, 0, 0)}, "not all 0"),
        ({"image": "i.png", "hires_from": (8, 8)}, "image and hires_from do not go together"),
        ({"image": "i.png", "invert": "walk", "mask": "m.png"}, "invert and mask do not go together"),
        ({"image": "i.png", "invert": "walk", "sampler": "euler"}, "records DDPM's steps"),
        ({"image": "i.png", "invert": "euler", "sampler": "euler_a"}, "draws no noise"),
        ({"image": "i.png", "invert": "ddim"}, "invert is 'ddim'"),
        ({"wrap": "z"}, "wrap is 'z'"),
        ({"vary": 2}, "vary is 2"),
        ({"frames": 1}, "frames is 1"),
        ({"frames": 5}, "give two prompts or more"),
        ({"prompts": ["a", "b", "c"], "frames": 2}, "at least as many as there are prompts, 3"),
        ({"hires_from": (0, 8)}, "hires_from"),
    ],
)
def test_fields_that_make_no_sense(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Request(**{"prompts": "x", **fields})
