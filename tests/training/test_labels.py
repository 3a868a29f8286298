"""Classes instead of captions: class folders, the label embedding, drawing by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.training.conftest import COLOURS, SHAPES, draw_shape
from typer.testing import CliRunner

from calotype.checkpoints import native
from calotype.cli.main import app
from calotype.conditioning.conditioning import Conditioning
from calotype.errors import InputError
from calotype.tasks.generate import generate
from calotype.tasks.picture import Picture
from calotype.tasks.request import Request


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures in folders by shape."""
    folder = tmp_path_factory.mktemp("classes")
    for shape in SHAPES:
        (folder / shape).mkdir()
        for colour in COLOURS:
            draw_shape(colour, shape, 0, 32).save(folder / shape / f"{colour}.png")
    return folder


@pytest.fixture(scope="module")
def trained(classes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("labelled")
    options = [
        "--labels",
        "--pixels",
        "--set",
        "steps=3",
        "--set",
        "image_size=16",
        "--set",
        "sample_every=3",
    ]
    arguments = ["train", "diffusion", str(classes), "--model", "tiny", "--out", str(out), *options]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    return out


def test_a_model_learns_its_folders_names(trained: Path) -> None:
    model = native.load(trained / "model.safetensors")
    assert model.config.classes == SHAPES
    assert model.config.text == ()
    embedding = model.denoiser.network.class_embedding
    assert embedding is not None
    assert embedding.num_embeddings == len(SHAPES) + 1
    assert (trained / "samples/step-00000003.png").is_file()


def test_classes_are_drawn_by_name_or_number(trained: Path) -> None:
    model = native.load(trained / "model.safetensors")
    # the output begins at zero, and three steps leave it near: make the labels tell
    torch.manual_seed(0)
    torch.nn.init.normal_(model.denoiser.network.leave.weight)
    torch.nn.init.normal_(model.denoiser.network.class_embedding.weight)  # type: ignore[union-attr]

    def pictures(*prompts: str) -> list[Image.Image]:
        request = Request(prompts=prompts, seed=1, steps=2, width=16, height=16, guidance=2.0)
        return [event.image for event in generate(model, request) if isinstance(event, Picture)]

    named, numbered, other = pictures("Square")[0], pictures("1")[0], pictures("circle")[0]
    assert named.tobytes() == numbered.tobytes() != other.tobytes()
    x, sigma = torch.ones(1, 3, 16, 16), torch.ones(1)
    none = model.denoiser(x, sigma, Conditioning(label=torch.tensor([3])))
    assert not torch.equal(none, model.denoiser(x, sigma, Conditioning(label=torch.tensor([1]))))


def test_generate_takes_a_label(trained: Path, tmp_path: Path) -> None:
    arguments = ["--model", str(trained / "model.safetensors"), "--size", "16", "--steps", "2"]
    output = tmp_path / "drawn.png"
    done = CliRunner().invoke(app, ["generate", "--label", "circle", *arguments, "-o", str(output)])
    assert done.exit_code == 0, done.output
    with Image.open(output) as picture:
        assert picture.size == (16, 16)


def test_an_unknown_class_is_named(trained: Path) -> None:
    config = native.load(trained / "model.safetensors").config
    with pytest.raises(InputError, match="knows no 'cirle'; did you mean 'circle'"):
        Request(prompts="cirle").resolved(config)
    with pytest.raises(InputError, match="leave frames and toward out"):
        Request(prompts=("circle", "square"), frames=3).resolved(config)


def test_captioned_pictures_have_no_classes(shapes: Path, tmp_path: Path) -> None:
    arguments = ["train", "diffusion", str(shapes), "--labels", "--pixels", "--model", "tiny"]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "run")])
    assert isinstance(done.exception, InputError)
    assert "not every picture lies in a class folder" in str(done.exception)


def test_weights_of_other_classes_are_refused(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    for name in ("moon", "sun"):
        (folder / name).mkdir(parents=True)
        draw_shape("red", "circle", 0, 16).save(folder / name / "1.png")
    arguments = ["train", "diffusion", str(folder), "--labels", "--pixels", "--model", "tiny"]
    weights = str(trained / "model.safetensors")
    done = CliRunner().invoke(app, [*arguments, "--init-from", weights, "--out", str(tmp_path / "run")])
    assert isinstance(done.exception, InputError)
    assert "draws circle, square, triangle, but the class folders are moon, sun" in str(done.exception)
    assert not (tmp_path / "run").exists()
    assert json.loads((trained / "report.json").read_text())["pictures"] == 12
