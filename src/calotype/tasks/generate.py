"""From a request to pictures: text, guidance, sampler, decoder, in that order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from calotype.diffusion.samplers import Step
from calotype.models.latent_diffusion import LatentDiffusion
from calotype.models.precision import named
from calotype.tasks.adapted import Adapted
from calotype.tasks.canvas import canvas
from calotype.tasks.condition import Conditions, condition_of
from calotype.tasks.latents import develop
from calotype.tasks.picture import Picture, Record
from calotype.tasks.pixels import fitting
from calotype.tasks.request import Request, ResolvedRequest
from calotype.tasks.start import plan
from calotype.tasks.steady import batch_size


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
    """The latents (B C h w) of the pictures `indices` are finished, with their records; keep them, decoding
    may yet fail.
    """

    indices: range
    latents: Tensor
    records: tuple[Record, ...]


Event = Notice | Encoded | Progress | Drawn | Picture


def generate(model: LatentDiffusion, request: Request) -> Iterator[Event]:
    """Everything that happens on the way, the finished `Picture`s among it, in the order of the request.

    Stop iterating and the work stops.  A picture depends on its own prompt, seed and settings only: on a CPU
    it has the same pixels to the bit whether it is made alone or among others.

    Raises InputError where the model cannot do what is asked, before any work.
    """
    asked = request.resolved(model.config)
    given = canvas(model, asked)
    adapted = Adapted(model, asked)
    way = plan(adapted, asked, given)
    yield from map(Notice, (*adapted.notices, *way.guides.notices))
    yield from _notices(adapted.reading(asked.prompts[0]), asked)
    batches = _batches(asked, way.conditions, adapted, batch_size(model, way.shape()))
    total, done = len(batches) * way.steps, 0
    yield Encoded(asked, total)
    for indices in batches:
        noise = way.noise(indices)
        x = torch.zeros(len(indices), *way.shape(), device=model.device)
        for leg in way.legs(indices, noise):
            for step in leg.run(x):
                done += 1
                x = step.x
                yield Progress(indices, step, done, total)
        records = tuple(
            Record(asked.alone(i), model.config.name, model.weights_hash, precision=named(model.dtype))
            for i in indices
        )
        yield Drawn(indices, x, records)
        if not bool(x.isfinite().all()):
            yield Notice("The sampler ran off to infinity; try another sampler or grid, or less guidance.")
        adapted.rest()
        model.bring("autoencoder")
        windows = way.windows or fitting(model, *way.shape()[1:])
        if windows is not None and way.windows is None and indices.start == 0:
            side = windows.window[0] * model.config.factor
            yield Notice(f"Memory is short; pictures are decoded in tiles of {side} pixels.")
        for i, latents, record in zip(indices, x, records, strict=True):
            yield develop(model, latents, record, i, windows, given)


def _notices(model: LatentDiffusion, request: ResolvedRequest) -> Iterator[Notice]:
    tokenizer = model.text_encoder.tokenizer
    if tokenizer is None:
        return
    skip = request.clip_skip
    if skip is not None and any(tower.layer_at(skip) != -skip for tower in model.config.text):
        yield Notice(f"The model {model.config.name} has a clip skip of its own; {skip} changes nothing.")
    if request.prompt_syntax != "plain":
        return  # chunks have room for everything
    for text in dict.fromkeys(request.texts):
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
        own = condition_of(conditions, request, i)
        fits = 0 < len(last) < size and (
            adapted.loras(request.prompt_of(last[0])) == adapted.loras(request.prompt_of(i))
        )
        if fits and condition_of(conditions, request, last[0]).joins(own):
            batches[-1] = range(last.start, i + 1)
        else:
            batches.append(range(i, i + 1))
    return batches
