"""Where pictures are drawn: in this process, or in a replica (`replicas.py`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import PIL.Image

from calotype.conditioning.prompt import chunks
from calotype.conditioning.tokenizer import Tokenizer
from calotype.errors import CalotypeError
from calotype.server.joined import Joined
from calotype.server.models import Models
from calotype.server.restoring import restored
from calotype.tasks import generate, restore
from calotype.tasks.picture import Picture
from calotype.tasks.request import ResolvedRequest
from calotype.tasks.restoration import Restoration, RestoredPicture
from calotype.tasks.steady import batch_size

PREVIEW_SHARE = 0.2
"""Of the time, at most, goes into previews."""


@dataclass(frozen=True)
class Stepped:
    """One step is done for the pictures `indices`; `done` of `steps` in all."""

    indices: range
    done: int
    steps: int


@dataclass(frozen=True)
class Seen:
    """What picture `index` looks like by now."""

    index: int
    image: PIL.Image.Image


Event = generate.Notice | Stepped | Seen | Picture

Wished = Callable[[], Collection[int]]
"""The pictures of a batch whose previews somebody would see, asked after each step."""


@dataclass(frozen=True)
class Measure:
    """What a batch is cut by: how many pictures are drawn at once, and how long their texts are."""

    at_once: int
    tokenizer: Tokenizer | None

    def length(self, request: ResolvedRequest, place: int) -> int:
        """Chunks of the picture's text, which say how many tokens the network reads."""
        prompt = request.parsed(request.prompt_of(place))
        if prompt is None or self.tokenizer is None:
            return 0
        return len(list(chunks(prompt, self.tokenizer)))


class Lost(CalotypeError):  # noqa: N818
    """The process that drew is gone, and its pictures can be drawn again."""


class Easel(Protocol):
    """Draws for one hand, one batch at a time.  To leave an iteration stops the work within a step."""

    def measure(self, asked: ResolvedRequest) -> Measure: ...

    def draw(self, asked: Joined, wished: Wished) -> Iterator[Event]: ...

    def restore(
        self, asked: Restoration, uploads: Mapping[str, PIL.Image.Image], watch: restore.Watch
    ) -> Iterator[RestoredPicture]: ...


class Here:
    """An easel in this process."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._next_preview = 0.0

    def measure(self, asked: ResolvedRequest) -> Measure:
        model = self._models.get(asked.model, asked).model
        config = model.config
        shape = (
            config.unet.out_channels,
            -(-asked.height // config.factor),
            -(-asked.width // config.factor),
        )
        return Measure(batch_size(model, shape), model.text_encoder.tokenizer)

    def draw(self, asked: Joined, wished: Wished) -> Iterator[Event]:
        studio = self._models.get(asked.model, asked)
        for event in studio.events(asked):
            if isinstance(event, generate.Progress):
                yield Stepped(event.indices, event.done, event.steps)
                if time.monotonic() < self._next_preview:
                    continue
                began = time.monotonic()
                for index in wished():
                    if index not in event.indices:
                        continue
                    image = studio.preview(event.step.denoised[event.indices.index(index)])
                    if studio.may_show(image, asked.alone(index)):
                        yield Seen(index, image)
                took = time.monotonic() - began
                self._next_preview = time.monotonic() + took * (1 / PREVIEW_SHARE - 1)
            elif isinstance(event, generate.Notice | Picture):
                yield event

    def restore(
        self, asked: Restoration, uploads: Mapping[str, PIL.Image.Image], watch: restore.Watch
    ) -> Iterator[RestoredPicture]:
        model = self._models.restorer(asked.model)
        yield from restored(model, asked, uploads, watch, self._models.safety)
