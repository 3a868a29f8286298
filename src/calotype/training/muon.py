"""Muon (Jordan et al. 2024): momentum made orthogonal for matrices and kernels, AdamW for the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from calotype.training.sharding import alike, whole

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic that takes singular values near 1 in few rounds."""
ROUNDS = 5
RMS = 0.2
"""Root mean square of an update at rate 1, about AdamW's (Liu et al. 2025, arXiv 2502.16982, eq. 4):
with it, both share one learning rate and one weight decay."""


class Muon(torch.optim.Optimizer):
    """`matrices` by Muon, the groups of `adamw` by AdamW; one learning rate in every group.

    A kernel (O I h w) counts as a matrix (O, I*h*w).  Updates are computed in `dtype`; bf16 is enough.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        adamw: torch.optim.AdamW,
        *,
        momentum: float,
        weight_decay: float,
        dtype: torch.dtype,
    ) -> None:
        defaults = {"lr": adamw.defaults["lr"], "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(matrices, defaults)
        self._adamw, self._dtype = adamw, dtype
        adamw.state = self.state  # one state for whoever saves or loads it
        self.param_groups += adamw.param_groups

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Updates every parameter that has a gradient; `closure` is not supported."""
        assert closure is None
        group: dict[str, Any] = self.param_groups[0]
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
            nesterov = parameter.grad.lerp(state["momentum"], group["momentum"])
            matrix = whole(nesterov).flatten(1)  # (O I h w) -> (O I*h*w)
            update = orthogonal(matrix, self._dtype).view(nesterov.shape)  # (O I*h*w) -> (O I h w)
            update = alike(update, parameter)
            scale = RMS * max(matrix.shape) ** 0.5
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(update, alpha=-group["lr"] * scale)
        self._adamw.step()


def orthogonal(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearest matrix (M N) with singular values about 1, by Newton-Schulz rounds in `dtype`."""
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix / (matrix.norm() + 1e-7)).to(dtype)
    x = x.mT if tall else x  # fewer rows than columns, so that the product below is small
    for _ in range(ROUNDS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    y: Tensor = (x.mT if tall else x).to(matrix.dtype)
    return y
