"""Batches made ahead are those asked for, made once, and their errors come when they are asked for."""

import pytest
import torch

from calotype.training.ahead import Ahead


def test_each_batch_is_made_once_and_in_order() -> None:
    made: list[int] = []

    def make(step: int) -> dict[str, torch.Tensor]:
        made.append(step)
        return {"step": torch.tensor(step)}

    batches = Ahead(make, 7)
    assert [int(batches(step)["step"]) for step in range(3, 7)] == [3, 4, 5, 6]
    assert int(batches(2)["step"]) == 2  # not the next one, as after going back
    batches.close()
    assert made[:4] == [3, 4, 5, 6]
    assert 7 not in made


def test_an_error_waits_until_its_batch_is_asked_for() -> None:
    def make(step: int) -> dict[str, torch.Tensor]:
        if step == 1:
            raise OSError("the disk is gone")
        return {}

    batches = Ahead(make, 3)
    batches(0)
    with pytest.raises(OSError, match="gone"):
        batches(1)
    batches.close()
