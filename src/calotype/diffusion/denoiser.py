"""The one face every network shows: the expected clean picture at a noise level."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from calotype.diffusion.parameterization import Parameterization, expand


class Denoiser(Protocol):
    """x = x0 + sigma * noise (B C H W) and sigma (B) to E[x0 | x] (B C H W).

    Its condition is already bound: this is all that a sampler sees.
    """

    def __call__(self, x: Tensor, sigma: Tensor, /) -> Tensor: ...


def as_denoiser(
    network: Callable[[Tensor, Tensor], Tensor],
    parameterization: Parameterization,
    dtype: torch.dtype | None = None,
) -> Denoiser:
    """The denoiser of a raw network `(input (B C H W), noise_label (B)) -> (B C H W)`.

    Args:
        network: how it was trained is told by `parameterization`.
        dtype: what the network computes in; picture and coefficients are cast only at its door.
    """

    def denoiser(x: Tensor, sigma: Tensor, /) -> Tensor:
        c = parameterization.coefficients(sigma)
        raw = network((expand(c.input, x) * x).to(dtype or x.dtype), c.noise_label)
        return expand(c.skip, x) * x + expand(c.out, x) * raw.to(x.dtype)

    return denoiser
