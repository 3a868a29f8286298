"""The picture and the mask of a request, laid on the model's grid; and what was known laid back."""

from __future__ import annotations

from dataclasses import dataclass

import PIL.Image
import PIL.ImageOps
import torch
import torch.nn.functional as F
from torch import Tensor

from calotype.diffusion.windows import Windows
from calotype.errors import InputError
from calotype.models.latent_diffusion import LatentDiffusion
from calotype.tasks.pixels import encode_pixels, to_image, to_tensor, windows_of
from calotype.tasks.request import ResolvedRequest


@dataclass(frozen=True)
class Canvas:
    """What is there before anything is drawn.

    pixels   (1 3 H W) in [-1, 1], filled up to whole latents by repeating the last row and column
    latents  (1 C h w) of them
    free     (1 1 H W) from 0 (kept) to 1 (drawn); None where all is drawn
    mask     (1 1 h w) the same for latents: one is kept only if all its pixels are
    windows  in which it was encoded
    """

    pixels: Tensor
    latents: Tensor
    free: Tensor | None
    mask: Tensor | None
    windows: Windows | None

    def restored(self, drawn: PIL.Image.Image) -> PIL.Image.Image:
        """The drawn picture with the kept pixels as they were, to the bit."""
        if self.free is None:
            return drawn
        new = to_tensor(drawn)
        height, width = new.shape[-2:]
        old, free = self.pixels[..., :height, :width], self.free[..., :height, :width]
        return to_image((free * new + (1 - free) * old)[0])


def canvas(model: LatentDiffusion, request: ResolvedRequest) -> Canvas | None:
    """The canvas of a request; None for one that begins from noise alone.

    Raises InputError where a picture cannot be read or the mask leaves nothing to draw.
    """
    if request.image is None or model.config.low_res is not None:
        return None
    left, top, right, bottom = request.margin or (0, 0, 0, 0)
    inner = (request.width - left - right, request.height - top - bottom)
    factor = model.config.factor
    fill = (left, right + -request.width % factor, top, bottom + -request.height % factor)
    pixels = F.pad(to_tensor(_fitted(request.image.read(), inner)), fill, mode="replicate")
    windows = windows_of(model, request)
    free = mask = None
    if request.mask is not None or request.margin is not None:
        free = torch.zeros(1, 1, inner[1], inner[0])
        if request.mask is not None:
            free = (to_tensor(_fitted(request.mask.read(), inner).convert("L").convert("RGB"))[:, :1] + 1) / 2
        around = F.pad(torch.zeros(1, 1, inner[1], inner[0]), (left, right, top, bottom), value=1.0)
        free = F.pad(free, (left, right, top, bottom)).maximum(around)
        if not bool(free.any()):
            assert request.mask is not None
            raise InputError(
                f"The mask {request.mask.named} is all black, which keeps everything; paint white what is to "
                "be drawn anew."
            )
        spare = (0, -request.width % factor, 0, -request.height % factor)
        free = F.pad(free, spare, mode="replicate")
        mask = F.max_pool2d(free, factor)  # (1 1 H W) -> (1 1 h w)
    return Canvas(pixels, encode_pixels(model, pixels, windows), free, mask, windows)


def _fitted(image: PIL.Image.Image, size: tuple[int, int]) -> PIL.Image.Image:
    """The middle of the picture, scaled to fill `size` (width, height)."""
    if image.size == size:
        return image
    return PIL.ImageOps.fit(image, size, PIL.Image.Resampling.LANCZOS)
