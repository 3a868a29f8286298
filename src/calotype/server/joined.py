"""Pictures of several requests, drawn as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import PIL.Image

from calotype.models.config import ModelConfig
from calotype.server.store import CONTROLS, PICTURES
from calotype.tasks.request import ResolvedRequest
from calotype.tasks.source import Source

_OWN = {"prompts", "seed", "count", "vary_seed"}


def company(request: ResolvedRequest) -> str:
    """Pictures whose requests give the same text here may share a batch: all but prompt and seeds agree."""
    return request.model_dump_json(exclude=_OWN)


class Joined(ResolvedRequest):
    """Requests of one picture each and of one `company`, as `generate` takes them.

    Each picture keeps its own prompt, seeds and record, so it is the one its own request makes.
    """

    parts: tuple[ResolvedRequest, ...]

    @classmethod
    def of(cls, parts: Sequence[ResolvedRequest], begun: Mapping[str, PIL.Image.Image]) -> Joined:
        """`begun` holds the pictures of `store.sources`, by field: they are the same for all."""
        held = {name: Source.model_validate(picture) for name, picture in begun.items()}
        shared = dict(parts[0])
        shared |= {"prompts": tuple(part.prompts[0] for part in parts), "seed": 0, "count": 1}
        shared |= {name: source for name, source in held.items() if name in PICTURES}
        shared["controls"] = tuple(
            control.model_copy(update={"picture": held[name]})
            for name, control in zip(CONTROLS, parts[0].controls, strict=False)
        )
        return cls.model_construct(**shared, parts=tuple(parts))

    def resolved(self, config: ModelConfig) -> ResolvedRequest:  # noqa: ARG002
        """Itself: every part was resolved before."""
        return self

    @property
    def texts(self) -> tuple[str, ...]:
        return (*(text for part in self.parts for text in part.texts[:-1]), self.negative)

    def toward_of(self, index: int) -> tuple[str, float] | None:
        return self.parts[index].toward_of(0)

    def seed_of(self, index: int) -> int:
        return self.parts[index].seed

    def vary_seed_of(self, index: int) -> int | None:
        return self.parts[index].vary_seed

    def alone(self, index: int) -> ResolvedRequest:
        return self.parts[index]
