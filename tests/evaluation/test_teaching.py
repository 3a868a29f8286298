"""Labels and alignment: who draws what is asked scores as real pictures do, others do not."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import calotype
from calotype.checkpoints import cache, native
from calotype.errors import DataError, InputError
from calotype.evaluation import alignment, recognition, samples, teaching
from calotype.models.latent_diffusion import build
from calotype.models.presets import mnist

COLOURS = {
    "black": (0, 0, 0),
    "blue": (30, 60, 230),
    "brown": (120, 70, 20),
    "cyan": (20, 210, 220),
    "green": (20, 170, 40),
    "orange": (250, 140, 10),
    "pink": (250, 130, 190),
    "purple": (130, 30, 160),
    "red": (220, 20, 30),
    "yellow": (240, 220, 30),
}
NAMES = tuple(COLOURS)


def shade(name: str, number: int) -> PIL.Image.Image:
    """A plain picture, each a little lighter or darker than the others of its colour."""
    return PIL.Image.new("RGB", (16, 16), tuple(min(255, part + 2 * number) for part in COLOURS[name]))


class Colours:
    """Thumbnails of four pixels in the place of EfficientNet's features, which take seconds."""

    def __call__(self, pictures: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(pictures.float() / 255, 2).flatten(1)  # (N 3 H W) -> (N 12)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten class folders, in three splits."""
    monkeypatch.setenv("CALOTYPE_CACHE", str(tmp_path / "cache"))
    for room in (samples, teaching):
        monkeypatch.setattr(room, "Features", Colours)
    monkeypatch.setattr(recognition, "EPOCHS", 10)
    monkeypatch.setattr(recognition, "BATCH", 20)
    monkeypatch.setattr(teaching, "STEPS", 60)
    monkeypatch.setattr(alignment, "WIDTH", 32)
    monkeypatch.setattr(alignment, "CONTEXT", 6)
    for split, numbers in (("train", range(6)), ("test", range(6, 8))):
        for name in NAMES:
            place = tmp_path / "set" / split / name
            place.mkdir(parents=True)
            for number in numbers:
                shade(name, number).save(place / f"{number}.png")
    return tmp_path / "set"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = mnist().of_classes(NAMES)
    unet = dataclasses.replace(
        config.unet,
        block_channels=(8, 8),
        attention_levels=(False, False),
        transformer_depth=(1, 1),
        heads=(1, 1),
        norm_groups=4,
    )
    small = build(dataclasses.replace(config, unet=unet, size=16), None, seed=0)
    path = tmp_path_factory.mktemp("classes") / "model.safetensors"
    native.save(path, small, recipe={})
    return path


def knowing(prompts: Sequence[str], seed: int) -> list[PIL.Image.Image]:
    return [shade(prompt, (seed + i) % 9) for i, prompt in enumerate(prompts)]


def confused(prompts: Sequence[str], seed: int) -> list[PIL.Image.Image]:
    """Draws the next class in the alphabet."""
    return [shade(NAMES[(NAMES.index(p) + 1) % len(NAMES)], (seed + i) % 9) for i, p in enumerate(prompts)]


def test_who_draws_what_is_asked_scores_as_real_pictures_do(model: Path, folder: Path) -> None:
    def figures(draw: Any) -> dict[str, Any]:
        return calotype.evaluate(model, folder, draw=draw, samples=30, labels=True, alignment=True)

    good, bad = figures(knowing), figures(confused)
    for name in ("accuracy", "teaching"):
        assert good["labels"][name]["share"] >= 0.9
        assert good["labels"]["real"][name]["share"] >= 0.9
        assert bad["labels"][name]["share"] <= 0.1
    assert set(good["labels"]["accuracy"]["by_class"]) == set(NAMES)
    assert good["alignment"]["real"] == bad["alignment"]["real"]  # of the same network, taught alike
    assert good["alignment"]["real"]["retrieval_at_1"]["share"] >= 0.9
    assert good["alignment"]["retrieval_at_1"]["share"] >= 0.9
    assert bad["alignment"]["retrieval_at_1"]["share"] <= 0.1
    assert good["alignment"]["cosine"]["cosine"] > bad["alignment"]["cosine"]["cosine"]
    assert good["alignment"]["chance_at_5"] == 0.5
    assert good["labels"]["protocol"]["taught_by"] == good["alignment"]["protocol"]["taught_by"] == 60


@pytest.mark.usefixtures("folder")
def test_the_judge_is_taught_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8)
    labels = torch.arange(40) % 2
    first = recognition.judge(pictures, labels, 2, "abc")
    monkeypatch.setattr(recognition, "taught", None)
    again = recognition.judge(pictures, labels, 2, "abc")
    assert recognition.recognised(first, pictures, labels) == recognition.recognised(again, pictures, labels)
    assert len(list(cache.cache_folder().glob("*"))) == 1  # neither a lock nor half a file is left


def test_retrieval_is_of_the_pictures_own_caption(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alignment, "WIDTH", 32)
    monkeypatch.setattr(alignment, "CONTEXT", 6)
    features = torch.eye(12)
    names = [f"thing {chr(97 + i)}" for i in range(12)]
    encoder = alignment.taught(features, [[name] for name in names], steps=60)
    found = alignment.alignment_figures(encoder, features, names, features, names)
    assert found["retrieval_at_1"]["share"] >= 0.8
    turned = alignment.alignment_figures(encoder, features.roll(1, 0), names, features, names)
    assert turned["retrieval_at_1"]["share"] <= 0.2
    with pytest.raises(DataError, match="10 distinct captions or more in the training split; there are 2"):
        alignment.taught(features, [["one"], ["two"]] * 6)
    with pytest.raises(DataError, match="10 distinct captions or more to choose from; there are 1"):
        alignment.alignment_figures(encoder, features, ["a"] * 12, features, ["a"] * 12)


def test_a_picture_is_looked_at_whole() -> None:
    large = torch.arange(256, dtype=torch.uint8).expand(1, 3, 256, 256)
    assert recognition.looked_at(large)[0, 0, 0].tolist() == pytest.approx(
        [4 * i + 1.5 for i in range(64)], abs=0.5
    )


def test_what_cannot_be_judged_is_refused(model: Path, folder: Path, tiny_file: Path) -> None:
    with pytest.raises(InputError, match="say how many to draw with samples"):
        calotype.evaluate(model, folder, labels=True)
    with pytest.raises(InputError, match="the training split teaches; measure on another"):
        calotype.evaluate(model, folder, split="train", draw=knowing, samples=5, alignment=True)
    with pytest.raises(InputError, match="draws no classes, so no labels"):
        calotype.evaluate(tiny_file, folder, draw=knowing, samples=5, labels=True)
    with pytest.raises(InputError, match="No picture of 'brown' was drawn"):
        calotype.evaluate(model, folder, draw=knowing, samples=6, labels=True)
    (folder / "test" / "red").rename(folder / "test" / "vermilion")
    with pytest.raises(InputError, match="name the folder that it was trained on"):
        calotype.evaluate(model, folder, draw=knowing, samples=6, labels=True)
