"""SDXL is told the size of the picture it draws (arXiv:2307.01952, section 2.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SizeConfig:
    """The numbers that follow the pooled text in the conditioning vector.

    Six for the base: original height and width, top and left of the crop, target height and width.
    Five for the refiner: the first four and an aesthetic score.

    features   sinusoidal features of each number
    aesthetic  the refiner's five
    """

    features: int = 256
    aesthetic: bool = False

    @property
    def width(self) -> int:
        """How much longer the vector is than the pooled text."""
        return self.features * (5 if self.aesthetic else 6)

    def vector(self, width: int, height: int, *, negative: bool) -> Tensor:
        """(1 P) features of an uncropped picture of that size in pixels.

        `negative` matters to the refiner only, which is steered from a low score, 2.5, to a high one, 6.
        """
        import torch

        from calotype.networks.layers import sinusoids

        numbers: list[float] = [height, width, 0, 0]
        numbers += [2.5 if negative else 6.0] if self.aesthetic else [height, width]
        return sinusoids(torch.tensor(numbers, dtype=torch.float32), self.features).flatten()[None]  # (1 P)
