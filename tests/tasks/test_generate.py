"""Generation: the order of things, seeds, and pixels that depend on nothing but the picture's own request."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conftest import random_model

from calotype.checkpoints import native
from calotype.diffusion.grids import GRIDS
from calotype.diffusion.known_noise import NOISES
from calotype.diffusion.samplers import SAMPLERS
from calotype.errors import InputError
from calotype.models.config import ScheduleConfig
from calotype.models.latent_diffusion import LatentDiffusion, build
from calotype.models.presets import tiny
from calotype.tasks.generate import Drawn, Encoded, Event, Notice, Progress, generate
from calotype.tasks.picture import Picture
from calotype.tasks.pixels import decode
from calotype.tasks.request import Request


def events(model: LatentDiffusion, **fields: object) -> list[Event]:
    return list(generate(model, Request(**fields)))


def pictures(model: LatentDiffusion, **fields: object) -> list[Picture]:
    return [event for event in events(model, **fields) if isinstance(event, Picture)]


def test_the_order_of_events(tiny_model: LatentDiffusion) -> None:
    found = events(tiny_model, prompts=["a red apple", "a green car"], count=2, seed=5, steps=3)
    kinds = [type(event) for event in found]
    assert kinds == [Encoded, Progress, Progress, Progress, Drawn, Picture, Picture, Picture, Picture]
    first = found[0]
    assert isinstance(first, Encoded)
    assert first.steps == 3
    assert [event.done for event in found if isinstance(event, Progress)] == [1, 2, 3]
    made = [event for event in found if isinstance(event, Picture)]
    assert [picture.index for picture in made] == [0, 1, 2, 3]
    assert [picture.record.request.seed for picture in made] == [5, 6, 7, 8]
    assert [picture.record.request.prompts[0] for picture in made] == ["a red apple"] * 2 + [
        "a green car"
    ] * 2
    assert made[0].image.size == (32, 32)
    assert len({picture.image.tobytes() for picture in made}) == 4


def test_the_finished_latents_come_before_any_decoding(tiny_model: LatentDiffusion) -> None:
    run = generate(tiny_model, Request(prompts="a red apple", count=2, seed=1, steps=2))
    drawn = next(event for event in run if isinstance(event, Drawn))
    made = [event for event in run if isinstance(event, Picture)]
    for i, picture in zip(drawn.indices, made, strict=True):
        assert torch.equal(drawn.latents[i], picture.latents)
        assert decode(tiny_model, drawn.latents[i]).tobytes() == picture.image.tobytes()


def test_each_record_makes_its_picture_again(tiny_model: LatentDiffusion) -> None:
    made = pictures(tiny_model, prompts=["a red apple", "a green car"], count=2, steps=2, sampler="euler_a")
    for picture in made:
        (again,) = [
            event for event in generate(tiny_model, picture.record.request) if isinstance(event, Picture)
        ]
        assert again.image.tobytes() == picture.image.tobytes()
        assert again.record == picture.record


@pytest.mark.parametrize(
    ("sampler", "count"), [*((name, 3) for name in SAMPLERS), ("ddim", 2), ("heun", 5), ("euler_a", 8)]
)
def test_pixels_do_not_depend_on_company(tiny_model: LatentDiffusion, sampler: str, count: int) -> None:
    """Alone, among others, in another order; guided and not; sizes that leave odd remainders of a vector."""
    for guidance, width, height in ((3.0, 32, 32), (1.0, 20, 28)):
        settings = {"sampler": sampler, "steps": 3, "guidance": guidance, "width": width, "height": height}
        prompts = list(itertools.islice(itertools.cycle(["a red apple", "a green car", "苹果"]), count))
        among = pictures(tiny_model, prompts=prompts, seed=40, **settings)
        for i in {0, count // 2, count - 1}:
            (alone,) = pictures(tiny_model, prompts=prompts[i], seed=40 + i, **settings)
            assert torch.equal(alone.latents, among[i].latents)
            assert alone.image.tobytes() == among[i].image.tobytes()


def test_pixels_do_not_depend_on_order(tiny_model: LatentDiffusion) -> None:
    forth = pictures(tiny_model, prompts=["a red apple", "a green car"], count=3, seed=0, steps=3)
    back = pictures(tiny_model, prompts=["a green car", "a red apple"], count=3, seed=0, steps=3)
    for i in range(3):
        # The same prompt under the same seed stands at another place of the batch.
        (alone,) = pictures(tiny_model, prompts="a green car", seed=3 + i, steps=3)
        assert forth[3 + i].image.tobytes() == alone.image.tobytes()
        (alone,) = pictures(tiny_model, prompts="a green car", seed=i, steps=3)
        assert back[i].image.tobytes() == alone.image.tobytes()


def test_pixels_do_not_depend_on_company_with_every_kind_of_guidance(tiny_model: LatentDiffusion) -> None:
    for extra in ({"rescale": 0.7}, {"interval": (0.5, 20.0)}, {"apg": {"threshold": 2.0}}):
        among = pictures(tiny_model, prompts=["a red apple", "a green car", "苹果"], seed=2, steps=4, **extra)
        (alone,) = pictures(tiny_model, prompts="a green car", seed=3, steps=4, **extra)
        assert alone.image.tobytes() == among[1].image.tobytes(), extra


@pytest.mark.parametrize("count", [2, 4])
def test_pixels_do_not_depend_on_company_at_full_size(icons_model: LatentDiffusion, count: int) -> None:
    settings = {"sampler": "dpmpp_2m_sde", "steps": 2}
    among = pictures(
        icons_model, prompts=["a red apple", "a green car"], count=count // 2, seed=9, **settings
    )
    (alone,) = pictures(icons_model, prompts="a green car", seed=9 + count - 1, **settings)
    assert torch.equal(alone.latents, among[-1].latents)
    assert alone.image.tobytes() == among[-1].image.tobytes()


@pytest.mark.verify
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("size", ["tiny_model", "icons_model"])
def test_pixels_do_not_depend_on_company_at_all(
    sampler: str, size: str, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(size)
    for guidance in (1.0, 4.0):
        settings = {"prompts": "a red apple", "sampler": sampler, "guidance": guidance, "steps": 4}
        alone = [pictures(model, seed=seed, **settings)[0] for seed in range(8)]
        for count in (2, 3, 5, 8):
            for one, other in zip(alone, pictures(model, seed=0, count=count, **settings), strict=False):
                assert one.image.tobytes() == other.image.tobytes()


def test_a_model_of_pixels_without_text_draws_too(tmp_path: Path) -> None:
    config = tiny()
    unet = dataclasses.replace(config.unet, in_channels=3, out_channels=3, context_width=0, outline_cells=0)
    config = dataclasses.replace(config, autoencoder=None, text=(), unet=unet, parameterization="flow")
    config = dataclasses.replace(config, schedule=ScheduleConfig("flow", shift=2.0))
    native.save(tmp_path / "pixels.safetensors", build(config, None))
    model = native.load(tmp_path / "pixels.safetensors")
    both = pictures(model, prompts=["anything", "nothing"], seed=4, width=31, height=17, grid="flow")
    assert both[0].image.size == (31, 17)
    (alone,) = pictures(model, prompts="something", seed=5, width=31, height=17, grid="flow")
    assert alone.image.tobytes() == both[1].image.tobytes()


def test_half_precision_networks_are_as_steady(tiny_model: LatentDiffusion) -> None:
    import copy

    half = tiny_model.replace(denoiser=copy.deepcopy(tiny_model.denoiser).bfloat16())
    among = pictures(half, prompts=["a red apple"], count=5, seed=9, steps=3)
    (alone,) = pictures(half, prompts="a red apple", seed=13, steps=3)
    assert alone.image.tobytes() == among[-1].image.tobytes()


@pytest.mark.parametrize("grid", GRIDS)
def test_every_grid_leads_to_a_picture(tiny_model: LatentDiffusion, grid: str) -> None:
    (made,) = pictures(tiny_model, prompts="a red apple", seed=1, grid=grid, steps=4)
    assert made.latents.isfinite().all()


def test_settings_matter(tiny_model: LatentDiffusion) -> None:
    base = {"prompts": "a red apple", "seed": 1, "steps": 4, "guidance": 3.0}
    changes: list[dict[str, object]] = [
        {},
        {"seed": 2},
        {"steps": 5},
        {"guidance": 1.0},
        {"guidance": 6.0},
        {"prompts": "a green car"},
        {"negative": "red"},
        {"sampler": "ddim", "sampler_options": {"eta": 1.0}},
        {"sampler": "heun"},
        {"grid": "karras"},
        {"width": 40},
        {"rescale": 1.0},
        {"interval": (0.0, 1.0)},
        {"apg": {}},
        {"noise": "torch"},
        {"noise": "philox"},
        {"clip_skip": 2},
        {"prompts": "a (red) apple", "prompt_syntax": "a1111"},
        {"prompts": "a (red) apple", "prompt_syntax": "plain"},
        {"prompts": "a BREAK red apple", "prompt_syntax": "a1111"},
    ]
    made = [pictures(tiny_model, **{**base, **change})[0].latents.numpy() for change in changes]
    for (i, one), (j, other) in itertools.combinations(enumerate(made), 2):
        assert one.shape != other.shape or np.abs(one - other).max() > 1e-4, (changes[i], changes[j])


def test_a_prompt_cut_short_is_announced(tiny_model: LatentDiffusion) -> None:
    long = "a red apple " * 10 + "and a zebra"
    notices = [event for event in events(tiny_model, prompts=long, steps=1) if isinstance(event, Notice)]
    assert len(notices) == 1
    assert "14 tokens" in notices[0].text
    assert notices[0].text.endswith("and a zebra")


def test_a_long_prompt_in_chunks_is_read_to_its_end(tiny_model: LatentDiffusion) -> None:
    long = "a red apple " * 10
    settings = {"prompt_syntax": "a1111", "seed": 3, "steps": 2}
    found = events(tiny_model, prompts=[long + "and a car", long + "and a dog"], **settings)
    assert not [event for event in found if isinstance(event, Notice)]
    car, dog = (event.image.tobytes() for event in found if isinstance(event, Picture))
    (other,) = pictures(tiny_model, prompts=long + "and a dog", **settings)
    assert car != other.image.tobytes()
    assert len({car, dog, other.image.tobytes()}) == 3


@pytest.mark.parametrize("noise", NOISES)
def test_pixels_do_not_depend_on_company_of_other_lengths(tiny_model: LatentDiffusion, noise: str) -> None:
    """Prompts of one chunk and of three, the negative one of two; every source of noise."""
    long = "a (red:1.3) apple, one two three four five six, " * 3
    prompts = ["a green car", long, long, "a [red] apple", "苹果"]
    settings = {
        "prompt_syntax": "a1111",
        "negative": "a car BREAK green",
        "sampler": "euler_a",
        "steps": 3,
        "noise": noise,
    }
    found = events(tiny_model, prompts=prompts, seed=20, **settings)
    assert [len(event.indices) for event in found if isinstance(event, Drawn)] == [1, 2, 2]
    steps = next(event.steps for event in found if isinstance(event, Encoded))
    assert [event.done for event in found if isinstance(event, Progress)] == [*range(1, steps + 1)]
    among = [event for event in found if isinstance(event, Picture)]
    for i, prompt in enumerate(prompts):
        (alone,) = pictures(tiny_model, prompts=prompt, seed=20 + i, **settings)
        assert torch.equal(alone.latents, among[i].latents)
        assert alone.image.tobytes() == among[i].image.tobytes()


def test_the_shorter_prompt_is_not_filled_up(tiny_model: LatentDiffusion) -> None:
    """To attention's softmax, twice the same chunk is once: it must not move the picture."""
    settings = {"prompt_syntax": "a1111", "seed": 1, "steps": 3, "negative": "red"}
    (once,) = pictures(tiny_model, prompts="a green car", **settings)
    (twice,) = pictures(tiny_model, prompts="a green car BREAK a green car", **settings)
    torch.testing.assert_close(once.latents, twice.latents, rtol=1e-3, atol=1e-3)
    (filled,) = pictures(tiny_model, prompts="a green car BREAK BREAK", **settings)
    assert (once.latents - filled.latents).abs().max() > 1e-2


def test_the_first_noise_is_the_known_one(tiny_model: LatentDiffusion) -> None:
    run = generate(
        tiny_model, Request(prompts="a", seed=7, noise="torch", sampler="euler", steps=2, guidance=1)
    )
    step = next(event.step for event in run if isinstance(event, Progress))
    known = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(7))
    # Euler's first step from x = sigma * noise: (x1 - D) / sigma1 = (x - D) / sigma
    start = step.denoised + (step.x - step.denoised) * (step.sigma / step.sigma_next)
    torch.testing.assert_close(start, step.sigma * known, rtol=1e-3, atol=1e-2)


def test_a_model_with_a_layer_of_its_own_says_that_clip_skip_changes_nothing() -> None:
    config = tiny()
    early = tuple(dataclasses.replace(tower, layer=-2, final_norm=False) for tower in config.text)
    model = random_model(dataclasses.replace(config, text=early))
    asked = {"prompts": "a red apple", "seed": 1, "steps": 1}
    plain, own, other = (events(model, **asked, clip_skip=skip) for skip in (None, 2, 1))
    assert [event.text for event in other if isinstance(event, Notice)] == [
        "The model tiny has a clip skip of its own; 1 changes nothing."
    ]
    assert not [event for event in own if isinstance(event, Notice)]
    images = [event.image.tobytes() for event in (*plain, *own, *other) if isinstance(event, Picture)]
    assert len(images) == 3
    assert len(set(images)) == 1


def test_what_the_model_cannot_do_is_said_before_any_work(tiny_model: LatentDiffusion) -> None:
    for wrong, message in (
        ({"width": 30}, "multiple of 4"),
        ({"clip_skip": 3}, "clip_skip is 3; the model tiny has 2 text layers"),
        (
            {"negative": "<lora:flat:0.8>", "prompt_syntax": "a1111"},
            "negative prompt asks for the LoRA 'flat'",
        ),
        ({"negative": "[a|b]", "prompt_syntax": "a1111"}, "alternates the prompt"),
        ({"steps": 1000, "grid": "trailing", "sampler": "lms", "sampler_options": {"order": 0}}, "order"),
    ):
        with pytest.raises(InputError, match=message):
            events(tiny_model, prompts="a", **wrong)


def test_gradients_are_off_inside_and_untouched_outside(tiny_model: LatentDiffusion) -> None:
    run = generate(tiny_model, Request(prompts="a red apple", steps=2))
    for event in run:
        assert torch.is_grad_enabled()
        if isinstance(event, Progress):
            assert not event.step.x.requires_grad
