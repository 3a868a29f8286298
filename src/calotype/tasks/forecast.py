"""What drawing will cost before it is done: a few steps of the request's own, reckoned up."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass

from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from calotype.checkpoints.memory import peak
from calotype.models.latent_diffusion import LatentDiffusion
from calotype.tasks.generate import Drawn, Encoded, Progress, generate
from calotype.tasks.picture import Picture
from calotype.tasks.request import ResolvedRequest

STEPS = 4
"""Of the drawing that is timed."""
COUNTED = 2
"""Of the one whose operations are counted, which that slows down."""


@dataclass(frozen=True)
class Forecast:
    """What a request takes, in seconds and bytes on this machine.

    parameters  by part of the model
    flops       floating-point operations in all
    seconds     by stage, for all pictures
    memory      the process's peak
    disk        of the pictures, if they are as hard to pack as one drawn in few steps
    """

    parameters: dict[str, int]
    flops: int
    seconds: dict[str, float]
    memory: int
    disk: int


def forecast(model: LatentDiffusion, asked: ResolvedRequest) -> Forecast:
    """Draw the request's first batch in few steps, and one picture in fewer; errors as `generate`'s."""
    whole = _steps(model, asked)
    short = asked.model_copy(update={"steps": min(STEPS, asked.steps)})
    spent, count, picture, total = _timed(model, short)
    memory = peak()
    share = asked.pictures / count
    picture.image.save(written := io.BytesIO(), "PNG")
    return Forecast(
        parameters={part: _size(module) for part, module in model.parts().items()},
        flops=_counted(model, asked),
        seconds={
            "text": spent["text"],
            "sampling": spent["sampling"] * share * whole / total,
            "decoding": spent["decoding"] * share,
        },
        memory=memory,
        disk=written.tell() * asked.pictures,
    )


def _size(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def _steps(model: LatentDiffusion, asked: ResolvedRequest) -> int:
    """Steps of the request over all its batches."""
    return next(event.steps for event in generate(model, asked) if isinstance(event, Encoded))


def _timed(model: LatentDiffusion, short: ResolvedRequest) -> tuple[dict[str, float], int, Picture, int]:
    """Seconds by stage of the first batch, how many pictures it has, its last one, and the steps of all
    batches.
    """
    seconds = dict.fromkeys(("text", "sampling", "decoding"), 0.0)
    legs: dict[tuple[int, ...], list[float]] = {}
    batch, total, since = range(0), 0, time.monotonic()
    for event in generate(model, short):
        now = time.monotonic()
        if isinstance(event, Encoded):
            seconds["text"], total = now - since, event.steps
        elif isinstance(event, Progress):
            legs.setdefault(tuple(event.step.x.shape), []).append(now - since)
        elif isinstance(event, Drawn):
            batch = event.indices
        elif isinstance(event, Picture):
            seconds["decoding"] += now - since
            if event.index == batch[-1]:
                # a leg's first step also takes memory and lays weights out
                rest = [several[1:] or several for several in legs.values()]
                counts = [len(several) for several in legs.values()]
                each = zip(rest, counts, strict=True)
                seconds["sampling"] = sum(sum(spent) / len(spent) * number for spent, number in each)
                return seconds, len(batch), event, total
        since = now
    raise AssertionError("a request has a picture")


def _counted(model: LatentDiffusion, asked: ResolvedRequest) -> int:
    """Operations of the whole request, from those of its first picture in few steps."""
    short = asked.alone(0).model_copy(update={"steps": min(COUNTED, asked.steps)})
    text = drawn = steps = 0
    with FlopCounterMode(display=False) as counter:
        for event in generate(model, short):
            if isinstance(event, Encoded):
                text, steps = counter.get_total_flops(), event.steps
            elif isinstance(event, Drawn):
                drawn = counter.get_total_flops()
    whole = _steps(model, asked.alone(0))
    sampling, decoding = (drawn - text) // steps * whole, counter.get_total_flops() - drawn
    return int(text + (sampling + decoding) * asked.pictures)
