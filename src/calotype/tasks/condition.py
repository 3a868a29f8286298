"""All that a model is told of the pictures to draw: texts, and what its family wants to know besides."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from calotype.conditioning.conditioning import Conditioning
from calotype.errors import InputError
from calotype.models.latent_diffusion import LatentDiffusion
from calotype.tasks.adapted import Adapted
from calotype.tasks.additions import LoraUse
from calotype.tasks.canvas import Canvas
from calotype.tasks.pixels import encode_pixels
from calotype.tasks.request import ResolvedRequest

Conditions = dict[tuple[str, bool], Conditioning]
"""By prompt: what it says (False), and the negative prompt as that picture's text encoder reads it (True)."""


@torch.no_grad()
def encode(adapted: Adapted, request: ResolvedRequest, canvas: Canvas | None = None) -> Conditions:
    """Every distinct text once under each set of LoRAs, one row each; an inpainting model is told what of the
    `canvas` is known.
    """
    model = adapted.model
    unet = model.config.unet
    shared = Conditioning(channels=_known(model, request, canvas))
    if unet.guidance_width is not None:
        shared = replace(shared, guidance=guidance_features(request.guidance, unet.guidance_width))
    model.bring("text_encoder")
    told: dict[tuple[tuple[LoraUse, ...], str, bool], Conditioning] = {}
    conditions: Conditions = {}
    for prompt in dict.fromkeys(request.texts[:-1]):
        reader = adapted.reading(prompt)
        for text, negative in ((prompt, False), (request.negative, True)):
            key = (adapted.loras(prompt), text, negative)
            if key not in told:
                told[key] = replace(
                    _text(reader, request, text, negative), channels=shared.channels, guidance=shared.guidance
                )
            conditions[prompt, negative] = told[key]
    return conditions


def _text(model: LatentDiffusion, request: ResolvedRequest, text: str, negative: bool) -> Conditioning:
    config = model.config
    if config.classes:
        return Conditioning(label=torch.tensor([config.label_of(text)], device=model.device))
    prompt = request.parsed(text)
    if prompt is None:
        found: Conditioning = model.text_encoder([text], request.clip_skip)
    else:
        found = model.text_encoder.encode_prompt(prompt, request.clip_skip)
    if negative and not text and config.zero_negative:
        found = found.scaled(0.0)
    if config.sizes is not None and found.vector is not None:
        told = config.sizes.vector(request.width, request.height, negative=negative).to(found.vector)
        found = replace(found, vector=torch.cat([found.vector, told], dim=1))  # (1 P), (1 S) -> (1 P+S)
    return found


def _known(model: LatentDiffusion, request: ResolvedRequest, canvas: Canvas | None) -> Tensor | None:
    """An inpainting model's mask and known picture (1 1+C h w); without a mask all is to be painted."""
    unet, factor = model.config.unet, model.config.factor
    if unet.in_channels == unet.out_channels or model.config.low_res is not None:
        return None
    if canvas is None or canvas.free is None or canvas.mask is None:
        height, width = -(-request.height // factor), -(-request.width // factor)
        pixels = torch.zeros(1, 3, height * factor, width * factor)
        mask = torch.ones(1, 1, height, width)
    else:
        pixels, mask = canvas.pixels * (canvas.free < 0.5), canvas.mask
    known = encode_pixels(model, pixels, canvas.windows if canvas else None)
    return torch.cat([mask.to(known), known], dim=1)  # (1 1 h w), (1 C h w) -> (1 1+C h w)


def condition_of(conditions: Conditions, request: ResolvedRequest, index: int) -> Conditioning:
    """What picture `index` is told: its prompt, or the mixture of two.

    Raises InputError where two prompts cannot be mixed.
    """
    own = conditions[request.prompt_of(index), False]
    toward = request.toward_of(index)
    if toward is None:
        return own
    text, blend = toward
    other = conditions[text, False]
    if not own.joins(other):
        raise InputError(
            f"The prompts {request.prompt_of(index)!r} and {text!r} take up unequally many chunks of text, "
            "so that there is nothing between them; make them about equally long."
        )
    return own.mixed(other, blend)


def guidance_features(scale: float, width: int) -> Tensor:
    """LCM's features of a guidance scale (arXiv:2310.04378, section 4.3): (1 width), sines first."""
    half = width // 2
    powers = -math.log(10000.0) * torch.arange(half, dtype=torch.float32) / (half - 1)
    angles = 1000.0 * (scale - 1.0) * powers.exp()
    return torch.cat([angles.sin(), angles.cos()])[None]  # (width) -> (1 width)
