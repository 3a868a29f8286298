"""A small U-Net for pictures themselves, of any size, that sees nothing further than its convolutions reach.

What DRUNet (Zhang et al. 2021, arXiv:2008.13751) is to denoising, at a tenth of its cost: the picture's 2x2
squares become channels at once (FFDNet, arXiv:1710.04026), and normalisation is over the channels of one
pixel (NAFNet, arXiv:2204.04676), so that a tile and the whole picture agree.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from calotype.errors import InputError
from calotype.networks.config import PixelNetConfig
from calotype.networks.layers import EmbeddingMlp, initialise_weights, sinusoids, zero_
from calotype.networks.narrow import Conv2d

LABEL_SCALE = 16.0
"""ln(sigma)/4 runs over about 2; times this, its sinusoids tell levels apart that differ by a percent."""


class PixelBlock(nn.Module):
    """x + conv(SiLU(conv(norm x) * (1 + scale of the noise level))): (B C H W) -> (B C H W)."""

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.conv1 = Conv2d(width, width, 3, padding=1)
        self.scale = nn.Linear(embedding, width)
        self.conv2 = Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        # over each pixel's channels: (B C H W) -> (B H W C) -> (B C H W), no copy where they lie together
        h = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        h = self.conv1(h) * (1 + self.scale(embedding))[:, :, None, None]  # (B C) -> (B C 1 1)
        y: Tensor = x + self.conv2(F.silu(h))
        return y


class PixelLevel(nn.ModuleList):
    """Blocks one after the other, at one resolution."""

    def __init__(self, width: int, count: int, embedding: int) -> None:
        super().__init__(PixelBlock(width, embedding) for _ in range(count))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        for block in self:
            x = block(x, embedding)
        return x


class PixelNet(nn.Module):
    """(picture (B C H W), noise label (B)) -> (B C H W), any H and W."""

    def __init__(self, config: PixelNetConfig, generator: Generator | None = None) -> None:
        """Raises InputError where widths and blocks are not of one length."""
        super().__init__()
        widths, blocks, embedding = config.widths, config.blocks, config.embedding
        if len(widths) != len(blocks) or not widths:
            raise InputError(
                f"A pixel network has as many widths as blocks, not {len(widths)} and {len(blocks)}."
            )
        self.config = config
        self.embed = EmbeddingMlp(embedding, embedding)
        self.enter = Conv2d(4 * config.channels, widths[0], 3, padding=1)

        def level(i: int) -> PixelLevel:
            return PixelLevel(widths[i], blocks[i], embedding)

        pairs = list(pairwise(widths))
        self.down = nn.ModuleList(level(i) for i in range(len(pairs)))
        self.middle = level(-1)
        self.up = nn.ModuleList(level(i) for i in range(len(pairs)))
        self.shrink = nn.ModuleList(Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairs)
        self.grow = nn.ModuleList(Conv2d(coarse, 4 * fine, 1) for fine, coarse in pairs)
        self.leave = Conv2d(widths[0], 4 * config.channels, 3, padding=1)
        initialise_weights(self, generator)
        for module in self.modules():
            if isinstance(module, PixelBlock):
                zero_(module.conv2)
                zero_(module.scale)
        zero_(self.leave)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        factor = self.config.factor
        # (B C H W) -> (B C H' W'), the sides multiples of the factor
        x = F.pad(x, (0, -width % factor, 0, -height % factor), mode="replicate")
        embedding = self.embed(sinusoids(LABEL_SCALE * label, self.config.embedding).to(x.dtype))
        embedding = F.silu(embedding)  # (B E)
        x = F.pixel_unshuffle(x, 2).contiguous(memory_format=torch.channels_last)  # -> (B 4C H'/2 W'/2)
        h = self.enter(x)
        skips = []
        for blocks, shrink in zip(self.down, self.shrink, strict=True):
            h = blocks(h, embedding)
            skips.append(h)
            h = shrink(h)  # (B c h w) -> (B c' h/2 w/2)
        h = self.middle(h, embedding)
        for blocks, grow in reversed(list(zip(self.up, self.grow, strict=True))):
            # (B c' h w) -> (B 4c h w) -> (B c 2h 2w)
            h = F.pixel_shuffle(grow(h), 2).contiguous(memory_format=torch.channels_last) + skips.pop()
            h = blocks(h, embedding)
        # (B 4C H'/2 W'/2) -> (B C H' W') -> (B C H W)
        y: Tensor = F.pixel_shuffle(self.leave(h), 2)
        return y[..., :height, :width]
