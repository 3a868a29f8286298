"""The pieces that the U-Net and the autoencoder share.

Pictures and feature maps are (B C H W), meant to lie in memory channels-last: on a CPU in bf16 the
convolutions then run without reordering, and turning a map into tokens costs nothing.
"""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from calotype.networks.convolution import Conv3x3
from calotype.networks.narrow import Conv2d, Linear
from calotype.networks.norm import GroupNorm


class ResidualBlock(nn.Module):
    """Two normalised 3x3 convolutions beside a skip: (B C H W) -> (B C' H W).

    `embedding_width` is the width of a vector (B E), already through SiLU, that is projected and
    added between the convolutions (Ho et al. 2020, arXiv:2006.11239, appendix B); None for none.
    """

    def __init__(
        self, channels: int, out_channels: int, *, groups: int, eps: float, embedding_width: int | None = None
    ) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups, channels, eps, silu=True)
        self.conv1 = Conv3x3(channels, out_channels)
        self.embed = None if embedding_width is None else Linear(embedding_width, out_channels)
        self.norm2 = GroupNorm(groups, out_channels, eps, silu=True)
        self.conv2 = Conv3x3(out_channels, out_channels)
        self.skip = None if channels == out_channels else Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        h: Tensor = self.conv1(self.norm1(x))
        if self.embed is not None:
            h = h + self.embed(embedding)[:, :, None, None]  # (B C') -> (B C' 1 1)
        h = self.norm2(h)  # by itself: what went in need not be kept while the convolution works
        h = self.conv2(h)
        return h + (x if self.skip is None else self.skip(x))


class Downsample(nn.Module):
    """Halves a map by a 3x3 convolution of stride 2: (B C H W) -> (B C H/2 W/2).

    Symmetric padding by one is what the U-Net has; the autoencoder pads right and below only.
    """

    def __init__(self, channels: int, *, symmetric: bool) -> None:
        super().__init__()
        self.symmetric = symmetric
        self.conv = Conv2d(channels, channels, 3, stride=2, padding=1 if symmetric else 0)

    def forward(self, x: Tensor) -> Tensor:
        if not self.symmetric:
            x = F.pad(x, (0, 1, 0, 1))  # (B C H W) -> (B C H+1 W+1)
        y: Tensor = self.conv(x)
        return y


class Upsample(nn.Module):
    """Doubles a map by repeating pixels and a 3x3 convolution: (B C H W) -> (B C h w).

    `size` is the (h, w) to reach where a map of odd size was halved before; None doubles.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv3x3(channels, channels)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        height, width = x.shape[-2:]
        doubled = (2 * height, 2 * width)
        if size in (None, doubled) and isinstance(self.conv, Conv3x3):  # else a LoRA is beside it
            return self.conv.of_doubled(x)
        y: Tensor = self.conv(F.interpolate(x, size=size or doubled, mode="nearest"))
        return y


def sinusoids(values: Tensor, width: int) -> Tensor:
    """Sinusoidal features of real numbers, cosines first: (B) -> (B width), always float32.

    Vaswani et al. 2017, arXiv:1706.03762, section 3.5, with frequencies 10000^(-2i/width)
    (Stable Diffusion's: flipped, frequency shift 0). `width` must be even.
    """
    half = width // 2
    powers = -math.log(10000.0) * torch.arange(half, dtype=torch.float32, device=values.device)
    angles = values[:, None].float() * torch.exp(powers / half)  # (B) -> (B width/2)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)  # (B width)


class EmbeddingMlp(nn.Module):
    """Linear, SiLU, Linear: (B features) -> (B width)."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(features, width)
        self.linear2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear2(F.silu(self.linear1(x)))
        return y


def initialise_weights(module: nn.Module, generator: Generator | None = None) -> None:
    """Every convolution and linear layer to variance 1/fan-in with zero bias, every norm to identity,
    every embedding to a standard deviation of 0.02.

    The outputs of residual branches are set to zero afterwards by the network itself, so that it
    begins as its own skip connections, whose activations keep their size in bf16.
    """
    for child in module.modules():
        if isinstance(child, nn.Conv2d | nn.Linear):
            fan_in = child.weight[0].numel()
            nn.init.normal_(child.weight, std=fan_in**-0.5, generator=generator)
            if child.bias is not None:
                nn.init.zeros_(child.bias)
        elif isinstance(child, nn.GroupNorm | nn.LayerNorm):
            nn.init.ones_(child.weight)
            nn.init.zeros_(child.bias)
        elif isinstance(child, nn.Embedding):
            nn.init.normal_(child.weight, std=0.02, generator=generator)


def zero_(layer: nn.Conv2d | nn.Linear) -> None:
    """Sets a layer's weight and bias to zero."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
