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
from calotype.diffusion.grids import GRIDS, Grid, leading, linspace, trailing
from calotype.diffusion.known_noise import NOISES
from calotype.diffusion.samplers import SAMPLERS, Step
from calotype.models.latent_diffusion import LatentDiffusion
from calotype.tasks.adapted import Adapted
from calotype.tasks.condition import Conditions, encode
from calotype.tasks.picture import Picture, Record
from calotype.tasks.request import Request, ResolvedRequest
from calotype.tasks.steady import batch_size, steady


@dataclass(frozen=True)
class Notice:
    """Something the person should know, in one sentence."""

    text: str


@dataclass(frozen=True)
class Encoded:
    """The prompts are encoded; `steps` steps will follow in all, over all batches."""

    request: ResolvedRequest
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
    asked = request.resolved(model.config)
    schedule = model.denoiser.schedule
    sigmas = _grid(model, asked)(asked.steps, schedule.sigma_min, schedule.sigma_max)
    adapted = Adapted(model, asked)
    yield from map(Notice, adapted.notices)
    yield from _notices(adapted.reading(asked.prompts[0]), asked)
    conditions = encode(adapted, asked)
    factor = model.config.factor
    channels = model.config.unet.out_channels
    shape = (channels, asked.height // factor, asked.width // factor)
    batches = _batches(asked, conditions, adapted, batch_size(model, shape))
    total, done = len(batches) * asked.steps, 0
    yield Encoded(asked, total)
    for indices in batches:
        noise = NOISES[asked.noise]([asked.seed_of(i) for i in indices])
        blank = torch.zeros(len(indices), *shape, device=model.device)
        x = float(sigmas[0]) * noise(blank)
        drawing = adapted.drawing(asked.prompt_of(indices[0]))
        denoiser = _denoiser(drawing, asked, conditions, indices)
        for step in SAMPLERS[asked.sampler](denoiser, x, sigmas, noise, **asked.sampler_options):
            done += 1
            x = step.x
            yield Progress(indices, step, done, total)
        yield Drawn(indices, x)
        if not bool(x.isfinite().all()):
            yield Notice("The sampler ran off to infinity; try another sampler or grid, or less guidance.")
        for i, latents in zip(indices, x, strict=True):
            record = Record(asked.alone(i), model.config.name, model.weights_hash)
            yield Picture(decode(model, latents), latents, record, i)


@torch.no_grad()
def decode(model: LatentDiffusion, latents: Tensor) -> PIL.Image.Image:
    """One picture's latents (C h w) to its picture, alone: so it needs least memory and no one's company."""
    weight = next(model.autoencoder.parameters(), latents)
    pixels = model.autoencoder.decode(latents[None].to(weight.device, weight.dtype))[0]
    levels = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to("cpu", torch.uint8)
    return PIL.Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())  # (3 H W) -> (H W 3)


def _notices(model: LatentDiffusion, request: ResolvedRequest) -> Iterator[Notice]:
    tokenizer = model.text_encoder.tokenizer
    if tokenizer is None:
        return
    skip = request.clip_skip
    if skip is not None and any(tower.layer_at(skip) != -skip for tower in model.config.text):
        yield Notice(f"The model {model.config.name} has a clip skip of its own; {skip} changes nothing.")
    if request.prompt_syntax != "plain":
        return  # chunks have room for everything
    for text in dict.fromkeys((*request.prompts, request.negative)):
        lost = tokenizer.dropped(text)
        if lost:
            yield Notice(
                f"The model reads {tokenizer.context_length - 2} tokens; left out of the prompt: {lost}"
            )


def _batches(request: ResolvedRequest, conditions: Conditions, adapted: Adapted, size: int) -> list[range]:
    """Pictures that follow each other, prompts equally long and under the same LoRAs, at most `size`."""
    batches: list[range] = []
    for i in range(request.pictures):
        last = batches[-1] if batches else range(0)
        first, prompt = request.prompt_of(last[0] if last else i), request.prompt_of(i)
        if (
            0 < len(last) < size
            and conditions[first, False].joins(conditions[prompt, False])
            and adapted.loras(first) == adapted.loras(prompt)
        ):
            batches[-1] = range(last.start, i + 1)
        else:
            batches.append(range(i, i + 1))
    return batches


def _grid(model: LatentDiffusion, request: ResolvedRequest) -> Grid:
    """The grid asked for, as the model's own scheduler would lay it."""
    schedule, own = model.denoiser.schedule, model.config.defaults
    final = schedule.sigma_min if own.ends_at_first and request.sampler == "ddim" else 0.0
    if request.grid == "leading":
        return leading(schedule, own.offset, final)
    if request.grid in ("trailing", "linspace"):
        return {"trailing": trailing, "linspace": linspace}[request.grid](schedule, final)
    return GRIDS[request.grid](schedule)


def _denoiser(
    model: LatentDiffusion,
    request: ResolvedRequest,
    conditions: Conditions,
    indices: Sequence[int],
) -> Denoiser:
    positive = Conditioning.cat([conditions[request.prompt_of(i), False] for i in indices])
    negative = Conditioning.cat([conditions[request.prompt_of(i), True] for i in indices])
    apg = None if request.apg is None else guidance.Apg(**request.apg.model_dump())
    distilled = model.config.unet.guidance_width is not None  # it was told the scale, and does the rest
    return guidance.guided(
        steady(model, len(indices)),
        (positive, negative),
        1.0 if distilled else request.guidance,
        rescale=request.rescale,
        interval=request.interval,
        apg=apg,
    )
