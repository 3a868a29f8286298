"""Every family by `calotype generate` alone: inpainting, ControlNet XL, a refiner, few-step schedules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from safetensors.torch import save_file
from tests.checkpoints.families import CONFIGS, TOKENIZER, XL
from tests.networks.reference import randomise

from calotype.checkpoints import diffusers_names, diffusers_writer, single_file
from calotype.cli import main as cli
from calotype.models.latent_diffusion import LatentDiffusion, build
from calotype.networks.config import ControlNetConfig
from calotype.networks.controlnet import ControlNet
from calotype.tasks import picture as files
from calotype.tasks.request import Request

WIDTH, HEIGHT = 48, 32


def model(name: str) -> LatentDiffusion:
    """One whose U-Net says something, as one that is only built does not."""
    made = build(CONFIGS[name], TOKENIZER, seed=1)
    randomise(made.denoiser)
    return made


def verified(*names: str) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.verify) for name in names]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(tmp_path / "image.png")
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[:, : WIDTH // 2] = 255
    PIL.Image.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path


def drawn(
    capsys: pytest.CaptureFixture[str], place: Path, name: str, *arguments: object
) -> tuple[np.ndarray, Request]:
    """The picture's pixels (H W 3) and its request; it is replayed to the bit."""
    out = place / f"{name}.png"
    code = cli.run([str(word) for word in ("generate", "a red apple", "--seed", 3, "-o", out, *arguments)])
    captured = capsys.readouterr()
    assert (code, captured.err, captured.out) == (0, "", f"{out}\n")
    assert cli.run(["replay", str(out)]) == 0
    assert "identical" in capsys.readouterr().out
    image, record = files.read(out)
    return np.asarray(image.convert("RGB")), record.request


@pytest.mark.parametrize("name", ["sd1-inpainting", *verified("sd2-inpainting", "sdxl-inpainting")])
def test_nine_channels(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = place / f"{name}.safetensors"
    single_file.write(file, model(name), None, {})
    asked = ("--model", file, "--steps", 2, "--image", place / "image.png", "--strength", 1)
    half, request = drawn(capsys, place, "half", *asked, "--mask", place / "mask.png")
    assert half.shape == (HEIGHT, WIDTH, 3)
    assert request.mask is not None
    PIL.Image.new("L", (WIDTH, HEIGHT), 255).save(place / "all.png")
    whole, _ = drawn(capsys, place, "whole", *asked, "--mask", place / "all.png")
    image = np.asarray(PIL.Image.open(place / "image.png")).astype(int)
    away = [abs(found[:, -WIDTH // 4 :] - image[:, -WIDTH // 4 :]).mean() for found in (half, whole)]
    assert away[0] < away[1], "what the mask keeps is nearer to the image than what is drawn"
    # without an image a model for inpainting draws all of it
    assert drawn(capsys, place, "free", *asked[:4], "--size", "48x32")[0].shape == (HEIGHT, WIDTH, 3)


@pytest.mark.verify
def test_controlnet_xl(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, net = place / "sdxl.safetensors", place / "net.safetensors"
    single_file.write(file, model("sdxl"), None, {})
    control = ControlNet(ControlNetConfig(XL, hint_channels=(4, 6)))
    randomise(control)
    save_file(diffusers_names.controlnet().write(control.state_dict()), net)
    size = ("--model", file, "--steps", 2, "--size", f"{WIDTH}x{HEIGHT}")
    asked = (*size, "--control", net, "--control-image", place / "image.png", "--control-scale")
    (free, _), (none, _), (full, request) = (
        drawn(capsys, place, "free", *size),
        drawn(capsys, place, "none", *asked, 0),
        drawn(capsys, place, "full", *asked, 1),
    )
    assert np.array_equal(free, none)
    assert not np.array_equal(free, full)
    assert [one.scale for one in request.controls] == [1.0]


@pytest.mark.verify
def test_a_refiner_after_its_base(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("sdxl", "sdxl-refiner"):
        single_file.write(place / f"{name}.safetensors", model(name), None, {})
    base = ("--model", place / "sdxl.safetensors", "--steps", 4, "--size", f"{WIDTH}x{HEIGHT}")
    alone, _ = drawn(capsys, place, "alone", *base)
    both, request = drawn(
        capsys, place, "both", *base, "--refiner", place / "sdxl-refiner.safetensors", "--refiner-at", 0.5
    )
    assert request.refiner_at == 0.5
    assert not np.array_equal(alone, both)


FEW: dict[str, tuple[str, dict[str, Any], tuple[Any, ...]]] = {
    # the family, its scheduler, and what `generate` takes from it: sampler, grid, steps, guidance
    "LCM": ("lcm", {"_class_name": "LCMScheduler"}, ("lcm", "lcm", 4, 8.5)),
    "Turbo": (
        "sdxl",
        {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"},
        ("euler_a", "trailing", 4, 1.0),
    ),
    "Lightning": (
        "sdxl",
        {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"},
        ("euler", "trailing", 4, 1.0),
    ),
}


@pytest.mark.parametrize("kind", ["LCM", *verified("Turbo", "Lightning")])
def test_few_steps_by_the_folders_schedule(
    kind: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, scheduler, wanted = FEW[kind]
    folder = place / "folder"
    diffusers_writer.write(folder, model(name), None, {})
    (folder / "calotype.json").unlink()  # as a stranger's folder has none
    path = folder / "scheduler" / "scheduler_config.json"
    levels = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    path.write_text(json.dumps(scheduler | levels))
    size = ("--model", folder, "--size", f"{WIDTH}x{HEIGHT}")
    plain, request = drawn(capsys, place, "plain", *size)
    assert (request.sampler, request.grid, request.steps, request.guidance) == wanted
    one, request = drawn(capsys, place, "one", *size, "--steps", 1)
    assert request.steps == 1
    assert not np.array_equal(plain, one)
