"""Debian's clip art from a small package of the same make."""

import io
import lzma
import tarfile

import numpy as np
import pytest

from calotype.data.names import EmojiBook
from calotype.data.openclipart import clipart_drawings
from calotype.data.svg import draw
from calotype.errors import FetchError

BOOK = EmojiBook(
    [{"hexcode": "1F989", "label": "owl", "tags": ["bird", "wise"], "group": 3}],
    [{"hexcode": "1F989", "label": "猫头鹰", "tags": ["鸟"]}],
)


def svg(
    title, licence="PublicDomain", keywords=("bird", "hash", "xyzzy"), size='width="100pt" height="40pt"'
):
    bag = "".join(f"<rdf:li>{word}</rdf:li>" for word in keywords)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<svg xmlns="http://www.w3.org/2000/svg" xmlns:cc="c"'
        f' xmlns:dc="d" xmlns:rdf="r" {size}>'
        f"<metadata><cc:Work><dc:title>{title}</dc:title><dc:subject>{bag}</dc:subject>"
        f'<cc:license rdf:resource="{licence}"/></cc:Work></metadata>'
        '<rect x="100" y="25" width="25" height="25" style="fill:#c00000"/></svg>'
    ).encode()


def debian(path, files):
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"./usr/share/openclipart/svg/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("./usr/share/openclipart/svg/animals/link.svg")
        link.type, link.linkname = tarfile.SYMTYPE, "birds/owl_01.svg"
        tar.addfile(link)
    parts = {"debian-binary": b"2.0", "data.tar.xz": lzma.compress(inner.getvalue())}
    with path.open("wb") as file:
        file.write(b"!<arch>\n")
        for name, data in parts.items():
            file.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode())
            file.write(data + b"\n" * (len(data) % 2))


def test_only_free_and_nameable_drawings(tmp_path):
    files = {
        "animals/birds/owl_01.svg": svg("Owl"),
        "animals/birds/wise_bird.svg": svg("Wise Bird #2"),
        "animals/birds/gufo.svg": svg("Gufo"),
        "animals/birds/owned.svg": svg("Owl", licence="Attribution"),
        "animals/birds/untitled.svg": b"<svg/>",
        "signs_and_symbols/flags/owl.svg": svg("Owl"),
    }
    debian(tmp_path / "c.deb", files)
    drawings = list(clipart_drawings(tmp_path / "c.deb", BOOK))
    assert [d.file_name for d in drawings] == [
        "openclipart/animals-birds-owl-01.png",
        "openclipart/animals-birds-wise-bird.png",
    ]
    owl = drawings[0].record
    assert (owl["text"], owl["concept"], owl["kind"], owl["licence"]) == ("owl", "owl", "clipart", "CC-PDDC")
    assert "owl, clip art style" in owl["texts"]
    assert "猫头鹰图标" in owl["texts"]
    assert owl["texts"][-1] == "owl, bird"


@pytest.mark.parametrize("size", ['width="100pt" height="40pt"', 'viewBox="0 0 125 50"'])
def test_the_whole_drawing_fills_its_square(tmp_path, size):
    debian(tmp_path / "c.deb", {"animals/owl.svg": svg("Owl", size=size)})
    (drawing,) = clipart_drawings(tmp_path / "c.deb", BOOK)
    pixels = draw(drawing.payload, 40, drawing.trim)
    red = np.abs(pixels.astype(int) - [192, 0, 0]).max(axis=2) < 40
    assert red[20, 20]
    assert red.mean() > 0.7  # it lay small in the corner of its page
    assert (pixels[0] == 255).all()


@pytest.mark.parametrize("keep", [0, 40, 200])
def test_damaged_package(tmp_path, keep):
    debian(tmp_path / "c.deb", {"animals/owl.svg": svg("Owl")})
    data = (tmp_path / "c.deb").read_bytes()
    (tmp_path / "c.deb").write_bytes(data[:keep])
    with pytest.raises(FetchError, match=r"c\.deb cannot be unpacked"):
        list(clipart_drawings(tmp_path / "c.deb", BOOK))
