"""What the single files of CompVis and Stability (`ldm`, `sgm`) call the tensors of our networks.

They number the U-Net's blocks through, so its names depend on its sizes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from calotype.checkpoints import diffusers_names
from calotype.checkpoints.diffusers_names import TRANSFORMER
from calotype.checkpoints.names import Layout, Row, Table, modules, nest, same
from calotype.checkpoints.weights_file import TensorInfo

RESIDUAL: Table = (
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("embed", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("skip", "skip_connection"),
)

BUFFERS = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "lvlb_weights",
    "logvar",
    "scale_factor",
    "denoiser.sigmas",
    "denoiser.log_sigmas",
    "v_pred",
    "ztsnr",
    "model_ema.decay",
    "model_ema.num_updates",
    "cond_stage_model.logit_scale",
)
"""Beside the networks in a whole file; all follow from the schedule, or are flags that `prediction` reads."""

LOW_SCALE = (*(f"low_scale_model.{name}" for name in BUFFERS[:12]),)
"""The x4 upscaler keeps a second schedule for its low-resolution picture."""

TRAINING = ("loss.", "first_stage_model.loss.")
"""Prefixes of what only the autoencoder's training needed: discriminator, perceptual loss."""

EMA = "model_ema."
"""Prefix of a second, averaged copy of the U-Net, its names without points."""


def unet_met(stored: Mapping[str, TensorInfo], prefix: str) -> Layout:
    """The layout of the U-Net whose names begin with `prefix`, its sizes read off the numbering."""
    blocks = prefix + "input_blocks."
    numbers = {int(found[1]) for name in stored if (found := re.match(re.escape(blocks) + r"(\d+)\.", name))}
    strides = sorted(n for n in numbers if f"{blocks}{n}.0.op.weight" in stored)
    layers = (strides[0] if strides else max(numbers, default=1) + 1) - 1
    carries = tuple(f"{blocks}{n}.1.norm.weight" in stored for n in [1, *(n + 1 for n in strides)])
    middle = f"{prefix}middle_block.1.norm.weight" in stored
    return unet(max(layers, 1), carries, middle=middle).below(prefix)


@cache
def unet(layers: int, attention_levels: tuple[bool, ...], *, middle: bool = True) -> Layout:
    """`middle`: whether the coarsest level has a transformer between its two blocks."""
    levels = len(attention_levels)
    residual = [("middle.block1", "middle_block.0"), ("middle.block2", f"middle_block.{1 + middle}")]
    transformers = [("middle.transformer", "middle_block.1")] if middle else []
    plain = [
        ("enter", "input_blocks.0.0"),
        ("norm", "out.0"),
        ("leave", "out.2"),
        ("time_embedding.linear1", "time_embed.0"),
        ("time_embedding.linear2", "time_embed.2"),
        ("guidance_embedding", "time_embed.cond_proj"),
        ("vector_embedding.linear1", "label_emb.0.0"),
        ("vector_embedding.linear2", "label_emb.0.2"),
        ("class_embedding", "label_emb"),
        ("outline", "outline"),  # ours alone
    ]
    for i in range(levels):
        first = 1 + i * (layers + 1)
        for j in range(layers):
            residual.append((f"down.{i}.blocks.{j}", f"input_blocks.{first + j}.0"))
            transformers.append((f"down.{i}.transformers.{j}", f"input_blocks.{first + j}.1"))
        plain.append((f"down.{i}.resample.conv", f"input_blocks.{first + layers}.0.op"))
        for j in range(layers + 1):
            n = i * (layers + 1) + j
            residual.append((f"up.{i}.blocks.{j}", f"output_blocks.{n}.0"))
            transformers.append((f"up.{i}.transformers.{j}", f"output_blocks.{n}.1"))
        place = 1 + attention_levels[levels - 1 - i]  # after the transformer, where there is one
        plain.append((f"up.{i}.resample.conv", f"output_blocks.{n}.{place}.conv"))
    return Layout(
        modules((*plain, *nest(tuple(residual), RESIDUAL), *nest(tuple(transformers), TRANSFORMER)))
    )


def autoencoder_met(stored: Mapping[str, TensorInfo], prefix: str) -> Layout:
    """The layout of the autoencoder whose names begin with `prefix`, its levels counted."""
    level = re.compile(re.escape(prefix) + r"encoder\.down\.(\d+)\.")
    levels = [int(found[1]) for name in stored if (found := level.match(name))]
    return autoencoder(1 + max(levels, default=0)).below(prefix)


def autoencoder(levels: int) -> Layout:
    """Its attention is made of 1x1 convolutions here; its decoder counts levels from the finest."""
    residual = (*same("norm1", "conv1", "norm2", "conv2"), ("skip", "nin_shortcut"))
    coders = same("encoder", "decoder")
    middles: Table = (("encoder.middle", "encoder.mid"), ("decoder.middle", "decoder.mid"))
    blocks = (
        *nest(middles, (("block1", "block_1"), ("block2", "block_2"))),
        *((f"encoder.levels.{i}.blocks.{{}}", f"encoder.down.{i}.block.{{}}") for i in range(levels)),
        *(
            (f"decoder.levels.{levels - 1 - i}.blocks.{{}}", f"decoder.up.{i}.block.{{}}")
            for i in range(levels)
        ),
    )
    renamed = (
        *same("quant_conv", "post_quant_conv"),
        *nest(coders, (("enter", "conv_in"), ("norm", "norm_out"), ("leave", "conv_out"))),
        *nest(middles, (("attention.norm", "attn_1.norm"),)),
        *((f"encoder.levels.{i}.resample.conv", f"encoder.down.{i}.downsample.conv") for i in range(levels)),
        *(
            (f"decoder.levels.{levels - 1 - i}.resample.conv", f"decoder.up.{i}.upsample.conv")
            for i in range(levels)
        ),
        *nest(blocks, residual),
    )
    attention = nest(
        nest(middles, (("attention.attention", "attn_1"),)),
        (("query", "q"), ("key", "k"), ("value", "v"), ("out", "proj_out")),
    )
    return Layout((*modules(renamed), *modules(attention, "pointwise")))


def _open_clip() -> Layout:
    """OpenCLIP's own: SD 2.x, the second tower of SDXL, the refiner's."""
    renamed = (
        ("final_norm", "ln_final"),
        ("token_embedding", "token_embedding"),
        *nest(
            (("layers.{}", "transformer.resblocks.{}"),),
            (
                ("norm1", "ln_1"),
                ("norm2", "ln_2"),
                ("up", "mlp.c_fc"),
                ("down", "mlp.c_proj"),
                ("attention.out", "attn.out_proj"),
            ),
        ),
    )
    stacked = tuple(
        Row(
            tuple(f"layers.{{}}.attention.{part}.{leaf}" for part in ("query", "key", "value")),
            f"transformer.resblocks.{{}}.attn.in_proj_{leaf}",
            "stacked",
        )
        for leaf in ("weight", "bias")
    )
    return Layout(
        (
            *modules(renamed),
            *stacked,
            Row(("position_embedding.weight",), "positional_embedding"),
            Row(("projection.weight",), "text_projection", "transposed"),
            Row(("projection.weight",), "text_projection.weight", writes=False),
        ),
        ignored=("logit_scale", "attn_mask"),
    )


open_clip = _open_clip()

UNET, AUTOENCODER = "model.diffusion_model.", "first_stage_model."

TOWERS = (
    ("cond_stage_model.transformer.", diffusers_names.clip),  # SD 1.x
    ("cond_stage_model.model.", open_clip),  # SD 2.x
    ("conditioner.embedders.0.transformer.", diffusers_names.clip),  # SDXL's first
    ("conditioner.embedders.1.model.", open_clip),  # SDXL's second
    ("conditioner.embedders.0.model.", open_clip),  # the refiner's only one
)
"""Where a whole file keeps its text towers, in the order in which a model has them."""
