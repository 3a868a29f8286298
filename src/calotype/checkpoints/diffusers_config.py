"""The JSON beside diffusers' weights, to our configs and back.

Reading is strict: a setting that would change the function, and that Calotype's networks do not have, is an
error that names it.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from calotype.checkpoints.sizes import CLIP_END
from calotype.errors import CheckpointError, InputError
from calotype.models.config import ModelConfig, decode
from calotype.networks.config import AutoencoderConfig, ClipTextConfig, ControlNetConfig, UNetConfig

Settings = Mapping[str, Any]

C = TypeVar("C")

UNET: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"),
    "addition_embed_type": (None, "text_time"),
    "attention_type": ("default",),
    "center_input_sample": (False,),
    "class_embed_type": (None, "projection"),
    "class_embeddings_concat": (False,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "cross_attention_norm": (None,),
    "downsample_padding": (1,),
    "dropout": (0, 0.0),
    "dual_cross_attention": (False,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "mid_block_only_cross_attention": (None, False),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "norm_eps": (1e-5,),
    "resnet_out_scale_factor": (1, 1.0),
    "resnet_skip_time_act": (False,),
    "resnet_time_scale_shift": ("default",),
    "reverse_transformer_layers_per_block": (None,),
    "time_embedding_act_fn": (None,),
    "time_embedding_dim": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
}
AUTOENCODER: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"),
    "latents_mean": (None,),
    "latents_std": (None,),
    "use_post_quant_conv": (True,),
    "use_quant_conv": (True,),
}
CLIP: dict[str, tuple[Any, ...]] = {"hidden_act": ("quick_gelu", "gelu"), "layer_norm_eps": (1e-5,)}
CONTROLNET: dict[str, tuple[Any, ...]] = {
    "controlnet_conditioning_channel_order": ("rgb", "bgr"),
    "mid_block_type": ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D"),
}
"""Settings that must have one of these values, which the first is the default of."""

DOWN = {True: "CrossAttnDownBlock2D", False: "DownBlock2D"}
UP = {True: "CrossAttnUpBlock2D", False: "UpBlock2D"}


def unet(path: Path, told: Settings) -> UNetConfig:
    """Of unet/config.json.

    Raises CheckpointError where a setting is missing or not Calotype's.
    """
    _check(path, told, UNET)
    channels = tuple(_get(path, told, "block_out_channels"))
    kinds = tuple(told.get("down_block_types", ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)))
    carries = tuple(kind == DOWN[True] for kind in kinds)
    mirrored = tuple(UP[has] for has in carries[::-1])
    if (
        any(kind not in DOWN.values() for kind in kinds)
        or tuple(told.get("up_block_types", mirrored)) != mirrored
    ):
        raise CheckpointError(
            f"{path} names block types that Calotype does not have; it is another kind of U-Net."
        )
    levels = len(channels)
    layers = told.get("layers_per_block", 2)
    if isinstance(layers, list):
        if not layers or any(count != layers[0] for count in layers):
            raise CheckpointError(
                f"{path} has layers_per_block {layers}, but Calotype needs the same everywhere."
            )
        layers = layers[0]
    only = _each(told.get("only_cross_attention", False), levels)
    sized = told.get("addition_embed_type") == "text_time"
    plain = told.get("class_embed_type") == "projection"
    return made(
        path,
        UNetConfig,
        in_channels=told.get("in_channels", 4),
        out_channels=told.get("out_channels", 4),
        block_channels=channels,
        layers_per_block=layers,
        attention_levels=carries,
        transformer_depth=_each(told.get("transformer_layers_per_block", 1), levels),
        # What diffusers calls the width of a head is their number, unless num_attention_heads is there.
        heads=_each(told.get("num_attention_heads") or told.get("attention_head_dim", 8), levels),
        context_width=told.get("cross_attention_dim", 1280),
        norm_groups=told.get("norm_num_groups", 32),
        linear_projection=told.get("use_linear_projection", False),
        vector_width=told.get("projection_class_embeddings_input_dim") if sized or plain else None,
        classes=told.get("num_class_embeds"),
        guidance_width=told.get("time_cond_proj_dim"),
        outline_cells=told.get("outline_cells", 0),
        outline_side=told.get("outline_side", 4),
        context_only_levels=only if any(only) else None,
    )


def controlnet(path: Path, told: Settings) -> ControlNetConfig:
    """Of a ControlNet's config.json; CheckpointError as `unet`'s."""
    _check(path, told, CONTROLNET)
    short = told.get("mid_block_type") == "UNetMidBlock2D"
    sizes = unet(path, {**told, "mid_block_type": UNET["mid_block_type"][0]})
    sizes = dataclasses.replace(sizes, out_channels=sizes.in_channels)
    if short:  # and without a transformer
        sizes = dataclasses.replace(sizes, transformer_depth=(*sizes.transformer_depth[:-1], 0))
    return made(
        path,
        ControlNetConfig,
        unet=sizes,
        picture_channels=told.get("conditioning_channels", 3),
        hint_channels=tuple(told.get("conditioning_embedding_out_channels", (16, 32, 96, 256))),
        short_middle=short,
        pooled=bool(told.get("global_pool_conditions", False)),
        bgr=told.get("controlnet_conditioning_channel_order") == "bgr",
    )


def controlnet_settings(config: ModelConfig, net: ControlNetConfig) -> dict[str, Any]:
    """Of a whole ControlNet for the model; CheckpointError as `unet_settings`'."""
    own = unet_settings(dataclasses.replace(config, unet=net.unet))
    for name in ("sample_size", "out_channels", "up_block_types", "mid_block_type", "time_cond_proj_dim"):
        del own[name]  # which diffusers' ControlNet does not know
    return own | {
        "_class_name": "ControlNetModel",
        "conditioning_channels": net.picture_channels,
        "conditioning_embedding_out_channels": net.hint_channels,
        "controlnet_conditioning_channel_order": "bgr" if net.bgr else "rgb",
        "global_pool_conditions": net.pooled,
    }


def unet_settings(config: ModelConfig) -> dict[str, Any]:
    """The inverse; CheckpointError for what diffusers' U-Net does not have."""
    unet = config.unet
    if not unet.transformer_depth[-1] or not unet.context_width:
        raise CheckpointError(
            f"The model {config.name} has a U-Net without text or without attention in the middle, which "
            "diffusers' does not do; convert it to --format native."
        )
    settings: dict[str, Any] = {
        "_class_name": "UNet2DConditionModel",
        "sample_size": config.size // config.factor,
        "in_channels": unet.in_channels,
        "out_channels": unet.out_channels,
        "block_out_channels": unet.block_channels,
        "layers_per_block": unet.layers_per_block,
        "down_block_types": [DOWN[has] for has in unet.attention_levels],
        "up_block_types": [UP[has] for has in unet.attention_levels[::-1]],
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "transformer_layers_per_block": unet.transformer_depth,
        "attention_head_dim": unet.heads,  # which there means their number
        "cross_attention_dim": unet.context_width,
        "norm_num_groups": unet.norm_groups,
        "use_linear_projection": unet.linear_projection,
        "num_class_embeds": unet.classes,
        "time_cond_proj_dim": unet.guidance_width,
        "only_cross_attention": unet.context_only_levels or False,
    }
    if unet.outline_cells:
        settings |= {"outline_cells": unet.outline_cells, "outline_side": unet.outline_side}
    if unet.vector_width is not None:
        settings["projection_class_embeddings_input_dim"] = unet.vector_width
    if config.sizes is not None:
        settings["addition_embed_type"] = "text_time"
        settings["addition_time_embed_dim"] = config.sizes.features
    elif unet.vector_width is not None:
        settings["class_embed_type"] = "projection"
    return settings


def autoencoder(path: Path, told: Settings, scale: float) -> AutoencoderConfig:
    """Of vae/config.json; `scale` where it does not say its own."""
    _check(path, told, AUTOENCODER)
    return made(
        path,
        AutoencoderConfig,
        in_channels=told.get("in_channels", 3),
        latent_channels=told.get("latent_channels", 4),
        block_channels=tuple(_get(path, told, "block_out_channels")),
        layers_per_block=told.get("layers_per_block", 1),
        norm_groups=told.get("norm_num_groups", 32),
        mid_attention=told.get("mid_block_add_attention", True),
        scale=told.get("scaling_factor") or scale,
        shift=told.get("shift_factor") or 0.0,
    )


def autoencoder_settings(config: AutoencoderConfig, size: int) -> dict[str, Any]:
    """The inverse, for pictures of `size` pixels a side."""
    levels = len(config.block_channels)
    return {
        "_class_name": "AutoencoderKL",
        "sample_size": size,
        "in_channels": config.in_channels,
        "out_channels": config.in_channels,
        "latent_channels": config.latent_channels,
        "block_out_channels": config.block_channels,
        "layers_per_block": config.layers_per_block,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "norm_num_groups": config.norm_groups,
        "mid_block_add_attention": config.mid_attention,
        "scaling_factor": config.scale,
        "shift_factor": config.shift or None,
    }


def clip(path: Path, told: Settings, *, projected: bool) -> ClipTextConfig:
    """Of text_encoder/config.json; `projected`: whether the weights hold a projection."""
    _check(path, told, CLIP)
    vocabulary, end = told.get("vocab_size", 49408), told.get("eos_token_id")
    if type(vocabulary) is not int:
        raise CheckpointError(f"{path} has a vocab_size that is no whole number; fetch the folder again.")
    return made(
        path,
        ClipTextConfig,
        vocabulary=vocabulary,
        width=_get(path, told, "hidden_size"),
        layers=_get(path, told, "num_hidden_layers"),
        heads=_get(path, told, "num_attention_heads"),
        context_length=told.get("max_position_embeddings", 77),
        mlp_width=_get(path, told, "intermediate_size"),
        activation=told.get("hidden_act", "quick_gelu"),
        projection_width=told.get("projection_dim", 512) if projected else None,
        # Early configs say 2, which is wrong, and which transformers knows not to believe.
        end_token=min(vocabulary - 1, CLIP_END) if end in (None, 2) else end,
    )


def clip_settings(config: ClipTextConfig, layers: int, *, start: int, pad: int) -> dict[str, Any]:
    """The inverse, of the first `layers` layers."""
    kind = "CLIPTextModel" if config.projection_width is None else "CLIPTextModelWithProjection"
    return {
        "architectures": [kind],
        "model_type": "clip_text_model",
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "num_hidden_layers": layers,
        "num_attention_heads": config.heads,
        "max_position_embeddings": config.context_length,
        "intermediate_size": config.mlp_width,
        "hidden_act": config.activation,
        "layer_norm_eps": 1e-5,
        "projection_dim": config.projection_width or config.width,
        "bos_token_id": start,
        "eos_token_id": config.end_token,
        "pad_token_id": pad,
    }


LISTS = ("block_out_channels", "down_block_types", "up_block_types", "conditioning_embedding_out_channels")


def _check(path: Path, told: Settings, allowed: Mapping[str, tuple[Any, ...]]) -> None:
    for key in LISTS:
        if not isinstance(told.get(key, []), list):
            raise CheckpointError(f"{path} has a {key} that is no list; fetch the folder again.")
    for key, values in allowed.items():
        if told.get(key, values[0]) not in values:
            raise CheckpointError(
                f"{path} has {key} {told[key]!r}, but Calotype's network has "
                f"{' or '.join(repr(value) for value in values)} only; it is another kind of model."
            )


def _get(path: Path, told: Settings, key: str) -> Any:
    if key not in told:
        raise CheckpointError(f"{path} lacks {key}; fetch the folder again.")
    return told[key]


def _each(value: Any, levels: int) -> tuple[Any, ...]:
    """One setting for every level, where it is not a list already."""
    return tuple(value) if isinstance(value, list) else (value,) * levels


def made(path: Path, kind: Callable[..., C], /, **fields: Any) -> C:
    """A config of these fields, each checked for its type; CheckpointError where they make none."""
    hints = typing.get_type_hints(kind)
    try:
        checked = {
            name: value if dataclasses.is_dataclass(value) else decode(hints[name], _listed(value), name)
            for name, value in fields.items()
        }
        return kind(**checked)
    except (InputError, CheckpointError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path} makes no model: {error}") from None


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, tuple) else value
