"""The sizes of every network, as data: known without torch, which takes seconds to load."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from calotype.errors import InputError
from calotype.networks.limits import check_sizes


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of a U-Net; tuples run over its levels, fine to coarse.

    in_channels: channels of the noisy latents and of whatever is laid beside them (inpainting, low-res).
    attention_levels: the levels that carry transformers; the middle carries one where the last
        `transformer_depth` is not 0.
    heads: attention heads at each level.
    context_width: width of the context tokens; 0 for none, and then attention is to the map itself only.
    linear_projection: transformers enter and leave through linear layers (SD 2.x, SDXL) instead of
        1x1 convolutions (SD 1.x).
    vector_width: width of the conditioning vector (SDXL's pooled text and sizes), or None.
    classes: number of class labels (the x4 upscaler's noise levels), or None.
    guidance_width: width of the guidance embedding (LCM, arXiv:2310.04378, section 4.3), or None.
    outline_cells: 0, or n where the last n*n context tokens foretell the picture: each, through one linear
        layer, a cell of `outline_side` pixels squared of an n by n table, laid beside the input.
    context_only_levels: the levels whose self-attention attends to the context instead (the x4
        upscaler), or None for nowhere.
    """

    in_channels: int
    out_channels: int
    block_channels: tuple[int, ...]
    layers_per_block: int
    attention_levels: tuple[bool, ...]
    transformer_depth: tuple[int, ...]
    heads: tuple[int, ...]
    context_width: int
    norm_groups: int = 32
    linear_projection: bool = False
    vector_width: int | None = None
    classes: int | None = None
    guidance_width: int | None = None
    outline_cells: int = 0
    outline_side: int = 4
    context_only_levels: tuple[bool, ...] | None = None

    def __post_init__(self) -> None:
        check_sizes(self)
        levels = len(self.block_channels)
        for name in ("attention_levels", "transformer_depth", "heads", "context_only_levels"):
            values = getattr(self, name)
            if values is not None and len(values) != levels:
                raise InputError(
                    f"UNetConfig.{name} has {len(values)} entries for {levels} levels of block_channels; "
                    f"give one per level."
                )
        if self.outline_cells and not self.context_width:
            raise InputError(
                f"UNetConfig.outline_cells is {self.outline_cells}, but there is no context to foretell an "
                "outline; give a context_width, or outline_cells=0."
            )
        for channels, heads in zip(self.block_channels, self.heads, strict=True):
            if channels % self.norm_groups or channels % heads:
                raise InputError(
                    f"UNetConfig.block_channels holds {channels}, which must be a multiple of "
                    f"norm_groups={self.norm_groups} and of its level's heads={heads}."
                )

    @property
    def embedding_width(self) -> int:
        """Width of the embedded noise label."""
        return 4 * self.block_channels[0]

    @property
    def factor(self) -> int:
        """Latent pixels per pixel of the coarsest level, along one side."""
        return int(2 ** (len(self.block_channels) - 1))


@dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes of an autoencoder; the defaults are Stable Diffusion 1.x's.

    block_channels: channels per level, fine to coarse; each level but the last halves the picture.
    scale, shift: the latents seen outside are (raw - shift) * scale.
    """

    in_channels: int = 3
    latent_channels: int = 4
    block_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    norm_groups: int = 32
    mid_attention: bool = True
    scale: float = 0.18215
    shift: float = 0.0

    def __post_init__(self) -> None:
        check_sizes(self)
        for channels in self.block_channels:
            if channels % self.norm_groups:
                raise InputError(
                    f"AutoencoderConfig.block_channels holds {channels}, which norm_groups="
                    f"{self.norm_groups} does not divide; choose multiples of it."
                )

    @property
    def factor(self) -> int:
        """Picture pixels per latent pixel, along one side."""
        return int(2 ** (len(self.block_channels) - 1))


@dataclass(frozen=True)
class ClipTextConfig:
    """Sizes of a text transformer.

    vocabulary: number of tokens. context_length: tokens in a text at most.
    activation: "quick_gelu" for OpenAI's weights, "gelu" for OpenCLIP's.
    projection_width: width of the pooled vector after its projection; None for no projection.
    end_token: the token at whose first place the text is pooled.
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    context_length: int = 77
    mlp_width: int = 3072
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    projection_width: int | None = None
    end_token: int = 49407

    def __post_init__(self) -> None:
        check_sizes(self)
        if self.width % self.heads:
            raise InputError(
                f"ClipTextConfig.width={self.width} must be a multiple of heads={self.heads}; change one."
            )


HINT_CHANNELS = (16, 32, 96, 256)


@dataclass(frozen=True)
class ControlNetConfig:
    """unet              the U-Net whose way down this is a copy of; its way up means nothing here
    picture_channels  channels of the control picture
    hint_channels     widths of the convolutions over that picture, one halving between each two
    short_middle      the middle is a single residual block
    pooled            what is added to a map is its mean over all pixels (the shuffle ControlNet)
    bgr               the picture's channels are read in the order blue, green, red
    """

    unet: UNetConfig
    picture_channels: int = 3
    hint_channels: tuple[int, ...] = HINT_CHANNELS
    short_middle: bool = False
    pooled: bool = False
    bgr: bool = False

    def __post_init__(self) -> None:
        check_sizes(self)

    @classmethod
    def beside(cls, unet: UNetConfig, factor: int) -> ControlNetConfig:
        """One for a U-Net of latents `factor` times smaller than their pictures, of the published widths."""
        own = replace(unet, in_channels=unet.out_channels, outline_cells=0)
        widths = HINT_CHANNELS + HINT_CHANNELS[-1:] * factor.bit_length()
        return cls(own, hint_channels=widths[: factor.bit_length()])

    @property
    def factor(self) -> int:
        """Pixels of the control picture per latent pixel, along one side."""
        return int(2 ** (len(self.hint_channels) - 1))


@dataclass(frozen=True)
class PixelNetConfig:
    """Sizes of a pixel network.

    widths  channels of each level, the finest first; it lies at half of the picture's resolution
    blocks  residual blocks of each level: on the way down and again on the way up, the last level's once
    """

    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    channels: int = 3
    embedding: int = 64

    def __post_init__(self) -> None:
        check_sizes(self)

    @property
    def factor(self) -> int:
        """What the network pads sides to multiples of."""
        return int(2 ** len(self.widths))
