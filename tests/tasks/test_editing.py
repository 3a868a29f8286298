"""Editing with any latent model: each task is a row of the same table, and replays like any picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from tests.checkpoints.families import CONFIGS, TOKENIZER, written_by_diffusers
from tests.conftest import random_model
from torch import Tensor

import calotype
from calotype.checkpoints.convert import convert
from calotype.diffusion.windows import Windows
from calotype.errors import InputError
from calotype.models.latent_diffusion import LatentDiffusion, build
from calotype.models.presets import tiny
from calotype.tasks.canvas import canvas
from calotype.tasks.cut import cut
from calotype.tasks.generate import Encoded, Progress, generate
from calotype.tasks.picture import Picture, default_paths
from calotype.tasks.pixels import decode, encode_pixels, to_tensor, windows_of
from calotype.tasks.request import Request, ResolvedRequest
from calotype.tasks.vary import variations


def noise_picture(width: int, height: int, seed: int = 0) -> PIL.Image.Image:
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return PIL.Image.fromarray(levels)


IMAGE = noise_picture(32, 32)
HALF = PIL.Image.new("L", (32, 32), 0)
HALF.paste(255, (0, 0, 32, 12))


def pictures(model: LatentDiffusion, **fields: Any) -> list[Picture]:
    asked = {"prompts": "a red apple", "seed": 3, "steps": 4, "guidance": 2.0, **fields}
    return [event for event in generate(model, Request(**asked)) if isinstance(event, Picture)]


def latents_of(model: LatentDiffusion, **fields: Any) -> Tensor:
    laid = canvas(model, Request(prompts="x", **fields).resolved(model.config))
    assert laid is not None
    return laid.latents[0]


EVERYTHING: dict[str, dict[str, Any]] = {
    "image": {"image": IMAGE},
    "image of an odd size": {"image": noise_picture(29, 19), "strength": 0.5},
    "one pixel": {"image": noise_picture(1, 1)},
    "image at another size": {"image": IMAGE, "width": 24, "height": 40},
    "mask": {"image": IMAGE, "mask": HALF},
    "margin": {"image": IMAGE, "margin": (4, 0, 8, 3)},
    "mask and margin": {"image": IMAGE, "mask": HALF, "margin": (0, 8, 0, 0)},
    "euler": {"image": IMAGE, "invert": "euler", "was": "a green car"},
    "walk": {"image": IMAGE, "invert": "walk", "strength": 0.75},
    "edit friendly": {"image": IMAGE, "invert": "edit_friendly", "was": "a green car"},
    "hires": {"hires_from": (16, 16), "width": 32, "height": 32, "strength": 0.5},
    "hires of latents": {"hires_from": (16, 24), "hires_by": "latents", "noise": "torch"},
    "tiles": {"image": noise_picture(44, 36), "tile": 16, "strength": 0.5},
    "tiles and a mask": {"image": IMAGE, "mask": HALF, "tile": 16},
    "panorama": {"wrap": "x", "width": 56, "height": 24},
    "texture": {"wrap": "xy"},
    "texture of a picture": {"wrap": "xy", "image": noise_picture(20, 30)},
    "variation": {"vary": 0.3, "vary_seed": 9},
    "blend": {"toward": "a green car", "blend": 0.4},
    "ancestral": {"image": IMAGE, "sampler": "euler_a"},
}


@pytest.mark.parametrize("task", EVERYTHING)
def test_every_task_counts_its_steps_and_makes_the_same_again_from_its_record(
    tiny_model: LatentDiffusion, task: str
) -> None:
    asked = Request(prompts="a red apple", seed=3, steps=4, guidance=2.0, **EVERYTHING[task])
    events = list(generate(tiny_model, asked))
    (made,) = (event for event in events if isinstance(event, Picture))
    told = next(event.steps for event in events if isinstance(event, Encoded))
    assert [event.done for event in events if isinstance(event, Progress)] == [*range(1, told + 1)]
    assert made.image.size == (made.record.request.width, made.record.request.height)
    (again,) = (e for e in generate(tiny_model, made.record.request) if isinstance(e, Picture))
    assert again.image.tobytes() == made.image.tobytes()
    assert again.record == made.record
    assert ResolvedRequest(**made.record.request.model_dump(mode="json")).seed == 3


@pytest.mark.parametrize("task", ["image", "mask", "walk", "hires", "tiles", "texture"])
def test_pixels_do_not_depend_on_company(tiny_model: LatentDiffusion, task: str) -> None:
    among = pictures(tiny_model, **{**EVERYTHING[task], "count": 3})
    for i in (0, 2):
        (alone,) = pictures(tiny_model, **{**EVERYTHING[task], "seed": 3 + i})
        assert alone.image.tobytes() == among[i].image.tobytes()


def test_strength_decides_how_much_is_left(tiny_model: LatentDiffusion) -> None:
    z = latents_of(tiny_model, image=IMAGE)
    change = []
    for strength in (0.25, 0.5, 1.0):
        events = list(
            generate(tiny_model, Request(prompts="x", image=IMAGE, strength=strength, steps=20, seed=1))
        )
        assert next(e.steps for e in events if isinstance(e, Encoded)) == 20 * strength
        first = next(e.step for e in events if isinstance(e, Progress))
        change.append(first.sigma)
        (made,) = (e for e in events if isinstance(e, Picture))
        assert made.latents.shape == z.shape
    assert change == sorted(change)
    assert change[-1] == pytest.approx(tiny_model.denoiser.schedule.sigma_max)


def test_what_the_mask_keeps_is_kept_to_the_bit(tiny_model: LatentDiffusion) -> None:
    (made,) = pictures(tiny_model, image=IMAGE, mask=HALF)
    new, old = np.asarray(made.image), np.asarray(IMAGE)
    assert (new[12:] == old[12:]).all()
    assert (new[:12] != old[:12]).mean() > 0.9
    z = latents_of(tiny_model, image=IMAGE)
    torch.testing.assert_close(made.latents[:, 3:], z[:, 3:])  # a mask edge at a latent's edge


def test_grey_mixes_and_white_is_image_to_image(tiny_model: LatentDiffusion) -> None:
    white, grey = PIL.Image.new("L", (32, 32), 255), PIL.Image.new("L", (32, 32), 128)
    (free,) = pictures(tiny_model, image=IMAGE, mask=white, strength=0.75)
    (plain,) = pictures(tiny_model, image=IMAGE, strength=0.75)
    assert free.image.tobytes() == plain.image.tobytes()
    (mixed,) = pictures(tiny_model, image=IMAGE, mask=grey)
    assert mixed.image.tobytes() not in (plain.image.tobytes(), IMAGE.tobytes())


def test_a_margin_grows_the_picture_around_what_is_there(tiny_model: LatentDiffusion) -> None:
    (made,) = pictures(tiny_model, image=IMAGE, margin=(4, 0, 8, 3))
    assert made.image.size == (44, 35)
    assert (np.asarray(made.image)[:32, 4:36] == np.asarray(IMAGE)).all()


@pytest.mark.parametrize("invert", ["walk", "edit_friendly"])
def test_the_exact_walk_gives_the_picture_back_and_another_prompt_does_not(
    tiny_model: LatentDiffusion, invert: str
) -> None:
    z = latents_of(tiny_model, image=IMAGE)
    asked = {"image": IMAGE, "invert": invert, "guidance": 3.0}
    (same,) = pictures(tiny_model, **asked)
    assert float((same.latents - z).abs().max()) <= 1e-5
    (said,) = pictures(tiny_model, **asked, was="a red apple")
    assert torch.equal(said.latents, same.latents)
    (edited,) = pictures(tiny_model, **asked, was="a green car")
    assert float((edited.latents - z).abs().max()) > 1e-2


def test_euler_goes_up_unguided_and_comes_back_closer_with_more_steps(tiny_model: LatentDiffusion) -> None:
    z = latents_of(tiny_model, image=IMAGE)
    errors = []
    for steps in (4, 16, 64):
        (made,) = pictures(tiny_model, image=IMAGE, invert="euler", guidance=1.0, steps=steps, strength=0.75)
        errors.append(float((made.latents - z).square().mean().sqrt()))
    assert errors[0] > 1.5 * errors[1] > 3 * errors[2]


def test_a_variation_lies_between_two_seeds(tiny_model: LatentDiffusion) -> None:
    asked = {"sampler": "euler_a"}
    own, other = (pictures(tiny_model, **asked, seed=seed)[0].image.tobytes() for seed in (3, 9))
    none, all_ = (pictures(tiny_model, **asked, vary=vary, vary_seed=9)[0].latents for vary in (0.0, 1.0))
    torch.testing.assert_close(none, pictures(tiny_model, **asked)[0].latents, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(all_, pictures(tiny_model, **asked, seed=9)[0].latents, rtol=1e-3, atol=1e-3)
    several = pictures(tiny_model, **asked, vary=0.3, vary_seed=9, count=3)
    assert [p.record.request.seed for p in several] == [3, 3, 3]
    assert [p.record.request.vary_seed for p in several] == [9, 10, 11]
    assert len({own, other, *(p.image.tobytes() for p in several)}) == 5


def test_variations_of_a_picture(tiny_file: Path, tmp_path: Path) -> None:
    studio = calotype.load(str(tiny_file))
    (made,) = studio.pictures("a red apple", seed=3)
    made.save(tmp_path / "made.png")
    found = studio.vary(tmp_path / "made.png", 0.3, count=2, seed=9)
    wanted = studio.generate("a red apple", seed=3, vary=0.3, vary_seed=9, count=2)
    assert [image.tobytes() for image in found] == [image.tobytes() for image in wanted]
    assert [i.tobytes() for i in studio.vary(made, 0.3, count=2, seed=9)] == [i.tobytes() for i in found]
    IMAGE.save(tmp_path / "plain.png")
    with pytest.raises(InputError, match="say with a prompt"):
        studio.vary(tmp_path / "plain.png")
    assert len(studio.vary(tmp_path / "plain.png", 0.5, prompt="a red apple", count=2)) == 2
    (varied,) = studio.pictures("a red apple", seed=3, vary=0.3)
    with pytest.raises(InputError, match="itself a variation"):
        variations(varied, 0.2, 1, None, None)


def test_frames_lead_from_prompt_to_prompt(tiny_model: LatentDiffusion) -> None:
    prompts = ["a red apple", "a green car", "苹果"]
    frames = pictures(tiny_model, prompts=prompts, frames=5)
    assert [p.record.request.seed for p in frames] == [3] * 5
    assert [p.record.request.toward for p in frames] == [None, "a green car", None, "苹果", None]
    assert [p.record.request.blend for p in frames] == [0, 0.5, 0, 0.5, 0]
    for i, prompt in ((0, 0), (2, 1), (4, 2)):
        (key,) = pictures(tiny_model, prompts=prompts[prompt])
        assert key.image.tobytes() == frames[i].image.tobytes()
    for frame in frames:
        (again,) = (e for e in generate(tiny_model, frame.record.request) if isinstance(e, Picture))
        assert again.image.tobytes() == frame.image.tobytes()
    asked = Request(prompts=prompts, frames=5, seed=3).resolved(tiny_model.config)
    assert [path.name for path in default_paths(asked)][:2] == ["a-red-apple-3-0.png", "a-red-apple-3-1.png"]


def test_prompts_of_other_lengths_have_nothing_between_them(tiny_model: LatentDiffusion) -> None:
    long = "a red apple, one two three four five six, " * 3
    with pytest.raises(InputError, match="unequally many chunks"):
        pictures(tiny_model, prompts=["a red apple", long], frames=3, prompt_syntax="a1111")


def test_the_window_of_a_texture_may_begin_anywhere(tiny_model: LatentDiffusion) -> None:
    """Rolled latents decode to the rolled picture: there is no first column."""
    asked = Request(prompts="x", wrap="xy", seed=1).resolved(tiny_model.config)
    windows = windows_of(tiny_model, asked)
    z = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(1))

    def moved_by(windows: Windows | None) -> float:
        """How far the picture of rolled latents is from the rolled picture, along what were its borders."""
        here, there = (
            np.asarray(decode(tiny_model, x, windows)).astype(int) for x in (z, z.roll((4, 4), (1, 2)))
        )
        change = np.abs(np.roll(here, (16, 16), (0, 1)) - there)
        return float(change[15:17].mean() + change[:, 15:17].mean())

    assert moved_by(windows) < 0.3 * moved_by(None)


def test_a_texture_is_cut_where_it_is_calm(tiny_model: LatentDiffusion) -> None:
    for wrap in ("x", "xy"):
        (made,) = pictures(tiny_model, wrap=wrap)
        levels = np.asarray(made.image).astype(int)
        for axis in (0, 1):
            steps = np.abs(np.roll(levels, -1, axis) - levels).max(-1)
            if wrap == "xy" or axis == 1:
                across = np.percentile(np.take(steps, -1, axis), 95)
                assert across <= np.percentile(np.delete(steps, -1, axis), 95)
    # it was moved by whole latents, which moved with it
    calm = np.zeros((32, 32, 3), np.uint8)
    calm[:, 10:20] = 255
    z = torch.arange(8.0).expand(4, 8, 8)
    image, moved = cut(PIL.Image.fromarray(np.roll(calm, -10, 1)), z, "x")
    assert np.array_equal(np.asarray(image), np.roll(calm, -10 - 4, 1))
    assert torch.equal(moved, z.roll(-1, 2))


def test_tiles_and_the_whole_agree_where_the_network_sees_little() -> None:
    """Without attention and outline, and with norms that see the same, only the tiles' borders differ."""
    config = tiny()
    model = random_model(config)
    pixels = to_tensor(IMAGE)
    whole = encode_pixels(model, pixels, None)
    request = Request(prompts="x", image=IMAGE, tile=24, seed=1).resolved(config)
    tiled = encode_pixels(model, pixels, windows_of(model, request))
    assert tiled.shape == whole.shape
    assert torch.corrcoef(torch.stack([tiled.flatten(), whole.flatten()]))[0, 1] > 0.9


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "kind", "strength"),
    [
        ("sd1", "StableDiffusionImg2ImgPipeline", 0.5),
        ("sd1-inpainting", "StableDiffusionInpaintPipeline", 1.0),
        ("sd1-inpainting", "StableDiffusionInpaintPipeline", 0.5),
    ],
)
def test_diffusers_edits_as_we_do(name: str, kind: str, strength: float, tmp_path: Path) -> None:
    import diffusers

    theirs = written_by_diffusers(name, tmp_path / "folder")
    convert(str(theirs.folder), tmp_path / "ours", dtype="float32")
    pipe: Any = getattr(diffusers, kind).from_pretrained(
        tmp_path / "ours", torch_dtype=torch.float32, safety_checker=None, feature_extractor=None
    )
    pipe.scheduler = diffusers.DDIMScheduler.from_pretrained(theirs.folder / "scheduler", clip_sample=False)
    pipe.set_progress_bar_config(disable=True)
    pipe.vae.encode = _mode_only(pipe.vae.encode)
    given: dict[str, Any] = {"image": IMAGE, "strength": strength}
    if name != "sd1":
        given["mask"] = HALF
    asked = {"seed": 5, "steps": 8, "guidance": 3.0, "sampler": "ddim", "grid": "leading", "noise": "torch"}
    (picture,) = calotype.load(str(theirs.folder)).pictures("a red apple", **given, **asked)
    more: dict[str, Any] = {}
    if name != "sd1":
        more = {"mask_image": given["mask"], "width": 32, "height": 32}
    if strength == 1.0:
        # Pure noise there; here the picture lies beneath it, at the first step's level, even at strength 1.
        z = canvas_latents(theirs.folder, given)
        schedule = theirs.config.schedule.build()
        first = float(schedule.sigma_at(torch.tensor(7 * (1000 // 8) + 1.0)))
        unit = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(5))
        more["latents"] = (z + first * unit) / (1 + first**2) ** 0.5
    wanted = pipe(
        "a red apple",
        image=IMAGE,
        strength=strength,
        num_inference_steps=8,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(5),
        output_type="latent",
        **more,
    ).images[0]
    found = picture.latents / (1 + theirs.config.schedule.build().sigma_min ** 2) ** 0.5
    assert float((found - wanted).abs().max() / wanted.abs().max()) <= 5e-5


def canvas_latents(folder: Path, given: dict[str, Any]) -> Tensor:
    return latents_of(calotype.load(str(folder)).model, **given)[None]


def _mode_only(encode: Any) -> Any:
    """diffusers samples its latents; we take their mode, and no draw of the generator for it."""

    def call(x: Tensor) -> Any:
        found = encode(x)
        found.latent_dist.sample = lambda generator=None: found.latent_dist.mode()  # noqa: ARG005
        return found

    return call


def test_an_inpainting_model_is_told_of_the_mask_and_draws_on_it() -> None:
    model = build(CONFIGS["sd1-inpainting"], TOKENIZER, seed=1)
    seen: list[Tensor] = []
    network = model.denoiser.network
    handle = network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    (made,) = pictures(model, image=IMAGE, mask=HALF, tile=24)
    handle.remove()
    assert {x.shape[1:] for x in seen} == {(9, 12, 12)}
    mask = seen[0][0, 4]
    assert (mask[:6] == 1).all()
    assert (mask[6:] == 0).all()
    assert (np.asarray(made.image)[12:] == np.asarray(IMAGE)[12:]).all()
    assert replace(made).image.size == (32, 32)
