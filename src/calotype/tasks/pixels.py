"""Between pictures and latents, whole or window by window."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from calotype.checkpoints import memory
from calotype.diffusion.windows import Windows, mapped
from calotype.models.allocation import give_back
from calotype.models.latent_diffusion import LatentDiffusion
from calotype.networks.narrow import working_dtype
from calotype.tasks.request import ResolvedRequest

LEAST = 16
"""Latents a side of the smallest windows in which a decoder still sees enough around each."""
LARGE = 2**28
"""Bytes of an autoencoder's maps beside which taking the U-Net's memory anew, afterwards, is little work."""


def windows_of(model: LatentDiffusion, request: ResolvedRequest) -> Windows | None:
    """The windows in which a request's latents are seen, encoded and decoded; None for the whole at once.

    A picture whose ends meet is seen in windows of the size that the model was trained on.
    """
    if request.tile is None and request.wrap is None:
        return None
    factor = model.config.factor
    size = (-(-request.height // factor), -(-request.width // factor))
    side = (request.tile or model.config.size) // factor
    wrap = request.wrap or ""
    return Windows(size, (side, side), ("y" in wrap, "x" in wrap))


@torch.no_grad()
def encode_pixels(model: LatentDiffusion, pixels: Tensor, windows: Windows | None) -> Tensor:
    """(B 3 H W) in [-1, 1], sides multiples of the model's factor -> latents (B C h w) in float32."""
    model.bring("autoencoder")
    _make_room(model, pixels.shape[-2] * pixels.shape[-1])

    def encode(part: Tensor) -> Tensor:
        return model.autoencoder.encode(part.to(model.device, model.dtype)).mode().float()

    return encode(pixels) if windows is None else mapped(windows, encode, pixels, model.config.factor, 1)


@torch.no_grad()
def decode(model: LatentDiffusion, latents: Tensor, windows: Windows | None = None) -> PIL.Image.Image:
    """One picture's latents (C h w) to its picture, alone: so it needs least memory and no one's company.

    Where the whole at once turns out to be too much for the memory, windows are tried, ever smaller ones.
    """
    model.bring("autoencoder")
    _make_room(model, latents.shape[-2] * latents.shape[-1] * model.config.factor**2)
    dtype = working_dtype(model.autoencoder, latents.dtype)

    def whole(part: Tensor) -> Tensor:
        return model.autoencoder.decode(part.to(model.device, dtype)).float()

    x = latents[None]
    smaller = [] if windows is not None else list(_ever_smaller(*latents.shape[-2:]))
    while True:
        try:
            pixels = whole(x) if windows is None else mapped(windows, whole, x, 1, model.config.factor)
            return to_image(pixels[0])
        except RuntimeError as error:
            if not (_out_of_memory(error) and smaller):
                raise
        windows = smaller.pop(0)  # outside of the handler, whose traceback holds on to the maps


def _make_room(model: LatentDiffusion, pixels: int) -> None:
    if model.device.type == "cpu" and memory.decoding(model.config, pixels) >= LARGE:
        give_back()


def fitting(model: LatentDiffusion, height: int, width: int) -> Windows | None:
    """The windows in which latents (C h w) can be decoded in the memory that is free; None for all at once.

    The estimate must come first: on a CPU the system ends a process that takes too much, without a word.
    """
    free = memory.free(model.device)
    area = model.config.factor**2

    def fits(latents: int) -> bool:
        return (
            free is None or 1.5 * memory.decoding(model.config, latents * area, model.dtype.itemsize) <= free
        )

    if fits(height * width):
        return None
    found = None
    for found in _ever_smaller(height, width):
        if fits(found.window[0] * found.window[1]):
            break
    return found


def _ever_smaller(height: int, width: int) -> Iterator[Windows]:
    side = max(height, width) // 2
    while side >= LEAST:
        yield Windows((height, width), (side, side), (False, False))
        side //= 2


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def to_tensor(image: PIL.Image.Image) -> Tensor:
    """An RGB picture to (1 3 H W) in [-1, 1]."""
    levels = torch.from_numpy(np.array(image)).permute(2, 0, 1)  # (H W 3) -> (3 H W)
    return (levels.float() / 127.5 - 1)[None]


def to_image(pixels: Tensor) -> PIL.Image.Image:
    """(3 H W) in [-1, 1], what lies outside cut, to a picture."""
    levels = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to("cpu", torch.uint8)
    return PIL.Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())  # (3 H W) -> (H W 3)
