"""Pictures of several requests, drawn as one."""

from __future__ import annotations

from collections.abc import Sequence

from calotype.models.config import ModelConfig
from calotype.tasks.request import ResolvedRequest

_OWN = {"prompts", "seed", "count"}


def company(request: ResolvedRequest) -> str:
    """Pictures whose requests give the same text here may share a batch: all but prompt and seed agree."""
    return request.model_dump_json(exclude=_OWN)


class Joined(ResolvedRequest):
    """Requests of one picture each and of one `company`, as `generate` takes them.

    Each picture keeps its own prompt, seed and record, so it is the one its own request makes.
    """

    parts: tuple[ResolvedRequest, ...]

    @classmethod
    def of(cls, parts: Sequence[ResolvedRequest]) -> Joined:
        shared = dict(parts[0])
        shared |= {"prompts": tuple(part.prompts[0] for part in parts), "seed": 0, "count": 1}
        return cls.model_construct(**shared, parts=tuple(parts))

    def resolved(self, config: ModelConfig) -> ResolvedRequest:  # noqa: ARG002
        """Itself: every part was resolved before."""
        return self

    def seed_of(self, index: int) -> int:
        return self.parts[index].seed

    def alone(self, index: int) -> ResolvedRequest:
        return self.parts[index]
