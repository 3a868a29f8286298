"""The sizes of a network from the shapes of its tensors, under our own names.

Heads and normalisation groups leave no trace in a shape: the caller knows the family and gives them.
A KeyError names a tensor that every such network has, but this one lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from calotype.checkpoints.names import Source
from calotype.networks.config import AutoencoderConfig, ClipTextConfig, ControlNetConfig, UNetConfig

Sources = Mapping[str, Source]

CLIP_END = 49407
"""The end token of CLIP's vocabulary, its last entry."""


def unet(found: Sources, heads: Callable[[int], int], norm_groups: int = 32) -> UNetConfig:
    """`heads`: how many a level of so many channels has."""
    return _descent(found, heads, norm_groups, _shape(found, "leave.weight")[0])


def controlnet(found: Sources, heads: Callable[[int], int], norm_groups: int = 32) -> ControlNetConfig:
    """`heads` as for `unet`; whether it is pooled or reads blue first leaves no trace in a shape."""
    blocks = _count(found, "hint.blocks.{}.weight")
    widths = [_shape(found, "hint.enter.weight")[0]]
    widths += [_shape(found, f"hint.blocks.{i}.weight")[0] for i in range(1, blocks, 2)]
    return ControlNetConfig(
        unet=_descent(found, heads, norm_groups, _shape(found, "enter.weight")[1], fewest=0),
        picture_channels=_shape(found, "hint.enter.weight")[1],
        hint_channels=tuple(widths),
        short_middle="middle.block2.conv1.weight" not in found,
    )


def _descent(
    found: Sources, heads: Callable[[int], int], norm_groups: int, out_channels: int, fewest: int = 1
) -> UNetConfig:
    """`fewest`: blocks that a transformer has at least; SDXL's middling ControlNets have some without."""
    levels = _count(found, "down.{}.blocks.0.conv1.weight")
    channels = tuple(_shape(found, f"down.{i}.blocks.0.conv1.weight")[0] for i in range(levels))
    carries = tuple(f"down.{i}.transformers.0.norm.weight" in found for i in range(levels))
    places = [f"down.{i}.transformers.0" if carries[i] else None for i in range(levels)]
    middle = "middle.transformer"
    if f"{middle}.norm.weight" in found:
        places[-1] = places[-1] or middle
        depth_without = 1
    else:
        depth_without = 0
    depths = [
        1 if place is None else _count(found, f"{place}.blocks.{{}}.norm_self.weight", fewest)
        for place in places
    ]
    if places[-1] is None:
        depths[-1] = depth_without
    some = next((place for place in (*places, middle) if place is not None), middle)
    deep = next((place for place, depth in zip(places, depths, strict=True) if place and depth), some)
    context = found.get(f"{deep}.blocks.0.attend_context.key.weight")
    only = tuple(carries[i] and _sees_context(found, places[i]) for i in range(levels))
    vector = found.get("vector_embedding.linear1.weight")
    classes = found.get("class_embedding.weight")
    guidance = found.get("guidance_embedding.weight")
    return UNetConfig(
        in_channels=_shape(found, "enter.weight")[1],
        out_channels=out_channels,
        block_channels=channels,
        layers_per_block=_count(found, "down.0.blocks.{}.conv1.weight"),
        attention_levels=carries,
        transformer_depth=tuple(depths),
        heads=tuple(heads(width) for width in channels),
        context_width=0 if context is None else context.shape[1],
        norm_groups=norm_groups,
        linear_projection=len(found[f"{some}.enter.weight"].shape) == 2
        if f"{some}.enter.weight" in found
        else False,
        vector_width=None if vector is None else vector.shape[1],
        classes=None if classes is None else classes.shape[0],
        guidance_width=None if guidance is None else guidance.shape[1],
        context_only_levels=only if any(only) else None,
    )


def _sees_context(found: Sources, place: str | None) -> bool:
    """Whether the self-attention's keys have another width than the map, so that they are the context's."""
    query, key = (found.get(f"{place}.blocks.0.attend_self.{name}.weight") for name in ("query", "key"))
    return query is not None and key is not None and key.shape[1] != query.shape[1]


def autoencoder(found: Sources, scale: float, norm_groups: int = 32) -> AutoencoderConfig:
    """`scale`: what the family multiplies latents by."""
    levels = _count(found, "encoder.levels.{}.blocks.0.conv1.weight")
    return AutoencoderConfig(
        in_channels=_shape(found, "encoder.enter.weight")[1],
        latent_channels=_shape(found, "decoder.enter.weight")[1],
        block_channels=tuple(
            _shape(found, f"encoder.levels.{i}.blocks.0.conv1.weight")[0] for i in range(levels)
        ),
        layers_per_block=_count(found, "encoder.levels.0.blocks.{}.conv1.weight"),
        norm_groups=norm_groups,
        mid_attention="encoder.middle.attention.norm.weight" in found,
        scale=scale,
    )


def clip(
    found: Sources, activation: Literal["quick_gelu", "gelu"], heads: int | None = None
) -> ClipTextConfig:
    """`heads`: None for CLIP's habit, 64 channels each."""
    vocabulary, width = _shape(found, "token_embedding.weight")
    projection = found.get("projection.weight")
    return ClipTextConfig(
        vocabulary=vocabulary,
        width=width,
        layers=_count(found, "layers.{}.norm1.weight"),
        heads=heads_of_64(width) if heads is None else heads,
        context_length=_shape(found, "position_embedding.weight")[0],
        mlp_width=_shape(found, "layers.0.up.weight")[0],
        activation=activation,
        projection_width=None if projection is None else projection.shape[0],
        end_token=min(vocabulary - 1, CLIP_END),  # words may have been added behind it
    )


def heads_of_64(width: int) -> int:
    """Heads of 64 channels, and one where there are fewer: SD 2.x, SDXL, CLIP."""
    return max(1, width // 64)


def _shape(found: Sources, name: str) -> tuple[int, ...]:
    return found[name].shape


def _count(found: Sources, pattern: str, fewest: int = 1) -> int:
    """How many of 0, 1, 2 … are there; KeyError where they are fewer."""
    count = 0
    while pattern.format(count) in found:
        count += 1
    if count < fewest:
        raise KeyError(pattern.format(count))
    return count
