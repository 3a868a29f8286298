"""Private training: every picture's gradient, its length, the noise, the accounting, what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from tests.training.conftest import COLOURS, SHAPES, draw_shape
from typer.testing import CliRunner

from calotype.checkpoints import native
from calotype.cli.main import app
from calotype.errors import InputError, TrainingError
from calotype.models.latent_diffusion import build
from calotype.models.presets import tiny
from calotype.training.config import DiffusionTraining
from calotype.training.denoising import DiffusionObjective
from calotype.training.prepared import Captions, Examples, Pixels
from calotype.training.private import KEY, PoissonOrder, Private


def options(**changes: object) -> DiffusionTraining:
    plain: dict[str, object] = {"steps": 4, "batch": 6, "precision": "float32", "epsilon": 8.0, "delta": 1e-2}
    return DiffusionTraining(**(plain | changes))  # type: ignore[arg-type]


@pytest.fixture
def objective() -> DiffusionObjective:
    """A U-Net with every kind of layer that trains, its zero branches filled."""
    config = tiny().of_classes(("a", "b"))
    unet = dataclasses.replace(config.unet, in_channels=3, out_channels=3)
    model = build(dataclasses.replace(config, autoencoder=None, unet=unet), None, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.denoiser.parameters():
            value += 0.05 * torch.randn(value.shape, generator=generator)
    pictures = torch.randint(0, 256, (12, 3, 8, 8), generator=generator, dtype=torch.uint8)
    captions = Captions([()] * 12, model.text_encoder)
    examples = Examples(Pixels(pictures), captions, torch.arange(12) % 2)
    made = DiffusionObjective(options(), model, examples, None)
    return made.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def clipped_sum(
    objective: DiffusionObjective, batch: dict[str, torch.Tensor], length: float
) -> dict[str, torch.Tensor]:
    """The closed form: each picture alone through plain autograd, its gradient cut to `length`, summed."""
    sums = {name: torch.zeros_like(p) for name, p in objective.named_parameters() if p.requires_grad}
    for row in range(len(batch["sigma"])):
        objective.zero_grad()
        objective(**{name: value[row : row + 1] for name, value in batch.items()})["loss"].backward()
        found = {name: p.grad for name, p in objective.named_parameters() if name in sums}
        norm = torch.cat([g.flatten() for g in found.values() if g is not None]).norm()
        for name, value in found.items():
            assert value is not None
            sums[name] += value * min(1.0, length / float(norm))
    objective.zero_grad()
    return sums


@pytest.mark.verify
def test_no_layer_goes_the_long_way_of_working_twice(objective: DiffusionObjective, tmp_path: Path) -> None:
    private = Private(options(), 12, tmp_path, resume=False)
    private.attach(objective, torch.optim.SGD(objective.parameters(), lr=1.0))
    twice = [name for name, layer in objective.named_modules() if hasattr(layer, "ft_compute_sample_grad")]
    assert not twice


@pytest.mark.verify
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_gradient_is_the_clipped_sum_and_noise_of_its_size(
    objective: DiffusionObjective, tmp_path: Path, accumulate: int
) -> None:
    objective.train()
    config = options(clip=0.5, accumulate=accumulate)
    batch = objective.batch(torch.arange(5), 0, slice(None))
    expected = clipped_sum(objective, batch, 0.5)
    private = Private(config, 12, tmp_path, resume=False)
    optimizer = torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], lr=1.0)
    private.attach(objective, optimizer)
    noise = []
    for step in (0, 1):
        private.gradient(objective, batch, step)
        for name, parameter in objective.named_parameters():
            if name in expected:
                assert parameter.grad is not None
                noise.append((parameter.grad * config.batch - expected[name]).flatten())
    first, second = torch.cat(noise).chunk(2)
    scale = private.noise * 0.5
    assert float(first.std()) == pytest.approx(scale, rel=0.05)
    assert float(torch.corrcoef(torch.stack([first, second]))[0, 1]) == pytest.approx(0, abs=0.05)
    # the noise itself hides small errors: without it the sum must be the closed form to float32's digits
    private._optimizer.noise_multiplier = 0.0
    parts = private.gradient(objective, batch, 2)
    assert float(parts["loss"]) == pytest.approx(float(objective(**batch)["loss"].detach()), rel=1e-5)
    for name, parameter in objective.named_parameters():
        if name in expected:
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad * config.batch, expected[name], rtol=1e-4, atol=1e-5)


def test_an_empty_batch_is_noise_alone(objective: DiffusionObjective, tmp_path: Path) -> None:
    objective.train()
    private = Private(options(), 12, tmp_path, resume=False)
    optimizer = torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], lr=1.0)
    private.attach(objective, optimizer)
    empty = objective.batch(torch.arange(0), 0, slice(None))
    assert float(private.gradient(objective, empty, 0)["loss"]) == 0
    found = torch.cat([p.grad.flatten() for p in optimizer.param_groups[0]["params"]])
    assert float(found.std()) * 6 == pytest.approx(private.noise * private.config.clip, rel=0.05)


def test_every_picture_comes_with_the_same_chance() -> None:
    order = PoissonOrder(50, 10, "key")
    seen = torch.zeros(50)
    sizes = []
    for step in range(600):
        rows = order.indices(step)
        seen[rows] += 1
        sizes.append(len(rows))
    assert float(seen.mean()) / 600 == pytest.approx(0.2, rel=0.03)
    assert float(seen.std()) == pytest.approx((600 * 0.2 * 0.8) ** 0.5, rel=0.4)
    assert float(torch.tensor(sizes).float().var()) == pytest.approx(50 * 0.2 * 0.8, rel=0.2)
    assert order.indices(3).tolist() == PoissonOrder(50, 10, "key").indices(3).tolist()
    assert order.indices(3).tolist() != PoissonOrder(50, 10, "other").indices(3).tolist()


def test_the_budget_is_kept_and_less_is_spent_by_fewer_updates(tmp_path: Path) -> None:
    private = Private(options(steps=200, batch=60, delta=1e-5), 6000, tmp_path, resume=False)
    whole, half = private.spent(200)["epsilon"], private.spent(100)["epsilon"]
    assert 7.9 < whole <= 8
    assert 0 < half < whole
    assert private.spent(0)["epsilon"] == 0
    stricter = Private(options(steps=200, batch=60, delta=1e-5, epsilon=2.0), 6000, tmp_path, resume=False)
    assert stricter.noise > private.noise


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classes")
    for shape in SHAPES:
        (folder / shape).mkdir()
        for colour in COLOURS:
            draw_shape(colour, shape, 0, 16).save(folder / shape / f"{colour}.png")
    return folder


SETTINGS = ["steps=3", "image_size=16", "batch=6", "delta=0.01", "precision=float32", "checkpoint_every=1"]


def run(folder: Path, out: Path, *more: str) -> object:
    settings = [part for option in SETTINGS for part in ("--set", option)]
    arguments = ["train", "diffusion", str(folder), "--labels", "--pixels", "--model", "tiny"]
    done = CliRunner().invoke(app, [*arguments, "--dp-epsilon", "8", *settings, "--out", str(out), *more])
    return done.exception


@pytest.mark.verify
def test_a_private_run_says_what_it_keeps_and_goes_on_to_the_bit(classes: Path, tmp_path: Path) -> None:
    assert run(classes, tmp_path / "whole") is None
    report = json.loads((tmp_path / "whole/report.json").read_text())
    assert 0 < report["privacy"]["epsilon"] <= 8
    assert report["privacy"]["updates"] == 3
    assert f"epsilon {report['privacy']['epsilon']}" in (tmp_path / "whole/report.md").read_text()
    info = native.describe(tmp_path / "whole/model.safetensors")
    assert info.recipe["privacy"] == report["privacy"]
    key = (tmp_path / "whole" / KEY).read_text()
    assert (tmp_path / "whole" / KEY).stat().st_mode & 0o077 == 0
    for made in (tmp_path / "whole").rglob("*"):
        assert not made.is_file() or made.name == KEY or key.encode() not in made.read_bytes()
    # again from its second step, with the same key: the same weights
    whole = native.load(tmp_path / "whole/model.safetensors").weights_hash
    (tmp_path / "whole/checkpoints/step-00000003.safetensors").unlink()
    assert run(classes, tmp_path / "whole", "--resume") is None
    assert native.load(tmp_path / "whole/model.safetensors").weights_hash == whole
    (tmp_path / "whole" / KEY).unlink()
    assert isinstance(lost := run(classes, tmp_path / "whole", "--resume"), TrainingError)
    assert "which a private run needs to go on" in str(lost)


def test_what_cannot_be_private_is_refused(classes: Path, shapes: Path, tmp_path: Path) -> None:
    for more, words in (
        (("--set", "delta=0.1"), "give less than 1 in as many"),
        (("--set", "batch=600"), "but there are 12 pictures"),
        (("--set", "recompute=true"), "which recompute undoes"),
        (("--set", "balance.x=2"), "leave balance out"),
        (("--set", "delta=2"), "delta is 2.0; give a chance"),
    ):
        assert isinstance(refused := run(classes, tmp_path / "run", *more), InputError)
        assert words in str(refused)
    arguments = ["train", "diffusion", str(shapes), "--pixels", "--model", "tiny", "--dp-epsilon", "8"]
    done = CliRunner().invoke(app, [*arguments, "--set", "delta=0.01", "--out", str(tmp_path / "run")])
    assert isinstance(done.exception, InputError)
    assert "trains the denoiser alone" in str(done.exception)
