"""The text that other programs read from a PNG, both ways."""

from __future__ import annotations

from pathlib import Path

import pytest
from sd_parsers import ParserManager

from calotype.diffusion.grids import GRIDS
from calotype.diffusion.samplers import SAMPLERS
from calotype.models.latent_diffusion import LatentDiffusion
from calotype.tasks import parameters
from calotype.tasks.generate import generate
from calotype.tasks.picture import Picture
from calotype.tasks.request import Request


def made(model: LatentDiffusion, **fields: object) -> Picture:
    request = Request(prompts="a red apple, (shiny)", steps=2, **fields)
    return next(event for event in generate(model, request) if isinstance(event, Picture))


def test_sd_parsers_reads_our_pictures(tiny_model: LatentDiffusion, tmp_path: Path) -> None:
    picture = made(tiny_model, negative="blur", seed=2**63, sampler="dpmpp_2m", grid="karras", guidance=2.5)
    picture.save(tmp_path / "out.png")
    found = ParserManager().parse(tmp_path / "out.png")
    assert found is not None
    (sampler,) = found.samplers
    assert sampler.name == "DPM++ 2M"
    assert sampler.parameters == {"scheduler": "Karras", "cfg_scale": "2.5", "seed": str(2**63), "steps": "2"}
    assert [prompt.value for prompt in sampler.prompts] == ["a red apple, (shiny)"]
    assert [prompt.value for prompt in sampler.negative_prompts] == ["blur"]
    assert sampler.model is not None
    assert sampler.model.name == picture.record.model_name


def test_what_is_written_is_read(tiny_model: LatentDiffusion) -> None:
    picture = made(tiny_model, negative="blur", seed=5, width=24, height=32, clip_skip=2)
    told = parameters.read(parameters.write(picture.record))
    again = Request(**told)
    for name in ("prompts", "negative", "seed", "steps", "guidance", "sampler", "grid", "width", "clip_skip"):
        assert getattr(again, name) == getattr(picture.record.request, name)


def test_every_name_has_its_own() -> None:
    assert parameters.SAMPLERS.keys() == SAMPLERS.keys()
    assert parameters.GRIDS.keys() == GRIDS.keys()
    for ours, title in parameters.SAMPLERS.items():
        assert parameters.named(title) == (ours, None)
    for ours, title in parameters.GRIDS.items():
        assert parameters.named("Euler", title) == ("euler", ours)
    assert parameters.named("DPM++ 2M Karras") == ("dpmpp_2m", "karras")
    assert parameters.named("k_euler_x", "sgm_uniform") == (None, "trailing")


def test_another_programs_text_means_its_syntax_and_noise() -> None:
    told = parameters.read("a (red:1.2) apple\nSteps: 3, Sampler: Euler a, Seed: 5, Version: v1.10")
    assert told["prompts"] == ["a (red:1.2) apple"]
    assert (told["prompt_syntax"], told["noise"]) == ("a1111", "philox")


@pytest.mark.parametrize(
    "text", ["", "a cat", "Steps: many", "Steps: 3\nSeed", "\n\n:::,,,", "Size: x, Steps: 3"]
)
def test_other_texts_tell_nothing(text: str) -> None:
    assert parameters.read(text) == {}
