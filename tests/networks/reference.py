"""Small random models of diffusers and transformers, and how their parameter names and ours correspond.

The tables work both ways: a pair holds our module path and theirs, `{}` standing for the same
number in both; `weight` and `bias` keep their names.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from calotype.networks.config import AutoencoderConfig, ClipTextConfig, ControlNetConfig, UNetConfig

Table = tuple[tuple[str, str], ...]


def nest(prefixes: Table, members: Table) -> Table:
    """Every member below every prefix."""
    return tuple((f"{a}.{c}", f"{b}.{d}") for a, b in prefixes for c, d in members)


def same(*names: str) -> Table:
    """Paths that both sides call the same."""
    return tuple((name, name) for name in names)


RESIDUAL = (*same("norm1", "conv1", "norm2", "conv2"), ("embed", "time_emb_proj"), ("skip", "conv_shortcut"))
ATTENTION = (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("out", "to_out.0"))
TRANSFORMER = (
    ("norm", "norm"),
    ("enter", "proj_in"),
    ("leave", "proj_out"),
    *nest(
        (("blocks.{}", "transformer_blocks.{}"),),
        (
            ("norm_self", "norm1"),
            ("norm_context", "norm2"),
            ("norm_feed", "norm3"),
            ("feed.up", "ff.net.0.proj"),
            ("feed.down", "ff.net.2"),
            *nest((("attend_self", "attn1"), ("attend_context", "attn2")), ATTENTION),
        ),
    ),
)
UNET = (
    ("enter", "conv_in"),
    ("norm", "conv_norm_out"),
    ("leave", "conv_out"),
    ("guidance_embedding", "time_embedding.cond_proj"),
    ("class_embedding", "class_embedding"),
    ("down.{}.resample.conv", "down_blocks.{}.downsamplers.0.conv"),
    ("up.{}.resample.conv", "up_blocks.{}.upsamplers.0.conv"),
    *nest(
        (("time_embedding", "time_embedding"), ("vector_embedding", "add_embedding")),
        (("linear1", "linear_1"), ("linear2", "linear_2")),
    ),
    *nest(
        (
            ("down.{}.blocks.{}", "down_blocks.{}.resnets.{}"),
            ("middle.block1", "mid_block.resnets.0"),
            ("middle.block2", "mid_block.resnets.1"),
            ("up.{}.blocks.{}", "up_blocks.{}.resnets.{}"),
        ),
        RESIDUAL,
    ),
    *nest(
        (
            ("down.{}.transformers.{}", "down_blocks.{}.attentions.{}"),
            ("middle.transformer", "mid_block.attentions.0"),
            ("up.{}.transformers.{}", "up_blocks.{}.attentions.{}"),
        ),
        TRANSFORMER,
    ),
)
CODER = (
    ("enter", "conv_in"),
    ("norm", "conv_norm_out"),
    ("leave", "conv_out"),
    ("middle.attention.norm", "mid_block.attentions.0.group_norm"),
    *nest((("middle.attention.attention", "mid_block.attentions.0"),), ATTENTION),
    *nest((("middle.block1", "mid_block.resnets.0"), ("middle.block2", "mid_block.resnets.1")), RESIDUAL),
)
AUTOENCODER = (
    *same("quant_conv", "post_quant_conv"),
    *nest((("encoder", "encoder"), ("decoder", "decoder")), CODER),
    ("encoder.levels.{}.resample.conv", "encoder.down_blocks.{}.downsamplers.0.conv"),
    ("decoder.levels.{}.resample.conv", "decoder.up_blocks.{}.upsamplers.0.conv"),
    *nest(
        (
            ("encoder.levels.{}.blocks.{}", "encoder.down_blocks.{}.resnets.{}"),
            ("decoder.levels.{}.blocks.{}", "decoder.up_blocks.{}.resnets.{}"),
        ),
        RESIDUAL,
    ),
)
CLIP_BODY = (
    ("token_embedding", "embeddings.token_embedding"),
    ("position_embedding", "embeddings.position_embedding"),
    ("final_norm", "final_layer_norm"),
    *nest(
        (("layers.{}", "encoder.layers.{}"),),
        (
            ("norm1", "layer_norm1"),
            ("norm2", "layer_norm2"),
            ("up", "mlp.fc1"),
            ("down", "mlp.fc2"),
            ("attention.query", "self_attn.q_proj"),
            ("attention.key", "self_attn.k_proj"),
            ("attention.value", "self_attn.v_proj"),
            ("attention.out", "self_attn.out_proj"),
        ),
    ),
)
CLIP = CLIP_BODY  # transformers 5 drops the prefix that its model with a projection, and every file, has
CLIP_PROJECTED = (
    *((ours, f"text_model.{theirs}") for ours, theirs in CLIP_BODY),
    ("projection", "text_projection"),
)


X4 = UNetConfig(
    in_channels=7,
    out_channels=4,
    block_channels=(256, 512, 512, 1024),
    layers_per_block=2,
    attention_levels=(False, True, True, True),
    transformer_depth=(1, 1, 1, 1),
    heads=(8, 8, 8, 8),
    context_width=1024,
    linear_projection=True,
    classes=1000,
    context_only_levels=(True, True, True, False),
)
"""Of Stability's x4-upscaling.yaml."""


def rename(weights: Mapping[str, Tensor], table: Table, *, to_ours: bool) -> dict[str, Tensor]:
    """The weights under the other side's names; KeyError where not one pattern meets a name."""
    pairs = [(theirs, ours) if to_ours else (ours, theirs) for ours, theirs in table]
    patterns = [(re.compile(re.escape(a).replace(r"\{\}", r"(\d+)")), b) for a, b in pairs]
    renamed = {}
    for name, weight in weights.items():
        path, _, leaf = name.rpartition(".")
        found = [b.format(*m.groups()) for pattern, b in patterns if (m := pattern.fullmatch(path))]
        if len(found) != 1:
            raise KeyError(f"{name} meets {len(found)} patterns")
        renamed[f"{found[0]}.{leaf}"] = weight
    return renamed


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Every parameter random, norms' scales and biases too, of a size that keeps activations near 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_meta:
                continue
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if parameter.ndim == 1:
                parameter.copy_(0.3 * noise + 0.5)
            else:
                parameter.copy_(noise * parameter[0].numel() ** -0.5)


ERRORS: dict[str, float] = {}
"""The largest relative error of each test so far, which `pytest --errors` prints."""


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """max |a - b| / max |b|."""
    assert found.shape == wanted.shape
    error = float((found.detach() - wanted.detach()).abs().max() / wanted.detach().abs().max())
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]
    ERRORS[test] = max(error, ERRORS.get(test, 0.0))
    return error


def diffusers_unet(config: UNetConfig) -> nn.Module:
    """diffusers' U-Net of the same sizes, float64, random."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    extra: dict[str, Any] = {}
    if config.vector_width is not None:
        extra = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": config.vector_width,
        }
    down = ["CrossAttnDownBlock2D" if has else "DownBlock2D" for has in config.attention_levels]
    up = ["CrossAttnUpBlock2D" if has else "UpBlock2D" for has in config.attention_levels[::-1]]
    model: nn.Module = UNet2DConditionModel(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        block_out_channels=config.block_channels,
        layers_per_block=config.layers_per_block,
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        transformer_layers_per_block=config.transformer_depth,
        attention_head_dim=config.heads,  # which there means their number
        cross_attention_dim=config.context_width,
        norm_num_groups=config.norm_groups,
        use_linear_projection=config.linear_projection,
        num_class_embeds=config.classes,
        time_cond_proj_dim=config.guidance_width,
        only_cross_attention=config.context_only_levels or False,
        **extra,
    )
    randomise(model.double().eval())
    return model


def diffusers_controlnet(config: ControlNetConfig) -> nn.Module:
    """diffusers' ControlNet of the same sizes, float64, random."""
    from diffusers.models.controlnets.controlnet import ControlNetModel

    unet = config.unet
    extra: dict[str, Any] = {}
    if unet.vector_width is not None:
        extra = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": unet.vector_width,
        }
    model: nn.Module = ControlNetModel(
        in_channels=unet.in_channels,
        conditioning_channels=config.picture_channels,
        block_out_channels=unet.block_channels,
        layers_per_block=unet.layers_per_block,
        down_block_types=tuple(
            "CrossAttnDownBlock2D" if has else "DownBlock2D" for has in unet.attention_levels
        ),
        mid_block_type="UNetMidBlock2D" if config.short_middle else "UNetMidBlock2DCrossAttn",
        transformer_layers_per_block=unet.transformer_depth,
        attention_head_dim=unet.heads,  # which there means their number
        cross_attention_dim=unet.context_width,
        norm_num_groups=unet.norm_groups,
        use_linear_projection=unet.linear_projection,
        conditioning_embedding_out_channels=config.hint_channels,
        global_pool_conditions=config.pooled,
        controlnet_conditioning_channel_order="bgr" if config.bgr else "rgb",
        **extra,
    )
    randomise(model.double().eval())
    return model


def diffusers_autoencoder(config: AutoencoderConfig) -> nn.Module:
    """diffusers' autoencoder of the same sizes, float64, random."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    levels = len(config.block_channels)
    model: nn.Module = AutoencoderKL(
        in_channels=config.in_channels,
        out_channels=config.in_channels,
        latent_channels=config.latent_channels,
        block_out_channels=config.block_channels,
        layers_per_block=config.layers_per_block,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        norm_num_groups=config.norm_groups,
        mid_block_add_attention=config.mid_attention,
    )
    randomise(model.double().eval())
    return model


def transformers_clip(config: ClipTextConfig) -> nn.Module:
    """transformers' text model of the same sizes, float64, random; with its projection where there is one."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    kind = CLIPTextModel if config.projection_width is None else CLIPTextModelWithProjection
    model: nn.Module = kind(
        CLIPTextConfig(
            vocab_size=config.vocabulary,
            hidden_size=config.width,
            intermediate_size=config.mlp_width,
            projection_dim=config.projection_width or config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            max_position_embeddings=config.context_length,
            hidden_act=config.activation,
            bos_token_id=config.end_token - 1,
            eos_token_id=config.end_token,
        )
    )
    randomise(model.double().eval())
    return model
