"""The noise other programs draw from a seed, so that a seed known from them gives the picture known.

Both sources fill a picture (C H W) in the order of memory: unlike `PictureNoise`, another size is another
noise.  Both keep one stream per picture, so that a picture's noise is the same alone and in a batch.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Generator, Tensor

from calotype.diffusion.noise import NoiseSource, PictureNoise, philox, picture_keys
from calotype.errors import InputError

# CUDA's float constants (curand_normal.h): 2^-32, and that times 2 pi in single precision.
_TO_UNIT = float(np.float32(2.3283064e-10))
_TO_ANGLE = float(np.float32(2.3283064e-10 * 6.2831855))


class TorchNoise:
    """PyTorch's CPU generator, one a picture.

    So diffusers draws one picture, and many with a list of generators.  ComfyUI draws a batch from one
    generator: its first picture is the same, the others are not.  The generator reads the lower 32 bits of
    a seed.  Float32 whatever the networks' type; later draws go on in the same generators.

    Raises:
        InputError: a seed is not in [0, 2**64); later, a batch of another length than `seeds`.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        picture_keys(seeds)
        self._generators = [Generator("cpu").manual_seed(seed) for seed in seeds]

    def __call__(self, x: Tensor, /) -> Tensor:
        _check_batch(x, len(self._generators))
        rows = [torch.randn(x.shape[1:], generator=generator) for generator in self._generators]
        return torch.stack(rows).to(x.device, x.dtype)  # B x (C H W) -> (B C H W)


class CudaNoise:
    """PyTorch's generator on a CUDA device, made on the CPU: "NV" in AUTOMATIC1111's web UI.

    Philox4x32-10 keyed by the seed; counter (draw, 0, number in the picture, 0); of its four words the first
    two make one number, by the sine of Box and Muller.  That is what a CUDA device draws as long as it runs
    a thread for every number, but for the last bits, in which its single-precision functions differ.

    Raises:
        InputError: a seed is not in [0, 2**64); later, a batch of another length than `seeds`.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._keys = picture_keys(seeds)
        self._draw = 0

    def __call__(self, x: Tensor, /) -> Tensor:
        _check_batch(x, len(self._keys[0]))
        zero, draw = np.zeros(1, np.uint64), np.full(1, self._draw, np.uint64)
        place = np.arange(x[0].numel(), dtype=np.uint64)  # (C*H*W)
        first, second, _, _ = philox((draw, zero, place, zero), [word[:, None] for word in self._keys])
        self._draw += 1
        radius = np.sqrt(-2.0 * np.log(first * _TO_UNIT + _TO_UNIT / 2))
        noise = radius * np.sin(second * _TO_ANGLE + _TO_ANGLE / 2)
        return torch.from_numpy(noise.astype(np.float32)).reshape(x.shape).to(x.device, x.dtype)


def _check_batch(x: Tensor, seeds: int) -> None:
    if len(x) != seeds:
        raise InputError(f"A batch of {len(x)} needs {len(x)} seeds, not {seeds}.")


NOISES: dict[str, Callable[[Sequence[int]], NoiseSource]] = {
    "calotype": PictureNoise,
    "torch": TorchNoise,
    "philox": CudaNoise,
}
