"""What diffusers and transformers call the tensors of our networks."""

from __future__ import annotations

from functools import cache

from calotype.checkpoints.names import Layout, Table, modules, nest, same

EMBEDDING = (("linear1", "linear_1"), ("linear2", "linear_2"))
RESIDUAL = (*same("norm1", "conv1", "norm2", "conv2"), ("embed", "time_emb_proj"), ("skip", "conv_shortcut"))
ATTENTION = (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("out", "to_out.0"))
TRANSFORMER: Table = (
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
"""CompVis' names too, from which diffusers took them."""

UNET: Table = (
    ("enter", "conv_in"),
    ("norm", "conv_norm_out"),
    ("leave", "conv_out"),
    ("guidance_embedding", "time_embedding.cond_proj"),
    ("class_embedding", "class_embedding"),
    ("outline", "outline"),  # ours alone, see pooled_for_diffusers.txt
    ("down.{}.resample.conv", "down_blocks.{}.downsamplers.0.conv"),
    ("up.{}.resample.conv", "up_blocks.{}.upsamplers.0.conv"),
    *nest((("time_embedding", "time_embedding"),), EMBEDDING),
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

CONTROL: Table = (
    ("hint.enter", "controlnet_cond_embedding.conv_in"),
    ("hint.blocks.{}", "controlnet_cond_embedding.blocks.{}"),
    ("hint.leave", "controlnet_cond_embedding.conv_out"),
    ("zeros.{}", "controlnet_down_blocks.{}"),
    ("middle_zero", "controlnet_mid_block"),
)
"""What a ControlNet has beside a U-Net's way down."""

MIDDLE: Table = (("encoder.middle", "encoder.mid_block"), ("decoder.middle", "decoder.mid_block"))
OLD_ATTENTION = (("query", "query"), ("key", "key"), ("value", "value"), ("out", "proj_attn"))
AUTOENCODER: Table = (
    *same("quant_conv", "post_quant_conv"),
    *nest(
        same("encoder", "decoder"), (("enter", "conv_in"), ("norm", "conv_norm_out"), ("leave", "conv_out"))
    ),
    *nest(
        MIDDLE,
        (
            ("attention.norm", "attentions.0.group_norm"),
            *nest((("block1", "resnets.0"), ("block2", "resnets.1")), RESIDUAL),
        ),
    ),
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

CLIP: Table = (
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


@cache
def unet(*, sized: bool) -> Layout:
    """`sized`: the vector holds SDXL's sizes, and its embedding is then `add_embedding`; else it is a plain
    vector, for which diffusers has `class_embedding`.  Either is read.
    """
    added = nest((("vector_embedding", "add_embedding"),), EMBEDDING)
    plain = nest((("vector_embedding", "class_embedding"),), EMBEDDING)
    return Layout((*modules(UNET), *modules(added, writes=sized), *modules(plain, writes=not sized)))


@cache
def controlnet(*, sized: bool = True) -> Layout:
    """`sized` as for `unet`; either is read."""
    return Layout((*unet(sized=sized).rows, *modules(CONTROL)))


def _autoencoder() -> Layout:
    prefixes = nest(MIDDLE, (("attention.attention", "attentions.0"),))
    return Layout(
        (
            *modules(AUTOENCODER),
            *modules(nest(prefixes, ATTENTION)),
            *modules(nest(prefixes, OLD_ATTENTION), "pointwise", writes=False),  # before diffusers 0.18
        )
    )


def _clip() -> Layout:
    return Layout(
        (
            *modules(tuple((ours, f"text_model.{theirs}") for ours, theirs in CLIP)),
            *modules(CLIP, writes=False),  # without the prefix, as some programs write it
            *modules((("projection", "text_projection"),)),
        ),
        ignored=("text_model.embeddings.position_ids", "embeddings.position_ids"),
    )


autoencoder = _autoencoder()
clip = _clip()
