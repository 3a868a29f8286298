"""Stable Diffusion's U-Net (Rombach et al. 2022, arXiv:2112.10752; SDXL: arXiv:2307.01952)."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from calotype.errors import InputError
from calotype.networks.attention import SpatialTransformer
from calotype.networks.config import UNetConfig
from calotype.networks.layers import (
    Downsample,
    EmbeddingMlp,
    ResidualBlock,
    Upsample,
    initialise_weights,
    sinusoids,
    zero_,
)
from calotype.networks.narrow import Conv2d
from calotype.networks.norm import GroupNorm

EPS = 1e-5


class Level(nn.Module):
    """Residual blocks, each followed by a transformer where the level carries them.

    `widths` are the input channels of each block. The U-Net calls block by block, because maps go
    to and come from the other side in between, and `resample`, where there is one, at the end.
    """

    def __init__(
        self, config: UNetConfig, index: int, widths: list[int], resample: Downsample | Upsample | None
    ) -> None:
        super().__init__()
        channels = config.block_channels[index]
        self.blocks = nn.ModuleList(residual_block(config, width, channels) for width in widths)
        self.transformers = nn.ModuleList(
            transformer(config, index) for _ in widths if config.attention_levels[index]
        )
        self.resample = resample

    def forward(self, index: int, x: Tensor, embedding: Tensor, context: Tensor | None) -> Tensor:
        """Runs block `index` and the transformer after it: (B C H W) -> (B C' H W)."""
        x = self.blocks[index](x, embedding)
        if self.transformers:
            x = self.transformers[index](x, context)
        return x


class Middle(nn.Module):
    """Residual block, transformer (or none), residual block (or none) at the coarsest level:
    (B C h w) -> same.
    """

    def __init__(self, config: UNetConfig, *, short: bool = False) -> None:
        super().__init__()
        channels = config.block_channels[-1]
        self.block1 = residual_block(config, channels, channels)
        self.transformer = transformer(config, -1, middle=True) if config.transformer_depth[-1] else None
        self.block2 = None if short else residual_block(config, channels, channels)

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor | None) -> Tensor:
        x = self.block1(x, embedding)
        if self.transformer is not None:
            x = self.transformer(x, context)
        return x if self.block2 is None else self.block2(x, embedding)


class Descent(nn.Module):
    """A U-Net's embeddings, its way down and its middle, which a ControlNet has too.

    short_middle: the middle is one residual block (the small ControlNets of SDXL).
    """

    def __init__(self, config: UNetConfig, *, short_middle: bool = False) -> None:
        super().__init__()
        self.config = config
        widths, layers, embedded = config.block_channels, config.layers_per_block, config.embedding_width
        last = len(widths) - 1

        self.time_embedding = EmbeddingMlp(widths[0], embedded)
        self.guidance_embedding = (
            None if config.guidance_width is None else nn.Linear(config.guidance_width, widths[0], bias=False)
        )
        self.vector_embedding = (
            None if config.vector_width is None else EmbeddingMlp(config.vector_width, embedded)
        )
        self.class_embedding = None if config.classes is None else nn.Embedding(config.classes, embedded)

        channels = config.in_channels
        self.outline = None
        if config.outline_cells:
            self.outline = nn.Linear(config.context_width, channels * config.outline_side**2)
            channels *= 2
        self.enter = Conv2d(channels, widths[0], 3, padding=1)
        self.skip_channels = [widths[0]]  # of every map kept for the way up
        self.down = nn.ModuleList()
        for i, width in enumerate(widths):
            inputs = [widths[max(i - 1, 0)], *[width] * (layers - 1)]
            resample = Downsample(width, symmetric=True) if i < last else None
            self.down.append(Level(config, i, inputs, resample))
            self.skip_channels += [width] * (layers + (resample is not None))
        self.middle = Middle(config, short=short_middle)

    def descend(self, x: Tensor, embedding: Tensor, context: Tensor | None) -> list[Tensor]:
        """From the first map (B C H W): every map kept for the way up, and last what the middle makes."""
        kept = [x]
        for level in self.down:
            assert isinstance(level, Level)
            for i in range(self.config.layers_per_block):
                x = level(i, x, embedding, context)
                kept.append(x)
            if level.resample is not None:
                x = level.resample(x)
                kept.append(x)
        return [*kept, self.middle(x, embedding, context)]

    def embed(
        self,
        noise_label: Tensor,
        vector: Tensor | None = None,
        label: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """Everything that is one vector per picture, embedded, summed and through SiLU: -> (B E)."""
        self._check("vector", self.vector_embedding is not None, vector)
        self._check("label", self.class_embedding is not None, label)
        self._check("guidance", self.guidance_embedding is not None, guidance)
        dtype = self.time_embedding.linear1.weight.dtype
        features = sinusoids(noise_label, self.config.block_channels[0]).to(dtype)  # (B) -> (B C)
        if self.guidance_embedding is not None and guidance is not None:
            features = features + self.guidance_embedding(guidance.to(dtype))
        embedding: Tensor = self.time_embedding(features)  # (B C) -> (B E)
        if self.class_embedding is not None:
            embedding = embedding + self.class_embedding(label)
        if self.vector_embedding is not None and vector is not None:
            embedding = embedding + self.vector_embedding(vector.to(dtype))
        return nn.functional.silu(embedding)

    @staticmethod
    def _check(name: str, wanted: bool, given: Tensor | None) -> None:
        if wanted and given is None:
            raise InputError(f"This U-Net needs a {name}; none was given.")
        if given is not None and not wanted:
            raise InputError(f"This U-Net takes no {name}; leave it out.")


class UNet(Descent):
    """A network of noisy latents, a noise label and conditions; what its output means is not its business."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config)
        widths, layers = config.block_channels, config.layers_per_block
        last, skips = len(widths) - 1, list(self.skip_channels)
        self.up = nn.ModuleList()
        for i in range(last, -1, -1):
            inputs = [widths[min(i + 1, last)], *[widths[i]] * layers]
            inputs = [channels + skips.pop() for channels in inputs]
            self.up.append(Level(config, i, inputs, Upsample(widths[i]) if i else None))
        self.norm = GroupNorm(config.norm_groups, widths[0], EPS, silu=True)
        self.leave = Conv2d(widths[0], config.out_channels, 3, padding=1)
        self.initialise()

    def initialise(self, generator: Generator | None = None) -> None:
        """Fresh weights for training: every branch beside a skip, and the output, begin at zero."""
        initialise_weights(self, generator)
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                zero_(module.conv2)
            elif isinstance(module, SpatialTransformer):
                zero_(module.leave)
        zero_(self.leave)

    def forward(
        self,
        x: Tensor,
        noise_label: Tensor,
        context: Tensor | None = None,
        vector: Tensor | None = None,
        label: Tensor | None = None,
        guidance: Tensor | None = None,
        control: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """(B C H W) -> (B C' H W); H and W need not divide by anything.

        noise_label: (B) real numbers, the schedule's steps. context: (B L D). vector: (B P).
        label: (B) integers. guidance: (B G), features of LCM's guidance scale.
        control: what a ControlNet adds to each of the maps that `descend` returns.
        Raises InputError where a condition is missing or the network has no place for it.
        """
        embedding = self.embed(noise_label, vector, label, guidance)
        self._check("context", bool(self.config.context_width), context)
        if self.outline is not None and context is not None:
            x = torch.cat([x, self.foretold(context, x.shape[-2:])], dim=1)  # (B C H W) -> (B 2C H W)
        skips = self.descend(self.enter(x), embedding, context)
        if control is not None:
            skips = [kept + added for kept, added in zip(skips, control, strict=True)]
        x = skips.pop()
        for level in self.up:
            assert isinstance(level, Level)
            for i in range(self.config.layers_per_block + 1):
                x = torch.cat([x, skips.pop()], dim=1)  # (B C H W), (B S H W) -> (B C+S H W)
                x = level(i, x, embedding, context)
            if level.resample is not None:
                x = level.resample(x, skips[-1].shape[-2:])
        y: Tensor = self.leave(self.norm(x))
        return y

    def foretold(self, context: Tensor, size: tuple[int, ...] | None = None) -> Tensor:
        """The outline that the context (B L D) foretells, at `size` = (H, W) or its own: (B C H W)."""
        assert self.outline is not None
        n, side = self.config.outline_cells, self.config.outline_side
        said: Tensor = self.outline(context[:, -n * n :])  # (B L D) -> (B n*n C*s*s)
        said = said.unflatten(2, (-1, side, side)).unflatten(1, (n, n))  # -> (B n n C s s)
        # (B n n C s s) -> (B C n s n s) -> (B C n*s n*s)
        picture = said.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
        if size is not None and picture.shape[-2:] != size:
            picture = nn.functional.interpolate(picture, size, mode="bilinear")
        return picture.contiguous(memory_format=torch.channels_last)


def residual_block(config: UNetConfig, channels: int, out_channels: int) -> ResidualBlock:
    """One of the U-Net's residual blocks, which all know the noise label."""
    return ResidualBlock(
        channels,
        out_channels,
        groups=config.norm_groups,
        eps=EPS,
        embedding_width=config.embedding_width,
    )


def transformer(config: UNetConfig, index: int, *, middle: bool = False) -> SpatialTransformer:
    """The transformer of level `index`; the middle's never leaves its self-attention out."""
    only = config.context_only_levels
    return SpatialTransformer(
        config.block_channels[index],
        config.heads[index],
        config.transformer_depth[index],
        context_width=config.context_width,
        groups=config.norm_groups,
        linear=config.linear_projection,
        context_only=only is not None and only[index] and not middle,
    )
