"""The shipped network, and the same network saying the same thing in other words, are each seen through."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from calotype.checkpoints import shelf
from calotype.diffusion.parameterization import expand
from calotype.errors import CheckpointError, InputError
from calotype.models.latent_diffusion import LatentDiffusion
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
