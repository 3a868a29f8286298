"""What LoRA files call the layers of a model: the names of its checkpoints, with a prefix.

kohya      lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight   points become underscores;
           lora_te_ for one text encoder, lora_te1_ and lora_te2_ for SDXL's two
diffusers  unet.down_blocks.0.attentions.0.proj_in.lora_A.weight, text_encoder., text_encoder_2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import nn

from calotype.checkpoints import compvis_names, diffusers_names
from calotype.checkpoints.names import Layout
from calotype.models.latent_diffusion import LatentDiffusion
from calotype.networks.lora import Layer

Part = Literal["text_encoder", "denoiser"]
Fashion = Literal["kohya", "diffusers"]


@dataclass(frozen=True)
class Place:
    """A layer that a LoRA can change: which part of the model it is in, its path there, itself."""

    part: Part
    path: str
    layer: Layer


def places(model: LatentDiffusion) -> dict[str, Place]:
    """Every name by which a file may call one of the model's layers."""
    found: dict[str, Place] = {}
    for place in _layers(model):
        for name in _called(model, place):
            found[name] = place
    return found


def written(model: LatentDiffusion, fashion: Fashion) -> dict[tuple[Part, str], str]:
    """What to call the model's layers, by part and path, in a file to write."""
    names = {}
    for place in _layers(model):
        of_diffusers, of_compvis, prefixes = _stems(model, place)
        if fashion == "diffusers":
            name = f"{prefixes[0]}.{of_diffusers}"
        else:  # which trains SDXL's U-Net under the names of its single file
            stem = of_compvis if model.config.sizes is not None and of_compvis else of_diffusers
            name = f"{prefixes[1]}_{stem.replace('.', '_')}"
        names[place.part, place.path] = name
    return names


def _layers(model: LatentDiffusion) -> Iterator[Place]:
    parts: tuple[tuple[Part, nn.Module], ...] = (
        ("text_encoder", model.text_encoder),
        ("denoiser", model.denoiser),
    )
    for part, module in parts:
        for path, layer in module.named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                yield Place(part, path, layer)


def _stems(model: LatentDiffusion, place: Place) -> tuple[str, str | None, tuple[str, ...]]:
    """A layer's name in diffusers and in a single file's U-Net, and the prefixes, dotted ones first."""
    config, unet = model.config, model.config.unet
    if place.part == "denoiser":
        path = place.path.removeprefix("network.")
        middle = bool(unet.transformer_depth[-1])
        compvis = compvis_names.unet(unet.layers_per_block, unet.attention_levels, middle=middle)
        diffusers = diffusers_names.unet(sized=config.sizes is not None)
        return _module(diffusers, path), _module(compvis, path), ("unet", "lora_unet")
    tower, path = place.path.removeprefix("towers.").split(".", 1)
    stem = _module(diffusers_names.clip, path)
    only_second = config.sizes is not None and config.sizes.aesthetic  # the refiner has SDXL's second tower
    if tower == "1" or only_second:
        return stem, None, ("text_encoder_2", "lora_te2")
    if len(config.text) == 1:
        return stem, None, ("text_encoder", "lora_te", "lora_te1")
    return stem, None, ("text_encoder", "lora_te1")


def _module(layout: Layout, path: str) -> str:
    return layout.name(f"{path}.weight").removesuffix(".weight")


def _called(model: LatentDiffusion, place: Place) -> Iterator[str]:
    of_diffusers, of_compvis, (dotted, *flat) = _stems(model, place)
    stems = [of_diffusers]
    if place.part == "text_encoder":
        old = _OLD_TEXT.sub(r"to_\1", of_diffusers).replace("out_proj", "to_out")
        stems += [old, of_diffusers.removeprefix("text_model."), old.removeprefix("text_model.")]
    elif of_diffusers.endswith("to_out.0"):
        stems.append(of_diffusers.removesuffix(".0"))
    for stem in dict.fromkeys(stems):
        yield f"{dotted}.{stem}"
        if dotted != "text_encoder_2":
            yield stem  # a file of one network alone
        yield from (f"{prefix}_{stem.replace('.', '_')}" for prefix in flat)
    if of_compvis is not None:
        yield f"diffusion_model.{of_compvis}"
        yield from (f"{prefix}_{of_compvis.replace('.', '_')}" for prefix in flat)


_OLD_TEXT = re.compile(r"\b([qkv])_proj$")  # to_q for q_proj, before diffusers 0.20
