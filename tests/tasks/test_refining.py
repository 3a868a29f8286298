"""SDXL's base and refiner in one request, as diffusers' two pipelines draw it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from tests.checkpoints.families import Theirs, written_by_diffusers
from tests.networks.reference import relative_error
from tests.tasks.test_guides import ddim
from torch import Tensor

import calotype
from calotype.checkpoints import shelf
from calotype.diffusion.grids import leading
from calotype.errors import CheckpointError, InputError
from calotype.tasks.generate import generate
from calotype.tasks.picture import Picture, read
from calotype.tasks.request import Request

ASKED: dict[str, Any] = {
    "negative": "car",
    "steps": 8,
    "guidance": 3.0,
    "sampler": "ddim",
    "grid": "leading",
    "noise": "torch",
    "seed": 4,
    "width": 24,
    "height": 16,
    "prompt_syntax": "plain",
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Theirs:
    return written_by_diffusers("sdxl", tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def refiner(tmp_path_factory: pytest.TempPathFactory) -> Theirs:
    return written_by_diffusers("sdxl-refiner", tmp_path_factory.mktemp("refiner"))


def theirs(kind: str, theirs: Theirs, **asked: Any) -> Tensor:
    model = shelf.load(theirs.folder, dtype=None)
    with torch.no_grad():
        said, away = model.text_encoder(["a red apple"]), model.text_encoder(["car"])
    more = {"requires_aesthetics_score": True} if "Img2Img" in kind else {}
    parts = dict.fromkeys(["text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "feature_extractor"])
    pipe: Any = getattr(diffusers, kind)(
        vae=theirs.vae,
        unet=theirs.unet,
        scheduler=ddim(theirs.config, model),
        add_watermarker=False,
        **parts,
        **more,
    )
    pipe.set_progress_bar_config(disable=True)
    out: Tensor = pipe(
        prompt_embeds=said.tokens,
        pooled_prompt_embeds=said.vector,
        negative_prompt_embeds=away.tokens,
        negative_pooled_prompt_embeds=away.vector,
        num_inference_steps=8,
        guidance_scale=3.0,
        original_size=(16, 24),
        target_size=(16, 24),
        output_type="latent",
        **asked,
    ).images
    return out


def test_base_and_refiner_as_their_pipelines_draw(base: Theirs, refiner: Theirs, tmp_path: Path) -> None:
    studio = calotype.load(str(base.folder))
    (drawn,) = studio.pictures("a red apple", refiner=str(refiner.folder), **ASKED)
    schedule = studio.model.denoiser.schedule
    first = leading(schedule, 1)(8, schedule.sigma_min, schedule.sigma_max)[0]
    unit = torch.randn(1, 4, 8, 12, generator=torch.Generator().manual_seed(4)).double()
    start = unit * first / (1 + first**2).sqrt()
    half = theirs("StableDiffusionXLPipeline", base, latents=start, denoising_end=0.8, height=16, width=24)
    wanted = theirs("StableDiffusionXLImg2ImgPipeline", refiner, image=half, denoising_start=0.8)
    found = drawn.latents[None].double() / (1 + schedule.sigma_min**2) ** 0.5
    assert relative_error(found, wanted) <= 5e-5
    (plain,) = studio.pictures("a red apple", **ASKED)
    assert relative_error(plain.latents, drawn.latents) > 1e-3
    # and again from what the picture's file says
    drawn.save(tmp_path / "x.png")
    _, record = read(tmp_path / "x.png", [refiner.folder.parent])
    assert record.request.refiner_hash
    *_, again = generate(studio.model, record.request)
    assert isinstance(again, Picture)
    assert torch.equal(again.latents, drawn.latents)


def test_what_cannot_be_refined_is_one_sentence(base: Theirs, refiner: Theirs, tmp_path: Path) -> None:
    config = shelf.recognise(base.folder).config
    with pytest.raises(InputError, match=r"refiner_at is 1\.0; give"):
        Request(prompts="x", refiner="y", refiner_at=1.0)
    with pytest.raises(InputError, match="not with invert"):
        Request(prompts="x", refiner="y", invert="walk", image="x.png")
    with pytest.raises(InputError, match="is not the refiner this picture was made with"):
        Request(prompts="x", refiner=str(refiner.folder), refiner_hash="0" * 64).resolved(config)
    other = written_by_diffusers("sd1", tmp_path / "other")
    with pytest.raises(CheckpointError, match="a sd1, draws in other latents"):
        Request(prompts="x", refiner=str(other.folder)).resolved(config)
    with pytest.raises(InputError, match="the model has none of the 1 steps"):
        calotype.load(str(base.folder)).pictures("x", refiner=str(refiner.folder), **{**ASKED, "steps": 1})
