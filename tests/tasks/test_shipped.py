"""The shipped model draws, draws the same again, and draws each picture as if it were alone."""

from pathlib import Path

import numpy as np
import pytest
import torch

import calotype
from calotype.checkpoints import native, shelf
from calotype.cli import main as cli
from calotype.diffusion.samplers import SAMPLERS
from calotype.tasks import picture as files


@pytest.fixture(scope="module")
def studio() -> calotype.Studio:
    return calotype.load("icons")


def test_the_file_is_what_it_says() -> None:
    path = shelf.find("icons")
    assert path.stat().st_size <= 28e6
    info = native.describe(path)
    assert info.config.name == "icons"
    assert info.dtype == "F16"
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


def test_the_demo_prompt_draws_something_on_white(studio: calotype.Studio) -> None:
    image = studio.generate("a red apple", seed=7)
    assert image.size == (128, 128)
    pixels = np.asarray(image).astype(float)
    assert pixels.std() > 20, "the picture is blank"
    assert np.median(pixels[:4, :4]) > 235, "the ground is not white"


def test_the_picture_listens_to_its_words(studio: calotype.Studio) -> None:
    red, blue = studio.generate(["a red heart", "a blue heart"], seed=7)
    same_seed = studio.generate("a blue heart", seed=7)
    assert np.abs(np.asarray(red).astype(float) - np.asarray(same_seed)).mean() > 5
    assert np.abs(np.asarray(blue).astype(float) - np.asarray(same_seed)).mean() > 5  # seed 8 against 7


def test_the_command_and_its_replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "out.png"
    assert cli.run(["generate", "a red apple", "--seed", "7", "-o", str(path)]) == 0
    assert cli.run(["replay", str(path)]) == 0
    assert "identical, largest difference 0" in capsys.readouterr().out
    assert files.read(path)[1].model_name == "icons"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_pixels_do_not_depend_on_company(studio: calotype.Studio, sampler: str) -> None:
    prompts = ["a red apple", "a green car", "一个红苹果"]
    among = studio.pictures(prompts, seed=3, steps=4, sampler=sampler)
    back = studio.pictures(prompts[::-1], seed=3, steps=4, sampler=sampler)
    for i, prompt in enumerate(prompts):
        (alone,) = studio.pictures(prompt, seed=3 + i, steps=4, sampler=sampler)
        assert alone.image.tobytes() == among[i].image.tobytes()
    # The middle one has the same prompt and seed in both orders.
    assert among[1].image.tobytes() == back[1].image.tobytes()
