"""The shipped network, and the same network saying the same thing in other words, are each seen through."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.checkpoints.families import CONFIGS, TOKENIZER
from torch import Tensor, nn

from calotype.checkpoints import shelf, single_file
from calotype.cli import main as cli
from calotype.diffusion.parameterization import expand
from calotype.errors import CheckpointError, InputError
from calotype.models.latent_diffusion import LatentDiffusion, build
from calotype.tasks import probe as room
from calotype.tasks.probe import Answer, probe


@pytest.fixture(scope="module")
def icons() -> LatentDiffusion:
    return shelf.load(shelf.find("icons"))


class Retold(nn.Module):
    """A v network whose output is turned into that of a network trained for eps or x0."""

    def __init__(self, model: LatentDiffusion, kind: str) -> None:
        super().__init__()
        self.network, self.schedule, self.kind = model.denoiser.network, model.denoiser.schedule, kind

    def forward(self, x: Tensor, steps: Tensor, context: Tensor, **more: Tensor) -> Tensor:
        v = self.network(x, steps, context, **more)
        sigma = expand(self.schedule.sigma_at(steps).float(), x)
        shrink = (1 + sigma**2).rsqrt()  # x is shrunk by it too
        return shrink * v + sigma * shrink * x if self.kind == "eps" else shrink * x - sigma * shrink * v


@pytest.fixture
def retold(icons: LatentDiffusion) -> Iterator[LatentDiffusion]:
    network = icons.denoiser.network
    yield icons
    icons.denoiser.network = network


def test_a_trained_network_tells(retold: LatentDiffusion) -> None:
    assert retold.config.parameterization == "v"
    assert probe(retold).required(retold) == "v"
    original = retold.denoiser.network
    for kind in ("eps", "x0"):
        retold.denoiser.network = original
        retold.denoiser.network = Retold(retold, kind)  # type: ignore[assignment]
        assert probe(retold).required(retold) == kind


class Oracle(nn.Module):
    """The best answer for pictures c * white with c ~ N(0, 1), in closed form, in the words of `kind`.

    Posterior mean of c from seen = c white + sigma n:  <seen, white> / (|white|^2 + sigma^2)
    """

    def __init__(self, model: LatentDiffusion, kind: str) -> None:
        super().__init__()
        side = 32 * model.config.factor
        white = model.autoencoder.encode(torch.ones(1, 3, side, side)).mode()
        self.white = nn.Parameter(white, requires_grad=False)  # (1 C h w)
        self.schedule, self.kind = model.denoiser.schedule, kind

    def forward(self, x: Tensor, steps: Tensor, *_: Tensor, **__: Tensor) -> Tensor:
        sigma = expand(self.schedule.sigma_at(steps).float(), x)
        seen = x * (1 + sigma**2).sqrt()
        share = (seen * self.white).sum((1, 2, 3), keepdim=True) / (self.white.square().sum() + sigma**2)
        x0 = share * self.white
        noise = (seen - x0) / sigma
        return {"eps": noise, "v": (noise - sigma * x0) / (1 + sigma**2).sqrt(), "x0": x0}[self.kind]


@pytest.mark.parametrize("kind", ["eps", "v", "x0"])
@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl"])
@torch.no_grad()
def test_models_of_stable_diffusions_shape_tell(name: str, kind: str) -> None:
    """Whatever their file says; the rest of the model is random."""
    model = build(CONFIGS[name], TOKENIZER, seed=1)
    model.denoiser.network = Oracle(model, kind)
    assert probe(model).required(model) == kind


@pytest.mark.parametrize(("name", "kind"), [("sd1", "v"), ("sd2", "eps")])
def test_the_command_line_draws_by_the_probes_answer(
    name: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the default of the family, which is the other one."""
    file, read, asked = tmp_path / "m.safetensors", shelf.load, []
    single_file.write(file, build(CONFIGS[name], TOKENIZER, seed=1), None, {})

    def load(*arguments: object, **more: object) -> LatentDiffusion:
        model = read(*arguments, **more)
        model.denoiser.network = Oracle(model, kind)
        return model

    def recognise(path: Path, prediction: str | None = None, vae: str | None = None) -> object:
        asked.append(prediction)
        return found(path, prediction, vae)

    found = shelf.recognise
    monkeypatch.setattr(shelf, "load", torch.no_grad()(load))
    monkeypatch.setattr(shelf, "recognise", recognise)
    command = ["generate", "a red apple", "--model", file, "--probe", "--steps", 1, "--size", 16, "--seed", 1]
    assert cli.run([str(word) for word in [*command, "-o", tmp_path / "x.png"]]) == 0
    captured = capsys.readouterr()
    assert f"the network of {file} predicts {kind}" in captured.err
    assert asked[-1] == kind
    assert (tmp_path / "x.png").is_file()


def test_an_untrained_one_does_not(tiny_model: LatentDiffusion) -> None:
    answer = probe(tiny_model)
    assert answer.kind is None
    with pytest.raises(CheckpointError, match=r"answers like none of eps, v and x0 .*; say it by"):
        answer.required(tiny_model)


@pytest.mark.parametrize(
    ("shares", "kind"),
    [
        ((1.0, 1.0, 0.0), "eps"),
        ((0.95, 0.8, 0.1), "eps"),
        ((0.07, 0.95, -0.3), "v"),
        ((0.1, 0.7, -0.1), "v"),
        ((0.02, 0.05, 0.9), "x0"),
        ((0.0, 0.0, 0.0), None),
        ((0.5, 0.9, -0.1), None),
        ((0.05, 0.5, 0.3), None),
        ((-1.0, -1.0, 0.0), None),
        ((float("nan"), 0.5, 0.0), None),
    ],
)
def test_answers_between_two_are_none(shares: tuple[float, float, float], kind: str | None) -> None:
    assert room._nearest(shares, 14.6) == kind


def test_other_models_are_not_asked(tiny_model: LatentDiffusion) -> None:
    from dataclasses import replace

    flow = tiny_model.replace(config=replace(tiny_model.config, parameterization="flow"))
    with pytest.raises(InputError, match="is a flow model; leave --probe out"):
        probe(flow)


def test_one_run_of_the_network(icons: LatentDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    forward = icons.denoiser.network.forward
    monkeypatch.setattr(
        icons.denoiser.network, "forward", lambda *a, **k: calls.append(a[0].shape) or forward(*a, **k)
    )
    before = torch.get_rng_state()
    assert isinstance(probe(icons), Answer)
    assert calls == [(2, 16, 16, 16)]
    assert torch.equal(before, torch.get_rng_state())
