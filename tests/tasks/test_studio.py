"""The Python face."""

from pathlib import Path

import PIL.Image
import pytest
import torch

import calotype
from calotype.tasks.picture import Picture


@pytest.fixture(scope="module")
def studio(tiny_file: Path) -> calotype.Studio:
    return calotype.load(str(tiny_file))


def test_one_prompt_gives_a_picture_more_give_a_list(studio: calotype.Studio) -> None:
    image = studio.generate("a red apple", seed=7)
    assert isinstance(image, PIL.Image.Image)
    assert image.size == (32, 32)
    both = studio.generate(["a red apple", "a green car"], seed=7)
    assert [type(picture) for picture in both] == [PIL.Image.Image] * 2
    assert both[0].tobytes() == image.tobytes()
    assert len(studio.generate("a red apple", count=3, seed=7)) == 3
    assert len(studio.generate("a red apple", count=1, seed=7)) == 1


def test_pictures_carry_their_record(studio: calotype.Studio, tiny_file: Path) -> None:
    (picture,) = studio.pictures("a red apple", seed=7)
    assert isinstance(picture, Picture)
    assert picture.record.request.model == str(tiny_file)
    assert picture.record.weights_hash == studio.model.weights_hash != ""
    assert studio.decode(picture.latents).tobytes() == picture.image.tobytes()


def test_a_long_prompt_warns(studio: calotype.Studio) -> None:
    with pytest.warns(UserWarning, match="left out of the prompt: .*zebra"):
        studio.generate("a red apple " * 10 + "and a zebra", seed=7)


def test_wrong_names_are_refused(tiny_file: Path) -> None:
    with pytest.raises(calotype.InputError, match="no model 'icon5'"):
        calotype.load("icon5")
    with pytest.raises(calotype.InputError, match="no device 'gpu9'"):
        calotype.load(str(tiny_file), device="gpu9")
    with pytest.raises(calotype.InputError, match="did you mean 'steps'"):
        calotype.load(str(tiny_file)).generate("a", stepz=3)


def test_half_precision(tiny_file: Path) -> None:
    (half,) = calotype.load(str(tiny_file), dtype=torch.bfloat16).pictures("a red apple", seed=7)
    (full,) = calotype.load(str(tiny_file)).pictures("a red apple", seed=7)
    assert half.latents.dtype == torch.float32
    error = (half.latents - full.latents).abs().mean() / full.latents.abs().mean()
    assert 0 < error < 0.5
