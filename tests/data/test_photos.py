"""The photographs data set: what a build leaves, and that no test picture is in the shipped one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import sklearn.datasets
import torch
from PIL import Image
from safetensors.torch import load_file

from calotype.data.folder import PictureFolder
from calotype.data.pages import page
from calotype.data.photo_sources import PHOTO_PACKAGES
from calotype.data.photos import make_photos
from calotype.data.render import pixel_hash
from calotype.errors import DataError, InputError
from calotype.evaluation.features import Features

RECIPE = Path(__file__).parents[2] / "recipes" / "photo"
ALIKE = 0.65
"""Cosine of two pictures' EffNet-Lite0 features: unrelated ones stay below 0.5, a cut and brightened copy
lies above 0.75."""


def quiet(stage: str, done: int, total: int) -> None:
    del stage, done, total


def photograph(path: Path, seed: int, size: tuple[int, int] = (300, 200)) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def test_a_build_of_ones_own_photographs(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for i in range(3):
        photograph(own / f"{i}.png", i)
    photograph(own / "again.png", 0)  # the same picture under another name
    Image.new("RGB", (300, 200), "skyblue").save(own / "sky.png")
    folder = tmp_path / "tiles"
    summary = make_photos(folder, tmp_path / "cache", 64, own, quiet)
    # 300x200 becomes 200x133, 140x93 and 100x66: 4x3, 3x2 and 2x2 tiles of 64; of its own 5x4, 6 are kept
    assert summary["pictures"] == 3 * (12 + 6 + 4 + 6)
    assert len(list(folder.glob("0-taken-*.png"))) == 6
    assert len(summary["photographs"]) == 3
    found = PictureFolder(folder, size=64)
    assert len(found) == summary["pictures"]
    assert "sky.png" not in (folder / "ATTRIBUTION.md").read_text(encoding="utf-8")
    again = make_photos(folder, tmp_path / "cache", 64, own, quiet)
    assert again == summary


def test_calm_tiles_are_few_but_there(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 900)[None, :, None].repeat(600, 0).repeat(3, 2)  # (1 W 1) -> (H W 3)
    (tmp_path / "own").mkdir()
    Image.fromarray(ramp.astype(np.uint8)).save(tmp_path / "own" / "dusk.png")
    # 900x600 becomes 600x400, 420x280 and 300x200: 9x6, 6x4 and 4x3 tiles of 70
    summary = make_photos(tmp_path / "tiles", tmp_path, 70, tmp_path / "own", quiet)
    assert 0.25 * 90 <= summary["pictures"] <= 0.45 * 90


def test_pages_are_print_and_differ() -> None:
    pages = [np.asarray(page(seed, 96)).astype(int) for seed in (0, 1, 0)]
    assert (pages[0] == pages[2]).all()
    assert (pages[0] != pages[1]).any()
    assert all(np.abs(np.diff(one.mean(2), axis=1)).mean() > 4 for one in pages)


def test_refusals(tmp_path: Path) -> None:
    photograph(tmp_path / "small.png", 0, (40, 40))
    for size, own, message in (
        (8, None, "size is 8"),
        (64, tmp_path / "nowhere", "not a folder"),
        (64, tmp_path, "large and detailed enough"),
    ):
        with pytest.raises((InputError, DataError), match=message):
            make_photos(tmp_path / "out", tmp_path, size, own, quiet)
    with pytest.raises(DataError, match="holds no photos build"):
        make_photos(tmp_path, tmp_path, 64, tmp_path, quiet)


def bundled_pictures() -> dict[str, Image.Image]:
    folder = Path(skimage.data.__file__).parent
    names = [path for path in sorted(folder.iterdir()) if path.suffix in {".png", ".jpg"}]
    found = {path.name: Image.open(path).convert("RGB") for path in names}
    for name in ("china.jpg", "flower.jpg"):
        found[name] = Image.fromarray(sklearn.datasets.load_sample_image(name))
    return found


def test_no_test_picture_is_among_the_training_photographs() -> None:
    used = json.loads((RECIPE / "dataset.json").read_text(encoding="utf-8"))["photographs"]
    named = {name.replace("/contents/images/", "-") for source in PHOTO_PACKAGES for name in source.files}
    assert set(used) <= named
    tests = bundled_pictures()
    assert {"astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png"} <= tests.keys()
    hashes = {pixel_hash(np.asarray(picture)) for picture in tests.values()}
    assert not hashes & set(used.values())


def test_nor_is_anything_like_one() -> None:
    """By features of the whole picture, against those of all training photographs."""
    features = Features()

    def of(pictures: list[Image.Image]) -> torch.Tensor:
        small = [np.asarray(p.resize((224, 224), Image.Resampling.LANCZOS)) for p in pictures]
        found = features(torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2))  # (N H W 3) -> (N 3 H W)
        return torch.nn.functional.normalize(found, dim=1)

    used = json.loads((RECIPE / "dataset.json").read_text(encoding="utf-8"))["photographs"]
    training = load_file(RECIPE / "features.safetensors")["photographs"].float()  # (N 1280)
    assert len(training) >= len(used)
    names = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "china.jpg")
    names += ("flower.jpg", "retina.jpg", "ihc.png", "hubble_deep_field.jpg", "page.png", "text.png")
    tests = [bundled_pictures()[name] for name in names]
    shown = of(tests)
    assert float((shown @ training.T).max()) < ALIKE
    # and a near duplicate would have been seen: the middle of a test picture, brighter
    near = [
        p.crop((p.width // 10, p.height // 10, p.width * 9 // 10, p.height * 9 // 10)).point(
            lambda v: min(255, int(v * 1.1))
        )
        for p in tests
    ]
    assert float((shown * of(near)).sum(1).min()) > ALIKE
