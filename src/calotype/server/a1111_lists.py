"""AUTOMATIC1111's interface: the lists that its clients ask for."""

from __future__ import annotations

import resource
from typing import Any

import fastapi

from calotype import __version__
from calotype.server.a1111 import ENLARGERS
from calotype.server.native import AnyDesk
from calotype.tasks.parameters import GRIDS, SAMPLERS

router = fastapi.APIRouter(prefix="/sdapi/v1")


@router.get("/samplers")
def samplers() -> list[dict[str, Any]]:
    return [{"name": title, "aliases": [name], "options": {}} for name, title in SAMPLERS.items()]


@router.get("/schedulers")
def schedulers() -> list[dict[str, Any]]:
    known = [{"name": "automatic", "label": "Automatic", "aliases": None}]
    known += [{"name": name, "label": title, "aliases": None} for name, title in GRIDS.items()]
    return [{**row, "default_rho": -1.0, "need_inner_model": False} for row in known]


@router.get("/upscalers")
def upscalers(desk: AnyDesk) -> list[dict[str, Any]]:
    """Those of `extra-single-image`: models that restore photographs."""
    blank = {"model_name": None, "model_path": None, "model_url": None, "scale": 4}
    return [{"name": name, **blank} for name in desk.models.restorers]


@router.get("/latent-upscale-modes")
def latent_upscale_modes() -> list[dict[str, str]]:
    return [{"name": name} for name, kind in ENLARGERS.items() if kind == "latents"]


@router.get("/scripts")
def scripts() -> dict[str, list[str]]:
    return {"txt2img": [], "img2img": []}


@router.get("/embeddings")
def embeddings(desk: AnyDesk) -> dict[str, Any]:
    """By name.  A request must name one to use it, and theirs has no field for that: none is loaded."""
    names = [one.name for one in desk.models.addons.listed() if one.kind == "embedding"]
    return {"loaded": {}, "skipped": {name: {} for name in names}}


@router.get("/loras")
def loras(desk: AnyDesk) -> list[dict[str, Any]]:
    """Those that prompts may name, never where they lie."""
    names = [one.name for one in desk.models.addons.listed() if one.kind == "lora"]
    return [{"name": name.rpartition("/")[2], "alias": name, "path": "", "metadata": {}} for name in names]


@router.get("/cmd-flags")
def cmd_flags() -> dict[str, Any]:
    return {"api": True, "version": f"calotype {__version__}"}


@router.get("/memory")
def memory() -> dict[str, Any]:
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"ram": {"peak": used}, "cuda": {}}


for _path in (
    *("hypernetworks", "face-restorers", "realesrgan-models"),
    *("prompt-styles", "artist-categories", "artists", "sd-vae", "sd-modules"),
):

    @router.get(f"/{_path}", name=_path, operation_id=f"a1111_{_path.replace('-', '_')}")
    def none_here() -> list[Any]:
        """There are none."""
        return []


@router.post("/refresh-checkpoints")
@router.post("/refresh-loras")
@router.post("/refresh-vae")
@router.post("/reload-checkpoint")
def refresh() -> dict[str, Any]:
    """Nothing to do: the models are those the server was started with, loaded when they are used."""
    return {}
