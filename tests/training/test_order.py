from __future__ import annotations

import numpy as np
import pytest
import torch

from calotype.training.order import BatchOrder, step_generator


def test_every_picture_comes_once_an_epoch() -> None:
    order = BatchOrder(10, 4, seed=3)
    seen = torch.cat([order.indices(step) for step in range(5)])  # two epochs
    assert sorted(seen[:10].tolist()) == list(range(10))
    assert sorted(seen[10:].tolist()) == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist()


def test_a_step_needs_no_step_before_it() -> None:
    forwards = [BatchOrder(7, 3, seed=1).indices(step).tolist() for step in range(9)]
    order = BatchOrder(7, 3, seed=1)
    backwards = [order.indices(step).tolist() for step in reversed(range(9))]
    assert forwards == backwards[::-1]
    assert forwards != [BatchOrder(7, 3, seed=2).indices(step).tolist() for step in range(9)]


def test_a_batch_may_be_larger_than_the_data_set() -> None:
    counts = torch.bincount(BatchOrder(2, 6, seed=0).indices(0), minlength=2)
    assert counts.tolist() == [3, 3]


def test_weights_set_how_often_a_picture_comes() -> None:
    weights = np.array([4.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0])
    order = BatchOrder(8, 8, seed=5, weights=weights)
    counts = sum(torch.bincount(order.indices(step), minlength=8) for step in range(200))
    shares = counts / counts.sum()
    assert shares.tolist() == pytest.approx((weights / weights.sum()).tolist(), abs=0.02)
    for step in range(20):  # within one of the expected number, every epoch
        counts = torch.bincount(order.indices(step), minlength=8)
        assert ((counts - torch.from_numpy(8 * weights / weights.sum())).abs() < 1).all()


def test_random_numbers_belong_to_seed_step_and_purpose() -> None:
    def draw(*key: object) -> list[float]:
        return torch.rand(3, generator=step_generator(*key)).tolist()  # type: ignore[arg-type]

    assert draw(1, 5, "a") == draw(1, 5, "a")
    assert len({tuple(draw(*key)) for key in [(1, 5, "a"), (2, 5, "a"), (1, 6, "a"), (1, 5, "b")]}) == 4
