"""A folder of little drawings with captions, and runs small enough for a test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

COLOURS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 70, 220), "yellow": (240, 210, 40)}
SHAPES = ("circle", "square", "triangle")


def draw_shape(colour: str, shape: str, shift: int, size: int = 32) -> Image.Image:
    picture = Image.new("RGB", (size, size), "white")
    pen = ImageDraw.Draw(picture)
    box = (6 + shift, 6, 24 + shift, 24)
    if shape == "circle":
        pen.ellipse(box, fill=COLOURS[colour])
    elif shape == "square":
        pen.rectangle(box, fill=COLOURS[colour])
    else:
        pen.polygon(
            [(box[0], box[3]), (box[2], box[3]), ((box[0] + box[2]) // 2, box[1])], fill=COLOURS[colour]
        )
    return picture


def write_shapes(folder: Path) -> Path:
    """24 pictures of 32x32, 4 of them held out, with two captions each."""
    lines = []
    for shift in (0, 2):
        for colour in COLOURS:
            for shape in SHAPES:
                name = f"{colour}-{shape}-{shift}.png"
                draw_shape(colour, shape, shift).save(folder / name)
                text = f"a {colour} {shape}"
                split = "validation" if shift and colour == "red" else "train"
                record = {"file_name": name, "text": text, "texts": [text, f"{shape}, {colour}"]}
                lines.append(json.dumps(record | {"split": split, "kind": shape}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALOTYPE_CACHE", str(tmp_path / "cache"))
