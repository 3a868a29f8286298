"""The native interface: what there is, /v1/models and /v1/addons, and what a form can offer."""

from __future__ import annotations

from typing import Any

import fastapi
from pydantic import BaseModel

from calotype.diffusion.grids import GRIDS
from calotype.diffusion.samplers import SAMPLERS
from calotype.models.config import ModelConfig
from calotype.server.addons import Kind as AddonKind
from calotype.server.desk import Desk
from calotype.server.models import Kind as ModelKind
from calotype.server.native import AnyDesk

router = fastapi.APIRouter(prefix="/v1")


class ModelView(BaseModel):
    """A model, with the fields of OpenAI's own list before ours; memory in bytes.

    The size, what sides are a multiple of, and the defaults are those of models that draw.
    """

    id: str
    object: str = "model"
    created: int
    owned_by: str = "calotype"
    kind: ModelKind
    about: str
    size: int | None = None
    multiple_of: int | None = None
    parameters: int
    memory: int
    loaded: bool
    default: bool
    steps: int | None = None
    guidance: float | None = None
    sampler: str | None = None
    grid: str | None = None


class AddonView(BaseModel):
    """What a request may name beside its model, and the family of models it was made for."""

    name: str
    kind: AddonKind
    family: str | None


class AddonList(BaseModel):
    data: list[AddonView]


class ModelList(BaseModel):
    object: str = "list"
    data: list[ModelView]
    budget: int


def model_view(desk: Desk, name: str) -> ModelView:
    known = desk.models.named(name)
    config = known.config
    own = {}
    if isinstance(config, ModelConfig):
        own = {name: getattr(config.defaults, name) for name in ("steps", "guidance", "sampler", "grid")}
        own |= {"size": config.size, "multiple_of": config.factor}
    return ModelView(
        id=name,
        kind=known.kind,
        created=int(known.changed),
        about=config.about,
        parameters=known.parameters,
        memory=known.memory,
        loaded=name in desk.memory.loaded(),
        default=name == desk.models.default,
        **own,
    )


@router.get("/models")
def models(desk: AnyDesk) -> ModelList:
    found = desk.models
    return ModelList(data=[model_view(desk, name) for name in found.known], budget=found.budget)


@router.get("/models/{name}")
def model(name: str, desk: AnyDesk) -> ModelView:
    return model_view(desk, name)


@router.post("/models/{name}/load")
def load(name: str, desk: AnyDesk) -> ModelView:
    """Load it now and not with its first request; others may have to leave for it."""
    desk.models.named(name)
    desk.memory.load(name)
    return model_view(desk, name)


@router.post("/models/{name}/unload")
def unload(name: str, desk: AnyDesk) -> ModelView:
    desk.models.named(name)
    desk.memory.unload(name)
    return model_view(desk, name)


@router.get("/addons")
def addons(desk: AnyDesk) -> AddonList:
    """LoRAs, textual inversions and ControlNets of the owner's folder."""
    found = desk.models.addons.listed()
    return AddonList(data=[AddonView(name=one.name, kind=one.kind, family=one.family) for one in found])


@router.get("/choices")
def choices(desk: AnyDesk) -> dict[str, Any]:
    """What a form can offer: samplers with their options, grids, the limits and guards of this server."""
    limits, safety = desk.settings.limits, desk.settings.safety
    return {
        "samplers": {name: dict(sampler.options) for name, sampler in SAMPLERS.items()},
        "grids": list(GRIDS),
        "limits": {"pictures": limits.pictures, "pixels": limits.pixels, "steps": limits.steps},
        "guards": {
            "content_check": safety.content_check,
            "threshold": safety.threshold,
            "block_list": safety.block_list is not None,
            "metadata": safety.metadata,
            "watermark": safety.watermark,
            "signed": safety.signer is not None,
        },
    }
