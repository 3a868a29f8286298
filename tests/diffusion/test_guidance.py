from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from oracle import Mixture
from torch import Tensor

from calotype.diffusion.guidance import Apg, guided
from calotype.diffusion.noise import PictureNoise
from calotype.errors import InputError

MIXTURES = [Mixture.example(2, 5, 7), Mixture(torch.full((1, 2, 5, 7), 0.7), [0.4], [1.0])]


@dataclass(frozen=True)
class Which:
    """A condition: which mixture each row is drawn from."""

    rows: tuple[int, ...]
    length: int = 77

    @staticmethod
    def cat(parts: "Sequence[Which]") -> "Which":
        return Which(sum((part.rows for part in parts), ()))

    def joins(self, other: "Which") -> bool:
        return self.length == other.length


class Model:
    """Exact denoisers of both mixtures, row by row; it remembers the size of every batch."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, x: Tensor, sigma: Tensor, condition: Which) -> Tensor:
        assert len(x) == len(sigma) == len(condition.rows)
        self.batches.append(len(x))
        rows = [
            MIXTURES[which].denoise(x[i : i + 1], sigma[i : i + 1]) for i, which in enumerate(condition.rows)
        ]
        return torch.cat(rows).to(x.dtype)


X = 2 * PictureNoise([1, 2, 3])(torch.zeros(3, 2, 5, 7)).double()
SIGMA = torch.full((3,), 1.3, dtype=torch.float64)
TOWARD, AWAY = Which((1, 1, 1)), Which((0, 0, 0))
D_TOWARD, D_AWAY = MIXTURES[1].denoise(X, SIGMA), MIXTURES[0].denoise(X, SIGMA)


def size(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0, 7.5])
def test_both_halves_go_in_one_batch(scale: float) -> None:
    model = Model()
    result = guided(model, (TOWARD, AWAY), scale)(X, SIGMA)
    close(result, D_AWAY + scale * (D_TOWARD - D_AWAY))
    assert model.batches == [6]


def test_halves_that_do_not_join_go_one_after_the_other() -> None:
    model = Model()
    result = guided(model, (TOWARD, Which(AWAY.rows, length=154)), 3.0, rescale=0.5)(X, SIGMA)
    assert model.batches == [3, 3]
    close(result, guided(Model(), (TOWARD, AWAY), 3.0, rescale=0.5)(X, SIGMA))


def test_scale_one_runs_the_condition_alone() -> None:
    model = Model()
    for options in ({}, {"rescale": 0.7}, {"interval": (0.1, 5.0)}, {"apg": Apg()}):
        close(guided(model, (TOWARD, None), 1, **options)(X, SIGMA), D_TOWARD)
    assert model.batches == [3] * 4


def test_scale_needs_something_to_steer_away_from() -> None:
    with pytest.raises(InputError, match="second condition"):
        guided(Model(), (TOWARD, None), 5)


def test_rescaled_has_the_conditional_deviation_of_v() -> None:
    def v(
        denoised: Tensor,
    ) -> Tensor:  # v = (x - D (1 + s^2)) / (s sqrt(1 + s^2)), from D = x / (1 + s^2) - ...
        return (X - (1 + 1.3**2) * denoised) / (1.3 * (1 + 1.3**2) ** 0.5)

    plain = guided(Model(), (TOWARD, AWAY), 7.5)(X, SIGMA)
    result = guided(Model(), (TOWARD, AWAY), 7.5, rescale=1.0)(X, SIGMA)
    close(v(result).flatten(1).std(dim=1), v(D_TOWARD).flatten(1).std(dim=1))
    close(v(result) / size(v(result))[:, None, None, None], v(plain) / size(v(plain))[:, None, None, None])
    # and part of the way between the two
    close(guided(Model(), (TOWARD, AWAY), 7.5, rescale=0.7)(X, SIGMA), 0.7 * result + 0.3 * plain)


def test_interval() -> None:
    model = Model()
    denoiser = guided(model, (TOWARD, AWAY), 4.0, interval=(0.5, 1.3))
    close(denoiser(X, SIGMA), D_AWAY + 4 * (D_TOWARD - D_AWAY))  # the upper end belongs to it
    for level in (0.2, 0.5, 1.4):
        sigma = torch.full_like(SIGMA, level)
        close(denoiser(X, sigma), MIXTURES[1].denoise(X, sigma))
    assert model.batches == [6, 3, 3, 3]
    mixed = torch.tensor([0.2, 1.0, 9.0], dtype=torch.float64)
    alone, both = MIXTURES[1].denoise(X, mixed), MIXTURES[0].denoise(X, mixed)
    result = denoiser(X, mixed)
    close(result[[0, 2]], alone[[0, 2]])
    close(result[1], both[1] + 4 * (alone[1] - both[1]))


def test_apg_without_its_parts_is_classifier_free() -> None:
    plain = guided(Model(), (TOWARD, AWAY), 4.0)(X, SIGMA)
    close(guided(Model(), (TOWARD, AWAY), 4.0, apg=Apg(parallel=1.0, momentum=0.0))(X, SIGMA), plain)


def test_apg_moves_across_the_picture_not_along_it() -> None:
    result = guided(Model(), (TOWARD, AWAY), 4.0, apg=Apg(momentum=0.0))(X, SIGMA)
    moved = result - D_TOWARD
    close((moved * D_TOWARD).flatten(1).sum(1), torch.zeros(3, dtype=torch.float64))
    # what was taken away lies along the picture
    taken = 3 * (D_TOWARD - D_AWAY) - moved
    close((taken * D_TOWARD).flatten(1).sum(1).abs(), size(taken) * size(D_TOWARD))
    half = guided(Model(), (TOWARD, AWAY), 4.0, apg=Apg(parallel=0.5, momentum=0.0))(X, SIGMA)
    close(half, result + 0.5 * taken)


def test_apg_limits_the_direction() -> None:
    lengths = size(D_TOWARD - D_AWAY)
    limit = float(lengths.median())
    apg = Apg(parallel=1.0, momentum=0.0, threshold=limit)
    moved = guided(Model(), (TOWARD, AWAY), 2.0, apg=apg)(X, SIGMA) - D_TOWARD
    close(size(moved), lengths.clamp(max=limit))


def test_apg_momentum_remembers() -> None:
    denoiser = guided(Model(), (TOWARD, AWAY), 2.0, apg=Apg(parallel=1.0, momentum=-0.5))
    direction = D_TOWARD - D_AWAY
    close(denoiser(X, SIGMA) - D_TOWARD, direction)
    close(denoiser(X, SIGMA) - D_TOWARD, 0.5 * direction)
    close(denoiser(X, SIGMA) - D_TOWARD, 0.75 * direction)


@pytest.mark.parametrize(
    "options", [{}, {"rescale": 0.7}, {"apg": Apg(threshold=1.0)}, {"interval": (0.1, 5.0)}]
)
def test_a_row_does_not_depend_on_its_batch(options) -> None:
    x, sigma = X.float(), SIGMA.float()
    together = guided(Model(), (TOWARD, AWAY), 4.0, **options)(x, sigma)
    for i in range(3):
        alone = guided(Model(), (Which((1,)), Which((0,))), 4.0, **options)(x[i : i + 1], sigma[:1])
        assert torch.equal(alone[0], together[i])
    order = [2, 0, 1]
    assert torch.equal(guided(Model(), (TOWARD, AWAY), 4.0, **options)(x[order], sigma), together[order])
