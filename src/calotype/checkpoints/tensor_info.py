"""What every format of weights says of a tensor, and what none may say."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from calotype.checkpoints.number_type import NumberType
from calotype.errors import CheckpointError, shown

NAME_LIMIT = 1024  # characters


@dataclass(frozen=True)
class TensorInfo:
    shape: tuple[int, ...]
    dtype: NumberType


@dataclass(frozen=True)
class Place:
    """start: the file's byte at which the first element lies; stride in elements."""

    start: int
    stride: tuple[int, ...]


def check_name(name: str, source: object) -> None:
    """Names stand in every sentence about the file: none may be endless or move a terminal's cursor."""
    if len(name) > NAME_LIMIT or not name.isprintable():
        raise CheckpointError(
            f"{source} has a tensor whose name is of {len(name)} characters or cannot be printed, "
            f"{shown(name)}; do not trust it, or save it again with another name."
        )


def span(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Elements from the first to the last, both included."""
    return 1 + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))


def countable(shape: tuple[int, ...]) -> bool:
    """Whether torch can hold such a shape, empty or not, its bytes counted in 63 bits."""
    return len(shape) <= 32 and all(0 <= n < 2**59 for n in shape) and prod(max(n, 1) for n in shape) < 2**59


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(prod(shape[i + 1 :]) for i in range(len(shape)))
