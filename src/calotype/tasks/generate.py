"""From a request to pictures: text, guidance, sampler, decoder, in that order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import PIL.Image
import torch
from torch import Tensor

from calotype.conditioning.conditioning import Conditioning
from calotype.diffusion import guidance
from calotype.diffusion.denoiser import Denoiser
from calotype.diffusion.grids import GRIDS
from calotype.diffusion.noise import PictureNoise
from calotype.diffusion.samplers import SAMPLERS, Step
from calotype.models.latent_diffusion import LatentDiffusion
from calotype.tasks.picture import Picture, Record
from calotype.tasks.request import Request
from calotype.tasks.steady import batch_size, steady


@dataclass(frozen=True)
class Notice:
    """Something the person should know, in one sentence."""

    text: str


@dataclass(frozen=True)
class Encoded:
    """The prompts are encoded; `steps` steps will follow in all, over all batches."""

    request: Request
    steps: int


@dataclass(frozen=True)
class Progress:
    """One sampler step is done for the pictures `indices`; `done` of `steps` in all.

    `step.denoised` (B C h w) is what these pictures look like by now.
    """

    indices: range
    step: Step
    done: int
    steps: int


@dataclass(frozen=True)
class Drawn:
    """The latents (B C h w) of the pictures `indices` are finished; keep them, decoding may yet fail."""

    indices: range
    latents: Tensor


Event = Notice | Encoded | Progress | Drawn | Picture


def generate(model: LatentDiffusion, request: Request) -> Iterator[Event]:
    """Everything that happens on the way, the finished `Picture`s among it, in the order of the request.

    Stop iterating and the work stops.  A picture depends on its own prompt, seed and settings only: on a CPU
    it has the same pixels to the bit whether it is made alone or among others.

    Raises InputError where the model cannot do what is asked, before any work.
    """
    request = request.resolved(model.config)
    assert request.width is not None
    assert request.height is not None
    assert request.steps is not None
    schedule = model.denoiser.schedule
    sigmas = GRIDS[str(request.grid)](schedule)(request.steps, schedule.sigma_min, schedule.sigma_max)
    yield from _notices(model, request)
    conditions = _encode(model, request)
    factor = model.config.factor
    channels = model.config.unet.out_channels
    shape = (channels, request.height // factor, request.width // factor)
    size = batch_size(model, shape)
    starts = range(0, request.pictures, size)
    total, done = len(starts) * request.steps, 0
    yield Encoded(request, total)
    for start in starts:
        indices = range(start, min(start + size, request.pictures))
        noise = PictureNoise([picture_seed(request, i) for i in indices])
        blank = torch.zeros(len(indices), *shape, device=model.device)
        x = float(sigmas[0]) * noise(blank)
        denoiser = _denoiser(model, request, conditions, indices)
        run = SAMPLERS[str(request.sampler)](denoiser, x, sigmas, noise, **request.sampler_options)
        for step in run:
            done += 1
            x = step.x
            yield Progress(indices, step, done, total)
        yield Drawn(indices, x)
        for i, latents in zip(indices, x, strict=True):
            record = Record(alone(request, i), model.config.name, model.weights_hash)
            yield Picture(decode(model, latents), latents, record, i)


def picture_seed(request: Request, index: int) -> int:
    """Picture `index` of a resolved request draws from the request's seed + index."""
    assert request.seed is not None
    return request.seed + index


def alone(request: Request, index: int) -> Request:
    """The request that makes picture `index` of a resolved request and no other."""
    return request.model_copy(
        update={
            "prompts": (request.prompts[index // request.count],),
            "count": 1,
            "seed": picture_seed(request, index),
        }
    )


@torch.no_grad()
def decode(model: LatentDiffusion, latents: Tensor) -> PIL.Image.Image:
    """One picture's latents (C h w) to its picture, alone: so it needs least memory and no one's company."""
    weight = next(model.autoencoder.parameters(), latents)
    pixels = model.autoencoder.decode(latents[None].to(weight.device, weight.dtype))[0]
    levels = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to("cpu", torch.uint8)
    return PIL.Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())  # (3 H W) -> (H W 3)


def _notices(model: LatentDiffusion, request: Request) -> Iterator[Notice]:
    tokenizer = model.text_encoder.tokenizer
    if tokenizer is None:
        return
    for text in dict.fromkeys((*request.prompts, request.negative)):
        lost = tokenizer.dropped(text)
        if lost:
            yield Notice(
                f"The model reads {tokenizer.context_length - 2} tokens; left out of the prompt: {lost}"
            )


@torch.no_grad()
def _encode(model: LatentDiffusion, request: Request) -> dict[str, Conditioning]:
    """Every distinct text once, (1 L D) each."""
    return {text: model.text_encoder([text]) for text in dict.fromkeys((*request.prompts, request.negative))}


def _denoiser(
    model: LatentDiffusion, request: Request, conditions: dict[str, Conditioning], indices: Sequence[int]
) -> Denoiser:
    assert request.guidance is not None
    positive = Conditioning.cat([conditions[request.prompts[i // request.count]] for i in indices])
    negative = Conditioning.cat([conditions[request.negative]] * len(indices))
    apg = None if request.apg is None else guidance.Apg(**request.apg.model_dump())
    return guidance.guided(
        steady(model, len(indices)),
        (positive, negative),
        request.guidance,
        rescale=request.rescale,
        interval=request.interval,
        apg=apg,
    )
