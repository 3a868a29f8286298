"""The KL autoencoder of Stable Diffusion (Rombach et al. 2022, arXiv:2112.10752, section 3.1).

It owns the latents' scale and shift: everything outside sees latents of about unit variance.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from calotype.errors import InputError
from calotype.networks.attention import MapAttention
from calotype.networks.config import AutoencoderConfig
from calotype.networks.layers import (
    Downsample,
    ResidualBlock,
    Upsample,
    initialise_weights,
    zero_,
)
from calotype.networks.narrow import Conv2d, work_rarely
from calotype.networks.norm import GroupNorm

EPS = 1e-6


@dataclass(frozen=True)
class LatentDistribution:
    """A diagonal Gaussian over latents (Kingma & Welling 2014, arXiv:1312.6114).

    raw_mean, logvar: (B C h w) as the network gave them, logvar clamped to [-30, 20].
    `mean`, `mode` and `sample` are scaled and shifted as the rest of Calotype sees latents;
    `logvar` and `kl` speak of the raw ones.
    """

    raw_mean: Tensor
    logvar: Tensor
    scale: float = 1.0
    shift: float = 0.0

    @property
    def mean(self) -> Tensor:
        """(B C h w), scaled."""
        return (self.raw_mean - self.shift) * self.scale

    def mode(self) -> Tensor:
        """(B C h w), scaled: the most likely latents, which are their mean."""
        return self.mean

    def sample(self, noise: Tensor) -> Tensor:
        """(B C h w), scaled: the latents that standard normal `noise` (B C h w) picks."""
        return (self.raw_mean + torch.exp(0.5 * self.logvar) * noise - self.shift) * self.scale

    def kl(self) -> Tensor:
        """(B): divergence from the standard normal, in nats, summed over the latent."""
        terms = self.raw_mean.square() + self.logvar.exp() - 1.0 - self.logvar
        return 0.5 * terms.flatten(1).sum(1)  # (B C h w) -> (B)


class Middle(nn.Module):
    """Residual block, attention (or none), residual block at the coarsest level: (B C h w) -> same."""

    def __init__(self, channels: int, *, groups: int, attention: bool) -> None:
        super().__init__()
        self.block1 = ResidualBlock(channels, channels, groups=groups, eps=EPS)
        self.attention = MapAttention(channels, groups=groups) if attention else None
        self.block2 = ResidualBlock(channels, channels, groups=groups, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block1(x)
        if self.attention is not None:
            x = self.attention(x)
        y: Tensor = self.block2(x)
        return y


class Level(nn.Module):
    """Residual blocks, then a change of resolution where there is one: (B C H W) -> (B C' H' W')."""

    def __init__(
        self, channels: int, out_channels: int, layers: int, *, groups: int, resample: nn.Module | None
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ResidualBlock(out_channels if i else channels, out_channels, groups=groups, eps=EPS)
            for i in range(layers)
        )
        self.resample = resample


def in_order(levels: nn.ModuleList) -> Iterator[nn.Module]:
    """The layers of levels, to be run one by one, so that no map outlives the layer that reads it."""
    for level in levels:
        assert isinstance(level, Level)
        yield from level.blocks
        if level.resample is not None:
            yield level.resample


class Encoder(nn.Module):
    """Pictures to moments: (B 3 H W) -> (B 2C H/factor W/factor)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths, groups = config.block_channels, config.norm_groups
        self.enter = Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.levels = nn.ModuleList(
            Level(
                widths[max(i - 1, 0)],
                width,
                config.layers_per_block,
                groups=groups,
                resample=Downsample(width, symmetric=False) if i < len(widths) - 1 else None,
            )
            for i, width in enumerate(widths)
        )
        self.middle = Middle(widths[-1], groups=groups, attention=config.mid_attention)
        self.norm = GroupNorm(groups, widths[-1], EPS, silu=True)
        self.leave = Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for layer in in_order(self.levels):
            x = layer(x)
        y: Tensor = self.leave(self.norm(self.middle(x)))
        return y


class Decoder(nn.Module):
    """Raw latents to pictures: (B C h w) -> (B 3 h*factor w*factor); levels run coarse to fine."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths, groups = config.block_channels[::-1], config.norm_groups
        self.enter = Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.middle = Middle(widths[0], groups=groups, attention=config.mid_attention)
        self.levels = nn.ModuleList(
            Level(
                widths[max(i - 1, 0)],
                width,
                config.layers_per_block + 1,
                groups=groups,
                resample=Upsample(width) if i < len(widths) - 1 else None,
            )
            for i, width in enumerate(widths)
        )
        self.norm = GroupNorm(groups, widths[-1], EPS, silu=True)
        self.leave = Conv2d(widths[-1], config.in_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(self.enter(x))
        for layer in in_order(self.levels):
            x = layer(x)
        y: Tensor = self.leave(self.norm(x))
        return y


class Autoencoder(nn.Module):
    """Encoder, decoder, and the 1x1 convolutions on either side of the latents."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, 1)
        work_rarely(self)
        self.initialise()

    def initialise(self, generator: Generator | None = None) -> None:
        """Fresh weights for training; every residual branch begins at zero."""
        initialise_weights(self, generator)
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                zero_(module.conv2)
            elif isinstance(module, MapAttention):
                zero_(module.attention.out)

    def encode(self, images: Tensor) -> LatentDistribution:
        """(B 3 H W) in [-1, 1], H and W multiples of `config.factor` -> latents (B C H/f W/f)."""
        height, width = images.shape[-2:]
        if height % self.config.factor or width % self.config.factor:
            raise InputError(
                f"A picture of {width}x{height} pixels does not divide into latents; "
                f"its sides must be multiples of {self.config.factor}."
            )
        moments = self.quant_conv(self.encoder(images))
        moments = moments.to(torch.promote_types(moments.dtype, torch.float32))
        mean, logvar = moments.chunk(2, dim=1)  # (B 2C h w) -> 2 x (B C h w)
        return LatentDistribution(mean, logvar.clamp(-30.0, 20.0), self.config.scale, self.config.shift)

    def decode(self, latents: Tensor) -> Tensor:
        """(B C h w), scaled latents -> (B 3 h*f w*f), about [-1, 1] and not clamped."""
        raw = latents / self.config.scale + self.config.shift
        y: Tensor = self.decoder(self.post_quant_conv(raw))
        return y

    @torch.no_grad()
    def fold_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Normalises the latents per channel, in the weights: z becomes (z - mean) / std.

        mean, std: (C), measured on scaled latents. `decode` of `encode` stays what it was, but for
        rounding (and for log variances at the clamp).
        """
        conv, channels = self.quant_conv, self.config.latent_channels
        mean, std = mean.to(conv.weight), std.to(conv.weight)
        # In raw latents: raw' = raw / std + offset, for which (raw' - shift) * scale = (z - mean) / std.
        offset = self.config.shift - (self.config.shift + mean / self.config.scale) / std
        rows = std[:, None, None, None]
        conv.weight[:channels] /= rows
        conv.bias[:channels] = conv.bias[:channels] / std + offset  # type: ignore[index]
        conv.bias[channels:] -= 2.0 * std.log()  # type: ignore[index]
        back = self.post_quant_conv
        back.weight *= std[None, :, None, None]
        back.bias -= back.weight[:, :, 0, 0] @ offset  # type: ignore[operator]


class IdentityAutoencoder(nn.Module):
    """Pictures as their own latents, for models that denoise pixels: factor 1, variance 0."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.config = AutoencoderConfig(
            in_channels=channels, latent_channels=channels, block_channels=(1,), norm_groups=1, scale=1.0
        )

    def encode(self, images: Tensor) -> LatentDistribution:
        """(B C H W) -> a distribution whose mean is the picture and whose spread is e^-15."""
        return LatentDistribution(images, torch.full_like(images, -30.0))

    def decode(self, latents: Tensor) -> Tensor:
        """(B C H W), returned as it is."""
        return latents
