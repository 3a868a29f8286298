"""The models Calotype knows by name: literal functions, nothing computed."""

from __future__ import annotations

from collections.abc import Callable

from calotype.conditioning.config import TextConfig
from calotype.conditioning.sizes import SizeConfig
from calotype.models.config import Defaults, ModelConfig, ScheduleConfig
from calotype.networks.config import AutoencoderConfig, ClipTextConfig, UNetConfig


def icons() -> ModelConfig:
    """The shipped model: Stable Diffusion, small, for 128x128 icons."""
    return ModelConfig(
        name="icons",
        about="icons, emoji and flat drawings from English or Chinese words",
        size=128,
        autoencoder=AutoencoderConfig(
            latent_channels=16,
            block_channels=(32, 64, 128, 128),
            layers_per_block=1,
            norm_groups=8,  # 4 channels a group at the finest level, as in SD: with 1, colour is forgotten
            mid_attention=False,
            scale=1.0,
        ),
        text=(
            TextConfig(
                ClipTextConfig(
                    vocabulary=8192,
                    width=256,
                    layers=4,
                    heads=8,
                    context_length=32,  # the last 16 foretell an outline, cell by cell
                    mlp_width=1024,
                    activation="gelu",
                    end_token=8191,
                ),
                pooled=True,
            ),
        ),
        unet=UNetConfig(
            in_channels=16,
            out_channels=16,
            block_channels=(64, 128, 144),
            layers_per_block=1,
            attention_levels=(False, True, True),
            transformer_depth=(1, 1, 1),
            heads=(2, 4, 4),
            context_width=256,
            vector_width=256,  # the pooled text reaches every block, as in SDXL
            outline_cells=4,
            norm_groups=16,
        ),
        parameterization="v",
        schedule=ScheduleConfig("cosine"),
        defaults=Defaults(steps=20, guidance=4.0, sampler="dpmpp_2m", grid="raised"),
    )


def tiny() -> ModelConfig:
    """For tests: everything `icons` has, in seconds on one core."""
    return ModelConfig(
        name="tiny",
        about="a toy for tests",
        size=32,
        autoencoder=AutoencoderConfig(
            latent_channels=4,
            block_channels=(8, 16, 16),
            layers_per_block=1,
            norm_groups=4,
            mid_attention=True,
            scale=1.0,
        ),
        text=(
            TextConfig(
                ClipTextConfig(
                    vocabulary=768,
                    width=16,
                    layers=2,
                    heads=2,
                    context_length=16,
                    mlp_width=32,
                    activation="gelu",
                    end_token=767,
                )
            ),
        ),
        unet=UNetConfig(
            in_channels=4,
            out_channels=4,
            block_channels=(16, 32),
            layers_per_block=1,
            attention_levels=(False, True),
            transformer_depth=(1, 1),
            heads=(2, 2),
            context_width=16,
            norm_groups=4,
            outline_cells=2,
        ),
        parameterization="v",
        schedule=ScheduleConfig("cosine"),
        defaults=Defaults(steps=4, guidance=3.0, sampler="ddim", grid="trailing"),
    )


def mnist() -> ModelConfig:
    """Ten classes of 28x28 pictures, from their pixels: an hour on two cores (MNIST, Fashion-MNIST)."""
    return ModelConfig(
        name="mnist",
        about="28x28 pictures of labelled classes",
        size=28,
        autoencoder=None,
        text=(),
        unet=UNetConfig(
            in_channels=3,
            out_channels=3,
            block_channels=(24, 64, 96),
            layers_per_block=1,
            attention_levels=(False, False, True),
            transformer_depth=(1, 1, 1),
            heads=(2, 4, 4),
            context_width=0,
            norm_groups=8,
            classes=11,
        ),
        parameterization="v",
        schedule=ScheduleConfig("cosine"),
        defaults=Defaults(steps=20, guidance=2.0, sampler="dpmpp_2m", grid="trailing"),
        classes=tuple("0123456789"),
    )


CLIP_L = ClipTextConfig(
    vocabulary=49408,
    width=768,
    layers=12,
    heads=12,
    context_length=77,
    mlp_width=3072,
    activation="quick_gelu",
    end_token=49407,
)
"""OpenAI's CLIP ViT-L/14, the text tower of SD 1.x and the first of SDXL."""


def sd1() -> ModelConfig:
    """Stable Diffusion 1.x (arXiv 2112.10752)."""
    return ModelConfig(
        name="sd1",
        about="Stable Diffusion 1.x",
        size=512,
        autoencoder=AutoencoderConfig(),
        text=(TextConfig(CLIP_L),),
        unet=UNetConfig(
            in_channels=4,
            out_channels=4,
            block_channels=(320, 640, 1280, 1280),
            layers_per_block=2,
            attention_levels=(True, True, True, False),
            transformer_depth=(1, 1, 1, 1),
            heads=(8, 8, 8, 8),
            context_width=768,
        ),
        parameterization="eps",
        schedule=ScheduleConfig("scaled_linear"),
        defaults=Defaults(steps=20, guidance=7.5, sampler="dpmpp_2m", grid="karras", prompt_syntax="a1111"),
    )


def sd2() -> ModelConfig:
    """Stable Diffusion 2.x at 768 pixels; its text tower is OpenCLIP ViT-H/14 without its last layer."""
    return ModelConfig(
        name="sd2",
        about="Stable Diffusion 2.x, 768-v",
        size=768,
        autoencoder=AutoencoderConfig(),
        text=(
            TextConfig(
                ClipTextConfig(
                    vocabulary=49408,
                    width=1024,
                    layers=23,
                    heads=16,
                    context_length=77,
                    mlp_width=4096,
                    activation="gelu",
                    end_token=49407,
                ),
                pad_token="!",
            ),
        ),
        unet=UNetConfig(
            in_channels=4,
            out_channels=4,
            block_channels=(320, 640, 1280, 1280),
            layers_per_block=2,
            attention_levels=(True, True, True, False),
            transformer_depth=(1, 1, 1, 1),
            heads=(5, 10, 20, 20),
            context_width=1024,
            linear_projection=True,
        ),
        parameterization="v",
        schedule=ScheduleConfig("scaled_linear"),
        defaults=Defaults(steps=20, guidance=7.5, sampler="dpmpp_2m", grid="karras", prompt_syntax="a1111"),
    )


def sdxl() -> ModelConfig:
    """Stable Diffusion XL base (arXiv 2307.01952): CLIP-L and OpenCLIP-bigG, both one layer early."""
    return ModelConfig(
        name="sdxl",
        about="Stable Diffusion XL base",
        size=1024,
        autoencoder=AutoencoderConfig(scale=0.13025),
        text=(
            TextConfig(CLIP_L, layer=-2, final_norm=False),
            TextConfig(
                ClipTextConfig(
                    vocabulary=49408,
                    width=1280,
                    layers=32,
                    heads=20,
                    context_length=77,
                    mlp_width=5120,
                    activation="gelu",
                    projection_width=1280,
                    end_token=49407,
                ),
                layer=-2,
                final_norm=False,
                pooled=True,
                pad_token="!",
            ),
        ),
        unet=UNetConfig(
            in_channels=4,
            out_channels=4,
            block_channels=(320, 640, 1280),
            layers_per_block=2,
            attention_levels=(False, True, True),
            transformer_depth=(1, 2, 10),
            heads=(5, 10, 20),
            context_width=2048,
            linear_projection=True,
            vector_width=2816,
        ),
        parameterization="eps",
        schedule=ScheduleConfig("scaled_linear"),
        defaults=Defaults(steps=20, guidance=7.0, sampler="dpmpp_2m", grid="karras", prompt_syntax="a1111"),
        sizes=SizeConfig(),
        zero_negative=True,
    )


PRESETS: dict[str, Callable[[], ModelConfig]] = {
    "icons": icons,
    "mnist": mnist,
    "tiny": tiny,
    "sd1": sd1,
    "sd2": sd2,
    "sdxl": sdxl,
}
