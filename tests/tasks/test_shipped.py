"""The shipped model draws, draws the same again, and draws each picture as if it were alone."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

import calotype
from calotype.checkpoints import native, shelf
from calotype.cli import main as cli
from calotype.diffusion.samplers import SAMPLERS
from calotype.tasks import picture as files


def some(names: Iterable[str], *quick: str) -> list[Any]:
    """All of the names, those that are not `quick` with the long tests only."""
    return [pytest.param(name, marks=() if name in quick else pytest.mark.verify) for name in names]


@pytest.fixture(scope="module")
def studio() -> calotype.Studio:
    return calotype.load("icons")


def test_the_file_is_what_it_says() -> None:
    path = shelf.find("icons")
    assert path.stat().st_size <= 35e6
    info = native.describe(path)
    assert info.config.name == "icons"
    assert info.dtype == "float16"
    assert info.recipe
    model = native.load(path, dtype=torch.float16)
    tensors = {
        f"{part}.{name}": value
        for part, module in model.parts().items()
        for name, value in module.state_dict().items()
    }
    assert native.weights_sha256(tensors) == info.weights_hash


def test_all_weights_of_the_package_are_small() -> None:
    assert sum(path.stat().st_size for path in shelf.shipped().values()) < 36e6


def test_the_demo_prompt_draws_a_red_thing_on_white(studio: calotype.Studio) -> None:
    image = studio.generate("a red apple", seed=7)
    assert image.size == (128, 128)
    pixels = np.asarray(image).astype(float)
    assert pixels.std() > 20, "the picture is blank"
    assert np.median(pixels[:4, :4]) > 235, "the ground is not white"
    red, strong = reds(image)
    assert strong.mean() > 0.1, "there is hardly any colour"
    assert red.sum() > 0.8 * strong.sum(), "the apple is not red"


def reds(image: PIL.Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels (H W) are red, and which are of any strong colour."""
    hue, saturation, _ = np.moveaxis(np.asarray(image.convert("HSV")).astype(int), -1, 0)
    strong = saturation > 100
    return strong & ((hue < 14) | (hue > 240)), strong


COLOURS = {"red": (0, 24), "green": (70, 110), "blue": (135, 175), "purple": (180, 210), "yellow": (28, 50)}
"""Hues of Pillow's HSV, 0 to 255."""


@pytest.mark.parametrize("colour", some(COLOURS, "red"))
def test_the_picture_listens_to_its_colour_word(studio: calotype.Studio, colour: str) -> None:
    low, high = COLOURS[colour]
    right = 0
    for image in studio.generate([f"a {colour} heart", f"a {colour} square", f"a {colour} circle"], seed=3):
        hue, saturation, _ = np.moveaxis(np.asarray(image.convert("HSV")).astype(int), -1, 0)
        found = hue[saturation > 100]
        if colour == "red":
            found = (found + 12) % 256  # red lies on both ends of the circle
        right += len(found) > 500 and ((found >= low) & (found <= high)).mean() > 0.5
    assert right >= 2


def test_the_command_and_its_replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "out.png"
    assert cli.run(["generate", "a red apple", "--seed", "7", "-o", str(path)]) == 0
    assert cli.run(["replay", str(path)]) == 0
    assert "identical, largest difference 0" in capsys.readouterr().out
    assert files.read(path)[1].model_name == "icons"


@pytest.mark.parametrize("sampler", some(SAMPLERS, "euler_a"))
def test_pixels_do_not_depend_on_company(studio: calotype.Studio, sampler: str) -> None:
    prompts = ["a red apple", "a green car", "一个红苹果"]
    among = studio.pictures(prompts, seed=3, steps=4, sampler=sampler)
    back = studio.pictures(prompts[::-1], seed=3, steps=4, sampler=sampler)
    for i, prompt in enumerate(prompts):
        (alone,) = studio.pictures(prompt, seed=3 + i, steps=4, sampler=sampler)
        assert alone.image.tobytes() == among[i].image.tobytes()
    # The middle one has the same prompt and seed in both orders.
    assert among[1].image.tobytes() == back[1].image.tobytes()
