"""Pictures of unlike shapes: how they are grouped, read and ordered, and that runs on them are exact."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from calotype.errors import InputError
from calotype.models.presets import icons, tiny
from calotype.training.config import PixelTraining, TextTraining, TrainConfig, override
from calotype.training.fit import Plan, Run
from calotype.training.recipes import tiny_autoencoder, tiny_diffusion
from calotype.training.sessions import (
    DataSet,
    picture_shapes,
    prepare_autoencoder,
    prepare_diffusion,
    read_data,
)
from calotype.training.shapes import Grouped, ShapeOrder, batches_of, grouped, nearest, shapes_of

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard.*")

SETTINGS = ("precision=float32", "steps=8", "aspect=2", "evaluate_every=4", "sample_every=8")


def silent(what: str, done: int, total: int) -> None:
    del what, done, total


def test_shapes_are_of_about_one_area() -> None:
    shapes = shapes_of(128, 32, 2.0)
    assert shapes == ((128, 128), (96, 160), (160, 96))
    assert shapes_of(128, 32, 1.0) == ((128, 128),)
    for size, unit, aspect in ((512, 64, 2.0), (1024, 64, 4.0)):
        found = shapes_of(size, unit, aspect)
        assert found[0] == (size, size)
        assert len(found) > 4
        for height, width in found:
            assert height % unit == width % unit == 0
            assert 0.75 * size * size <= height * width <= size * size
            assert max(height / width, width / height) <= aspect
            assert (width, height) in found
    assert picture_shapes(override(TrainConfig(), ["aspect=2"]), icons()) == shapes
    assert picture_shapes(TrainConfig(), icons()) == ()


def test_a_picture_goes_where_least_of_it_is_cut_off() -> None:
    choose = nearest(shapes_of(128, 32, 2.0))
    assert choose(1000, 1010) == (128, 128)
    assert choose(1600, 900) == (96, 160)
    assert choose(300, 900) == (160, 96)


def test_rows_of_groups_are_rows_of_the_whole() -> None:
    pictures = [np.full((2, 4, 3) if i % 3 else (3, 3, 3), i, np.uint8) for i in range(7)]
    rows = grouped(pictures, ((3, 3), (2, 4), (4, 2)))
    assert len(rows) == 7
    assert [tuple(group.shape) for group in rows.groups] == [(3, 3, 3, 3), (4, 3, 2, 4)]
    assert rows[torch.tensor([5, 1])][:, 0, 0, 0].tolist() == [5, 1]
    assert rows[torch.tensor([6, 0, 3])][:, 0, 0, 0].tolist() == [6, 0, 3]
    assert [int(part[0, 0, 0, 0]) for part in rows.split(2)] == [0, 6, 1, 4]
    assert sorted(torch.cat(batches_of(rows, 100)).tolist()) == list(range(7))
    doubled = rows.with_groups([group.float() * 2 for group in rows.groups])
    assert doubled[torch.tensor([2, 4])][:, 0, 0, 0].tolist() == [4, 8]


@pytest.mark.parametrize("weights", [None, np.linspace(0.2, 3, 50)])
def test_every_batch_is_of_one_shape_and_nothing_is_left_out(weights: Any) -> None:
    group = torch.tensor([0] * 31 + [1] * 17 + [2] * 2)
    order = ShapeOrder(group, 4, 7, weights)
    ahead = [order.indices(step) for step in range(200)]
    for batch in ahead:
        assert len(batch) == 4
        assert len(set(group[batch].tolist())) == 1
    drawn = np.bincount(torch.cat(ahead[: len(order.batches(0))]).numpy(), minlength=50)
    epoch = np.bincount(order.epoch(0), minlength=50)
    if weights is None:
        assert (drawn >= 1).all()
    assert (drawn >= epoch).all(), "an epoch's pictures are all seen"
    # anything may be asked for in any order, by a run that has just begun
    fresh = ShapeOrder(group, 4, 7, weights)
    for step in (150, 3, 199, 0):
        assert torch.equal(fresh.indices(step), ahead[step])
    assert not torch.equal(ShapeOrder(group, 4, 8, weights).indices(0), ahead[0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighteen pictures, wide, high and square; a bar of their colour marks each one's left end."""
    place = tmp_path_factory.mktemp("unlike")
    lines = []
    for i in range(18):
        size = ((64, 40), (40, 64), (50, 50))[i % 3]
        picture = Image.new("RGB", size, "white")
        picture.paste((200, 10 * i, 0), (0, 0, 8, size[1]))
        picture.save(place / f"{i:02}.png")
        split = "validation" if i in (3, 4, 5, 6) else "train"
        lines.append(json.dumps({"file_name": f"{i:02}.png", "text": f"bar {i}", "split": split}))
    (place / "metadata.jsonl").write_text("\n".join(lines))
    return place


@pytest.fixture(scope="module")
def data(folder: Path) -> DataSet:
    shapes = picture_shapes(override(TrainConfig(), ["aspect=2"]), tiny())
    return read_data(folder, 32, strict=True, watch=silent, shapes=shapes)


def test_pictures_keep_their_shape(data: DataSet) -> None:
    assert isinstance(data.pictures, Grouped)
    assert len(data.pictures) == 14
    assert len(data.held_out) == 4
    assert tuple(data.pictures.groups[0].shape[1:]) == (3, 32, 32)
    for row, record in enumerate(data.records):
        number = int(record.path.stem)
        picture = data.pictures[torch.tensor([row])][0]  # (3 H W)
        height, width = picture.shape[1:]
        assert (width > height, width < height) == (number % 3 == 0, number % 3 == 1)
        assert picture[:, height // 2, 0].tolist() == [200, 10 * number, 0], "its left end is not cut off"


def autoencoder(data: DataSet, place: Path, **plan: Any) -> Run:
    config = override(tiny_autoencoder(), list(SETTINGS))
    return prepare_autoencoder(config, tiny(), data, Plan(place, device="cpu", **plan))


def latents(data: DataSet, place: Path, source: Path, **plan: Any) -> Run:
    config = override(tiny_diffusion(), list(SETTINGS))
    return prepare_diffusion(
        config, tiny(), data, Plan(place, device="cpu", **plan), autoencoder=source, watch=silent
    )


def pixels(data: DataSet, place: Path, **plan: Any) -> Run:
    unet = dataclasses.replace(tiny().unet, in_channels=3, out_channels=3)
    model = dataclasses.replace(tiny(), autoencoder=None, unet=unet)
    config = override(tiny_diffusion(), list(SETTINGS))
    return prepare_diffusion(config, model, data, Plan(place, device="cpu", **plan), watch=silent)


@pytest.mark.parametrize(
    "kind",
    ["autoencoder", *(pytest.param(kind, marks=pytest.mark.verify) for kind in ("latents", "pixels"))],
)
def test_a_broken_run_on_several_shapes_ends_with_the_same_bits(
    kind: str, data: DataSet, tiny_file: Path, tmp_path: Path
) -> None:
    def prepare(place: str, **plan: Any) -> Run:
        if kind == "latents":
            return latents(data, tmp_path / place, tiny_file, **plan)
        return (autoencoder if kind == "autoencoder" else pixels)(data, tmp_path / place, **plan)

    def go(run: Run, stop: int = 8) -> None:
        for progress in (steps := run.steps()):
            if progress.report.step == stop < 8:
                steps.close()
        if stop == 8:
            run.finish({})

    go(prepare("whole"))
    go(prepare("broken"), stop=7)  # the checkpoint is of step 5
    go(prepare("broken", resume=True))
    ends = [
        safetensors.torch.load_file(tmp_path / place / "model.safetensors") for place in ("whole", "broken")
    ]
    assert ends[0].keys() == ends[1].keys()
    assert [name for name in ends[0] if not torch.equal(ends[0][name], ends[1][name])] == []
    history = (tmp_path / "whole" / "metrics.jsonl").read_text()
    assert history.count("validation_loss") == 2


@pytest.mark.parametrize("kind", [TextTraining, PixelTraining])
def test_what_knows_squares_only_refuses_other_shapes(kind: type[TrainConfig]) -> None:
    with pytest.raises(InputError, match="aspect is not for"):
        kind(aspect=2)
    with pytest.raises(InputError, match="aspect is 9; give 1 to 4"):
        TrainConfig(aspect=9)
