"""AUTOMATIC1111's interface: ControlNets, as the extension sd-webui-controlnet takes and lists them.

https://github.com/Mikubill/sd-webui-controlnet/wiki/API
"""

from __future__ import annotations

import asyncio
from typing import Any

import fastapi
import PIL.ImageOps
from pydantic import BaseModel, ConfigDict, ValidationError

from calotype.server.a1111 import TextToImage, bare
from calotype.server.desk import Desk
from calotype.server.native import AnyDesk
from calotype.server.refusal import Refusal
from calotype.server.sources import decoded, one_upload, unpacked
from calotype.tasks.guiding import MOST_CONTROLS
from calotype.tasks.request import sentence

router = fastapi.APIRouter(prefix="/controlnet")

FITS = {
    "0": "",
    "Just Resize": "",
    "1": "fit",
    "Crop and Resize": "fit",
    "2": "pad",
    "Resize and Fill": "pad",
}


class Unit(BaseModel):
    """One ControlNet; its picture is what the net looks at, for nothing is detected in it here."""

    model_config = ConfigDict(extra="ignore")

    enabled: bool = True
    image: str | dict[str, Any] | None = None
    input_image: str | None = None
    mask: Any = None
    module: str | None = None
    model: str | None = None
    weight: float = 1.0
    resize_mode: str | int = "Crop and Resize"
    guidance_start: float = 0.0
    guidance_end: float = 1.0
    control_mode: str | int = "Balanced"

    def picture(self) -> str:
        """Refusal (422) for what is not served."""
        found = self.image.get("image") if isinstance(self.image, dict) else self.image
        found = found or self.input_image
        for wrong, text in (
            (
                self.model in (None, "", "None"),
                "A ControlNet unit needs a model; /controlnet/model_list has them.",
            ),
            (
                (self.module or "none").lower() != "none",
                "module is none here; send what the ControlNet looks at.",
            ),
            (bool(self.mask), "A ControlNet unit takes no mask here; leave it out."),
            (self.control_mode not in ("Balanced", 0), "control_mode is Balanced here."),
            (str(self.resize_mode) not in FITS, f"resize_mode is one of {', '.join(FITS)}."),
            (not isinstance(found, str), "A ControlNet unit needs an image, as base64."),
        ):
            if wrong:
                raise Refusal(422, "not_served", text)
        return str(found)


def units_of(body: TextToImage) -> list[Unit]:
    """Those that are on.  Refusal (422) for other scripts, and for what is no unit."""
    scripts = (body.model_extra or {}).get("alwayson_scripts") or {}
    found: list[Unit] = []
    for name, script in scripts.items() if isinstance(scripts, dict) else ():
        args = script.get("args") if isinstance(script, dict) else None
        if name.lower() != "controlnet":
            if args:
                raise Refusal(
                    422, "not_served", f"This server does not serve the script {name[:80]}; leave it out."
                )
            continue
        try:
            found += [Unit.model_validate(one) for one in args or []]
        except ValidationError as error:
            raise Refusal(422, "invalid_request", sentence(error, Unit.model_fields)) from None
    on = [unit for unit in found if unit.enabled]
    if len(on) > MOST_CONTROLS:
        raise Refusal(
            422, "over_limit", f"There are {len(on)} ControlNet units; give at most {MOST_CONTROLS}."
        )
    return on


async def controls_of(body: TextToImage, desk: Desk) -> dict[str, Any]:
    """The request's `controls`, their pictures unpacked and fitted; nothing where there are none."""
    sent = [(unit, decoded(unit.picture(), "image")) for unit in units_of(body)]

    def control(unit: Unit, data: bytes) -> dict[str, Any]:
        with one_upload:
            image = unpacked(data, desk.settings.limits.upload_pixels)
        size, how = (body.width, body.height), FITS[str(unit.resize_mode)]
        if how and size[0] and size[1] and size[0] * size[1] <= desk.settings.limits.pixels:
            image = (PIL.ImageOps.fit if how == "fit" else PIL.ImageOps.pad)(image, (size[0], size[1]))
        told = {"scale": unit.weight, "start": unit.guidance_start, "end": unit.guidance_end}
        return {"net": bare(str(unit.model)), "picture": image, **told}

    found = [await asyncio.to_thread(control, unit, data) for unit, data in sent]
    return {"controls": found} if found else {}


@router.get("/version")
def version() -> dict[str, int]:
    return {"version": 2}


@router.get("/model_list")
def model_list(desk: AnyDesk) -> dict[str, list[str]]:
    return {"model_list": [one.name for one in desk.models.addons.listed() if one.kind == "control"]}


@router.get("/module_list")
def module_list() -> dict[str, list[str]]:
    """Nothing is detected in pictures here."""
    return {"module_list": ["none"]}
