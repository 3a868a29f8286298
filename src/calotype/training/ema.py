"""Power-function average of the weights (Karras et al., EDM2, arXiv 2312.02696, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from calotype.training.sharding import alike


def exponent_of(length: float) -> float:
    """The exponent gamma whose average has relative width `length` (0 to 0.28), EDM2 eq. 126-127.

    length = sqrt(gamma + 1) / ((gamma + 2) sqrt(gamma + 3)), solved as a cubic.
    """
    t = length**-2
    return float(np.roots([1, 7, 16 - t, 12 - t]).real.max())


class Ema:
    """Average of the parameters that a module trains; `update` weights step t by t**gamma.

    The weight of the newest step is 1 - (1 - 1/t)**(gamma + 1), so the first update copies
    the parameters and nothing of the initial weights stays.
    """

    def __init__(self, module: nn.Module, length: float) -> None:
        self.gamma = exponent_of(length)
        self._live = {name: value for name, value in module.named_parameters() if value.requires_grad}
        self.average = {name: value.detach().clone() for name, value in self._live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the parameters after update number `step`, counted from 1, into the average."""
        newest = 1.0 - (1.0 - 1.0 / step) ** (self.gamma + 1.0)
        torch._foreach_lerp_(list(self.average.values()), [p.detach() for p in self._live.values()], newest)

    @torch.no_grad()
    def load(self, average: Mapping[str, Tensor]) -> None:
        """Take up a stored average, name by name."""
        for name, value in self.average.items():
            value.copy_(alike(average[name], value))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the module holds the averaged weights; afterwards its own, to the bit."""
        kept = {name: value.detach().clone() for name, value in self._live.items()}
        with torch.no_grad():
            for name, value in self._live.items():
                value.copy_(self.average[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in self._live.items():
                    value.copy_(kept[name])
