"""Batches whose pictures do not notice each other.

A CPU's matrix kernels choose their path by the number of rows, and another path rounds otherwise, so that a
picture drawn among others could differ from itself drawn alone.  Which row counts agree depends on machine
and library, and is not written down anywhere.  So it is tried: the first call of a batch is computed both
picture by picture and at once, and only if every bit agrees are the following calls made at once.  Either
way the result is that of each picture alone.
"""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from calotype.conditioning.conditioning import Conditioning
from calotype.models.latent_diffusion import LatentDiffusion, NetworkDenoiser

Model = Callable[[Tensor, Tensor, Conditioning], Tensor]

_agrees: WeakKeyDictionary[NetworkDenoiser, dict[object, bool]] = WeakKeyDictionary()
"""What was found, by network, and by everything that kernels choose their path by."""


def batch_size(model: LatentDiffusion, shape: tuple[int, int, int]) -> int:
    """How many pictures of latents (C h w) to draw at once: as many as make it faster and memory allows."""
    pixels = shape[1] * shape[2]
    # Two cores are busy with some 2,000 latent pixels, halves counted; a GPU wants far more.
    at_once = 2**10 if model.device.type == "cpu" else 2**15
    return max(1, min(64, at_once // pixels))


def steady(model: LatentDiffusion, pictures: int) -> Model:
    """The denoiser for batches of `pictures` pictures, or of as many conditional and unconditional halves.

    All rows must have one noise level, as a sampler's have.
    """

    def denoiser(x: Tensor, sigma: Tensor, condition: Conditioning) -> Tensor:
        model.bring("denoiser")
        # The level is embedded once, not for each row: faster, and the same in a batch of any size.
        result: Tensor = model.denoiser(x, sigma[:1], condition)
        return result

    if pictures == 1 or model.device.type != "cpu":
        return denoiser

    def one_by_one(x: Tensor, sigma: Tensor, condition: Conditioning) -> Tensor:
        result = torch.empty_like(x)
        for i in range(pictures):
            rows = list(range(i, len(x), pictures))  # all first halves come before all second halves
            result[rows] = denoiser(x[rows], sigma[rows], condition.rows(rows))
        return result

    def call(x: Tensor, sigma: Tensor, condition: Conditioning) -> Tensor:
        known = _agrees.setdefault(model.denoiser, {})
        strength = condition.strength  # ControlNets with none are not run
        running = None if strength is None else tuple((strength != 0).flatten().tolist())
        case = (x.shape, condition.sizes(), running, pictures, model.dtype, torch.get_num_threads())
        if case not in known:
            result = one_by_one(x, sigma, condition)
            known[case] = torch.equal(result, denoiser(x, sigma, condition))
            return result
        return denoiser(x, sigma, condition) if known[case] else one_by_one(x, sigma, condition)

    return call
