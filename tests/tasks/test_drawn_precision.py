"""Pictures whose networks compute in 16 bits: about the same, said so in the record, and made again by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from tests.tasks.test_additions import write

import calotype
from calotype.cli.main import run as command
from calotype.models import precision
from calotype.models.latent_diffusion import LatentDiffusion
from calotype.networks import processor
from calotype.tasks import latents, picture
from calotype.tasks.picture import Record


def test_every_task_draws_about_the_same(
    tiny_file: Path, tiny_model: LatentDiffusion, tmp_path: Path
) -> None:
    PIL.Image.radial_gradient("L").convert("RGB").resize((32, 32)).save(tmp_path / "seen.png")
    PIL.Image.linear_gradient("L").resize((32, 32)).save(tmp_path / "mask.png")
    seen, mask, lora = (str(tmp_path / name) for name in ("seen.png", "mask.png", "lora.safetensors"))
    write(Path(lora), tiny_model, 1)
    exact = calotype.load(str(tiny_file))
    short = calotype.load(str(tiny_file), dtype=torch.bfloat16)
    tasks: list[dict[str, object]] = [
        {},
        {"sampler": "dpmpp_2m", "guidance": 1.0},
        {"image": seen, "strength": 0.5},
        {"image": seen, "mask": mask, "strength": 1.0},
        {"hires_from": (16, 16), "width": 32, "height": 32},
        {"loras": [lora]},
        {"loras": [lora], "lora_live": True},
        {"image": seen, "invert": "walk", "was": "a green car"},
        {"wrap": "xy"},
    ]
    for asked in tasks:
        a, b = (s.pictures("a red apple", seed=3, steps=2, **asked)[0] for s in (exact, short))  # type: ignore[arg-type]
        assert b.latents.dtype == torch.float32
        change = (a.latents - b.latents).norm() / a.latents.norm()
        assert 0 < change < 0.05, asked
        assert (a.record.precision, b.record.precision) == ("float32", "bf16")


def test_from_the_command_line(
    tiny_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "x.png"
    words = ["generate", "a red apple", "--model", str(tiny_file), "--steps", "2", "--seed", "7"]
    monkeypatch.setattr(processor, "multiplies_bf16", lambda: False)
    assert command([*words, "--precision", "bf16", "-o", str(out)]) == 0
    assert "bf16 spares memory on this machine, and no time" in capsys.readouterr().err
    image, record = picture.read(out)
    assert record.precision == "bf16"
    assert command(["replay", str(out), "--model", str(tiny_file)]) == 0
    assert "identical" in capsys.readouterr().out
    assert command([*words, "--precision", "float32", "-o", str(tmp_path / "y.png")]) == 0
    exact = picture.read(tmp_path / "y.png")[0]
    assert 0 < np.abs(np.asarray(exact).astype(int) - np.asarray(image).astype(int)).max() < 30
    capsys.readouterr()
    assert command([*words, "--precision", "int8", "-o", str(out)]) == 2
    assert capsys.readouterr().err.strip().endswith("give auto, float32, bf16, fp16.")


def test_kept_latents_are_decoded_as_they_would_have_been(tiny_file: Path, tmp_path: Path) -> None:
    studio = calotype.load(str(tiny_file), dtype=torch.bfloat16)
    (made,) = studio.pictures("a red apple", seed=3, steps=2)
    latents.write(tmp_path / "x.latents.safetensors", made.latents, made.record)
    assert command(["decode", str(tmp_path / "x.latents.safetensors"), "--model", str(tiny_file)]) == 0
    image, record = picture.read(tmp_path / "x.png")
    assert record.precision == "bf16"
    assert image.tobytes() == made.image.tobytes()


def test_the_record(tiny_file: Path) -> None:
    (made,) = calotype.load(str(tiny_file)).pictures("a red apple", seed=3, steps=1)
    assert "precision" not in made.record.to_json()  # as records were before there was a choice
    assert Record.from_json(made.record.to_json()).precision == "float32"


def test_what_nobody_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "multiplies_bf16", lambda: True)
    assert precision.chosen(None, "cpu") == precision.chosen("auto", "cpu") == torch.float32
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert precision.chosen("auto", "cuda") == torch.bfloat16
    assert precision.chosen("fp16", "cuda") == torch.float16
    assert precision.named(torch.float64) == "float64"
