"""Conversion in all directions, and what diffusers' own pipelines draw with what was written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from tests.checkpoints.families import CONFIGS, TOKENIZER, written_by_diffusers
from tests.cli.test_command_line import run
from torch import Tensor

import calotype
from calotype.checkpoints import diffusers_writer, native, shelf, single_file
from calotype.checkpoints.convert import convert
from calotype.diffusion.noise import PictureNoise
from calotype.errors import CheckpointError, InputError, OutputError
from calotype.models.latent_diffusion import LatentDiffusion, build
from calotype.tasks.condition import guidance_features


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(((a.astype(float) - b.astype(float)) ** 2).mean()))


def tensors(model: LatentDiffusion) -> dict[str, Tensor]:
    return {
        f"{part}.{name}": value
        for part, module in model.parts().items()
        for name, value in module.state_dict().items()
    }


def assert_same(a: LatentDiffusion, b: LatentDiffusion) -> None:
    ours, theirs = tensors(a), tensors(b)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value.dtype == theirs[name].dtype
        assert torch.equal(value, theirs[name]), name


def test_icons_all_the_way_round_to_the_bit(tmp_path: Path) -> None:
    folder, single, back = tmp_path / "icons", tmp_path / "icons.safetensors", tmp_path / "back.safetensors"
    assert convert("icons", folder) == "diffusers"
    assert convert(str(folder), single) == "single-file"
    assert convert(str(single), back, "native") == "native"
    before, after = native.describe(shelf.find("icons")), native.describe(back)
    assert (after.config, after.weights_hash, after.recipe) == (
        before.config,
        before.weights_hash,
        before.recipe,
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "back.safetensors",
        "icons",
        "icons.safetensors",
    ]


@pytest.mark.filterwarnings("ignore")
def test_diffusers_draws_icons_as_we_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the command line: exported, drawn by diffusers, and drawn by us from the exported folder."""
    from diffusers import StableDiffusionPipeline

    folder, out = tmp_path / "icons", tmp_path / "out.png"
    assert run(capsys, "convert", "icons", folder, "--format", "diffusers")[0] == 0
    pipe: Any = StableDiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    asked = {"prompt": "a red apple", "negative_prompt": "a green car", "guidance_scale": 4.0}
    noise = PictureNoise([7])(torch.zeros(1, 16, 16, 16))
    theirs = pipe(**asked, latents=noise, num_inference_steps=8, output_type="np").images[0]
    words = ("--negative", "a green car", "--guidance", 4, "--seed", 7, "--steps", 8, "--grid", "trailing")
    for model in ("icons", folder):
        assert run(capsys, "generate", "a red apple", "--model", model, *words, "-o", out)[0] == 0
        assert psnr(np.asarray(PIL.Image.open(out)) / 255, theirs) >= 45


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "kind"), [("sd1", "StableDiffusionPipeline"), ("sdxl", "StableDiffusionXLPipeline")]
)
def test_diffusers_draws_a_written_folder_as_we_do(name: str, kind: str, tmp_path: Path) -> None:
    """DDIM as the folder's scheduler has it, both from the same latents."""
    import diffusers

    theirs = written_by_diffusers(name, tmp_path / "theirs")
    convert(str(theirs.folder), tmp_path / "ours", dtype="float32")
    pipe: Any = getattr(diffusers, kind).from_pretrained(tmp_path / "ours", torch_dtype=torch.float32)
    pipe.scheduler = diffusers.DDIMScheduler.from_pretrained(theirs.folder / "scheduler", clip_sample=False)
    pipe.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 6, "guidance_scale": 3.0, "output_type": "latent"}
    noise = PictureNoise([5])(torch.zeros(1, 4, 12, 16))
    schedule = theirs.config.schedule.build()
    studio = calotype.load(str(tmp_path / "ours"))
    (picture,) = studio.pictures(
        "a red apple", seed=5, steps=6, guidance=3.0, width=32, height=24, sampler="ddim", grid="leading"
    )
    # They begin at unit variance and end with pictures scaled as the schedule's first level.
    first = float(schedule.sigma_at(torch.tensor(5 * (1000 // 6) + 1.0)))
    begun = noise * first / (1 + first**2) ** 0.5
    wanted = pipe("a red apple", latents=begun, width=32, height=24, **options).images[0]
    found = picture.latents / (1 + schedule.sigma_min**2) ** 0.5
    assert float((found - wanted).abs().max() / wanted.abs().max()) <= 2e-5


@pytest.mark.parametrize(
    "name",
    [
        "sd1",
        "lcm",
        "sdxl",
        *(pytest.param(name, marks=pytest.mark.verify) for name in ("sd1-inpainting", "sdxl-refiner")),
    ],
)
def test_pictures_from_folder_file_and_command(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = build(CONFIGS[name], TOKENIZER, seed=1)
    folder, file = tmp_path / "folder", tmp_path / "file.safetensors"
    diffusers_writer.write(folder, model, None, {})
    single_file.write(file, model, None, {})
    options = ("--size", "24x16", "--steps", 2, "--seed", 3, "--sampler", "euler", "--grid", "karras")
    pictures = []
    for source in (folder, file):
        out = tmp_path / f"{source.name}.png"
        code, _, err = run(capsys, "generate", "a red apple", "--model", source, *options, "-o", out)
        assert (code, err) == (0, "")
        pictures.append(out.read_bytes()[-200:])
        code, told, _ = run(capsys, "replay", out)
        assert (code, "identical" in told) == (0, True)
    assert pictures[0] == pictures[1]
    code, _, err = run(capsys, "replay", out, "--prediction", "v")
    assert code != 0
    assert "made with other weights" in err


def test_an_upscaler_draws_nothing_from_words(tmp_path: Path) -> None:
    path = tmp_path / "upscaler.safetensors"
    single_file.write(path, build(CONFIGS["sd-upscaler"], TOKENIZER), None, {})
    with pytest.raises(InputError, match="enlarges a picture and draws none from words alone"):
        calotype.load(str(path)).generate("a red apple", steps=1)


def test_lcms_features_of_the_guidance_scale() -> None:
    from diffusers import LatentConsistencyModelPipeline

    wanted = LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, torch.tensor([6.5]), 32)
    torch.testing.assert_close(
        guidance_features(7.5, 32), wanted, rtol=0, atol=1e-3
    )  # angles of thousands, in float32


def test_precision_is_changed_only_where_asked(tmp_path: Path) -> None:
    model = build(CONFIGS["sd1"], TOKENIZER, seed=1)
    source, target = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    single_file.write(source, model, torch.float16, {})
    convert(str(source), target)
    assert_same(shelf.load(source, dtype=None), shelf.load(target, dtype=None))
    convert(str(source), target, dtype="bfloat16")
    assert {value.dtype for value in tensors(shelf.load(target, dtype=None)).values()} == {torch.bfloat16}
    convert(str(source), target, prediction="v")
    assert shelf.recognise(target).config.parameterization == "v"


def test_what_cannot_be_written_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "a.safetensors"
    config = CONFIGS["sd1"]
    native.save(source, build(config, TOKENIZER))
    for target, options, error, sentence in (
        ("b.safetensors", {"dtype": "int8"}, InputError, "dtype is 'int8'"),
        ("b.safetensors", {"format": "onnx"}, InputError, "format is 'onnx'"),
        ("b", {"format": "native"}, InputError, r"should end in \.safetensors"),
        ("a.safetensors", {}, OutputError, "is there already"),
        ("nowhere/b.safetensors", {}, OutputError, "cannot be written"),
        ("b.safetensors", {"prediction": "v"}, InputError, "says what it predicts"),
    ):
        with pytest.raises(error, match=sentence):
            convert(str(source), tmp_path / target, **options)  # type: ignore[arg-type]
    flow = replace(config, parameterization="flow", schedule=replace(config.schedule, kind="flow"))
    pixels = replace(config, autoencoder=None, unet=replace(config.unet, in_channels=3, out_channels=3))
    early = replace(config, text=(replace(config.text[0], final_norm=False),))
    for changed, sentence in (
        (flow, "trained as flow"),
        (pixels, "has no autoencoder"),
        (early, "reads its text otherwise"),
    ):
        native.save(source, build(changed, TOKENIZER))
        with pytest.raises(CheckpointError, match=sentence):
            convert(str(source), tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
    code, out, err = run(capsys, "convert", "icons", tmp_path / "c.safetensors", "--format", "native")
    assert (code, out, err) == (0, f"{tmp_path / 'c.safetensors'} (native)\n", "")
