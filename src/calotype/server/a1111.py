"""AUTOMATIC1111's interface, for its clients; `a1111_pictures` has the tasks that begin from a picture.

Prompts are read in its syntax and noise is drawn as it draws it, so that its seeds mean what they mean there.
https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/API
"""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import fastapi
import PIL.Image
from pydantic import BaseModel, ConfigDict

from calotype.server.desk import Desk
from calotype.server.native import AnyDesk
from calotype.server.refusal import Refusal
from calotype.server.sources import decoded, one_upload
from calotype.server.store import Job
from calotype.server.uploads import told
from calotype.server.waiting import finished
from calotype.tasks import parameters
from calotype.tasks.parameters import GRIDS, SAMPLERS
from calotype.tasks.request import Request, ResolvedRequest

router = fastapi.APIRouter(prefix="/sdapi/v1")


class TextToImage(BaseModel):
    """The fields that mean something here; others are accepted where they are at rest, see `WANTED`."""

    model_config = ConfigDict(extra="allow")

    prompt: str = ""
    negative_prompt: str = ""
    seed: int = -1
    sampler_name: str | None = None
    sampler_index: str | None = None
    scheduler: str | None = None
    batch_size: int = 1
    n_iter: int = 1
    steps: int | None = None
    cfg_scale: float | None = None
    width: int | None = None
    height: int | None = None
    eta: float | None = None
    send_images: bool = True
    override_settings: dict[str, Any] = {}
    tiling: bool | None = None
    subseed: int = -1
    subseed_strength: float = 0.0
    enable_hr: bool = False
    denoising_strength: float | None = None
    hr_scale: float = 2.0
    hr_upscaler: str | None = None
    hr_second_pass_steps: int = 0
    hr_resize_x: int = 0
    hr_resize_y: int = 0
    refiner_checkpoint: str | None = None
    refiner_switch_at: float | None = None

    def request(self, model: str, **begun: Any) -> Request:
        """`begun` says what the pictures begin from, where that is not noise.

        Refusal for what is not served, InputError for a wrong value."""
        for field in WANTED:
            if (self.model_extra or {}).get(field):
                raise Refusal(422, "not_served", f"This server does not serve {field}; leave it out.")
        sampler, grid = _named(self.sampler_name or self.sampler_index, self.scheduler)
        settings = {"sd_model_checkpoint": model, "CLIP_stop_at_last_layers": 1, **self.override_settings}
        skip = settings["CLIP_stop_at_last_layers"]
        return Request(
            prompts=self.prompt,
            negative=self.negative_prompt,
            prompt_syntax="a1111",
            noise="philox",
            model=settings["sd_model_checkpoint"],
            clip_skip=None if skip == 1 else skip,
            seed=None if self.seed == -1 else self.seed,
            sampler=sampler,
            grid=grid,
            sampler_options={"eta": self.eta} if self.eta and sampler == "ddim" else {},
            steps=self.steps,
            guidance=self.cfg_scale,
            count=self.batch_size * self.n_iter,
            wrap="xy" if self.tiling else None,
            vary=self.subseed_strength or None,
            vary_seed=self.subseed if self.subseed_strength and self.subseed != -1 else None,
            **self._refined(),
            **({"width": self.width, "height": self.height} | self._larger() | begun),
        )

    def _larger(self) -> dict[str, Any]:
        """The fields of their high-resolution fix.  Refusal for what of it is not served."""
        if not self.enable_hr:
            return {}
        if self.width is None or self.height is None:
            raise Refusal(422, "invalid_request", "enable_hr enlarges a size; give width and height.")
        if self.hr_second_pass_steps not in (0, self.steps):
            raise Refusal(422, "not_served", "This server does not serve hr_second_pass_steps; leave it out.")
        upscaler = self.hr_upscaler or "Latent"
        if upscaler not in ENLARGERS:
            raise Refusal(
                422,
                "not_served",
                f"There is no hr_upscaler {upscaler[:80]!r}; there are {', '.join(ENLARGERS)}.",
            )
        if not 0 < self.hr_scale <= 16:
            raise Refusal(422, "invalid_request", "hr_scale is how many times larger; give 1 to 16.")
        return {
            "width": self.hr_resize_x or round(self.width * self.hr_scale),
            "height": self.hr_resize_y or round(self.height * self.hr_scale),
            "hires_from": (self.width, self.height),
            "hires_by": ENLARGERS[upscaler],
            "strength": 0.7 if self.denoising_strength is None else self.denoising_strength,
        }

    def _refined(self) -> dict[str, Any]:
        """The fields of their refiner, which takes over at the same noise level as ours.

        Refusal where they do not say when."""
        if self.refiner_checkpoint in (None, "", "None", "none") or self.refiner_switch_at == 1:
            return {}
        if self.refiner_switch_at is None or not 0 < self.refiner_switch_at < 1:
            raise Refusal(
                422,
                "invalid_request",
                "refiner_checkpoint needs a refiner_switch_at above 0 and below 1; 0.8 is usual.",
            )
        return {"refiner": bare(self.refiner_checkpoint), "refiner_at": self.refiner_switch_at}


ENLARGERS = {"Latent": "latents", "Latent (bicubic)": "latents", "None": "pixels", "Lanczos": "pixels"}
"""What their high-resolution fix enlarges; both ways by a bicubic here."""


WANTED = (
    "restore_faces",
    "hr_checkpoint_name",
    "hr_sampler_name",
    "hr_scheduler",
    "hr_prompt",
    "hr_negative_prompt",
    "styles",
    "script_name",
)
"""Fields that would change the picture and are not served: refused when set, never ignored."""


class Encoded(BaseModel):
    image: str


class Options(BaseModel):
    model_config = ConfigDict(extra="allow")

    sd_model_checkpoint: str | None = None


async def answer(body: TextToImage, asked: Request, request: fastapi.Request, desk: Desk) -> dict[str, Any]:
    """Waits for the pictures, after `interrupt` for those there are; a client that leaves cancels them."""
    job = await finished(desk, asked, request, partly=True)
    images = [await asyncio.to_thread(file_of, desk, job, place) for place in job.pictures]
    return {
        "images": images if body.send_images else [],
        "parameters": body.model_dump(mode="json", exclude={"init_images", "mask"}),
        "info": json.dumps(await asyncio.to_thread(_info, desk, job), ensure_ascii=False),
    }


@router.post("/extra-batch-images")
@router.post("/interrogate")
def not_served() -> None:
    """Refused."""
    raise Refusal(422, "not_served", "This server does not do that; /openapi.json lists what it does.")


@router.post("/png-info")
async def png_info(body: Encoded, desk: AnyDesk) -> dict[str, Any]:
    data = decoded(body.image)

    def read() -> str:
        with one_upload:
            return told(data, desk.settings.limits.upload_pixels).text

    text = await asyncio.to_thread(read)
    return {"info": text, "items": {"parameters": text} if text else {}, "parameters": parameters.read(text)}


@router.get("/progress")
def progress(desk: AnyDesk, skip_current_image: bool = False) -> dict[str, Any]:
    """Of the job that is drawn now, its preview from the second call on; job_count is 0 where none is."""
    names = desk.row.active()
    if names and not skip_current_image:
        desk.live.glance(names[0])
    seen = desk.live.sight(names[0]) if names else None
    step = seen.progress if seen else None
    image = None
    if seen and seen.preview and not skip_current_image:
        image = seen.preview.url.partition(",")[2]
    return {
        "progress": step.fraction if step else 0.0,
        "eta_relative": 0.0,
        "state": {
            "skipped": False,
            "interrupted": False,
            "job": names[0] if names else "",
            "job_count": len(names),
            "job_no": 0,
            "sampling_step": step.step if step else 0,
            "sampling_steps": step.steps if step else 0,
        },
        "current_image": image,
        "textinfo": None,
    }


@router.post("/interrupt")
@router.post("/skip")
def interrupt(desk: AnyDesk) -> dict[str, Any]:
    """Cancels the job that is drawn now."""
    names = desk.row.active()
    if names:
        desk.row.cancel(names[0])
    return {}


@router.get("/options")
def options(request: fastapi.Request, desk: AnyDesk) -> dict[str, Any]:
    name = chosen(request, desk)
    return {
        "sd_model_checkpoint": name,
        "sd_checkpoint_hash": "",
        "CLIP_stop_at_last_layers": 1,
        "samples_format": "png",
    }


@router.post("/options")
def set_options(body: Options, request: fastapi.Request, desk: AnyDesk) -> dict[str, Any]:
    """The model of requests that name none.  Other options are refused: they are each request's own."""
    others = [
        name for name, value in (body.model_extra or {}).items() if options(request, desk).get(name) != value
    ]
    if others:
        raise Refusal(
            422, "not_served", f"The option {others[0][:80]} cannot be set here; only sd_model_checkpoint."
        )
    if body.sd_model_checkpoint is not None:
        request.app.state.a1111_model = desk.models.named(bare(body.sd_model_checkpoint)).name
    return {}


@router.get("/sd-models")
def sd_models(desk: AnyDesk) -> list[dict[str, Any]]:
    return [
        {
            "title": name,
            "model_name": name,
            "hash": None,
            "sha256": None,
            "filename": name,
            "config": None,
        }
        for name in desk.models.known
    ]


@router.post("/unload-checkpoint")
def unload(request: fastapi.Request, desk: AnyDesk) -> dict[str, Any]:
    desk.memory.unload(chosen(request, desk))
    return {}


def chosen(request: fastapi.Request, desk: Desk) -> str:
    name: str | None = getattr(request.app.state, "a1111_model", None)
    return name or desk.models.default


def bare(title: str) -> str:
    """A checkpoint's name without the hash that titles carry there: "sd15 [abc]"."""
    return title.partition(" [")[0]


def _named(sampler: str | None, schedule: str | None) -> tuple[str | None, str | None]:
    found = parameters.named(sampler or "", schedule or "")
    if sampler and found[0] is None:
        raise Refusal(
            422,
            "unknown_sampler",
            f"There is no sampler {sampler[:80]!r}; there are {', '.join(SAMPLERS.values())}.",
        )
    if schedule and schedule.lower() != "automatic" and found[1] is None:
        raise Refusal(
            422,
            "unknown_scheduler",
            f"There is no scheduler {schedule[:80]!r}; there are {', '.join(GRIDS.values())}.",
        )
    return found


def file_of(desk: Desk, job: Job, place: int) -> str:
    return base64.b64encode(desk.store.path(job.id, place).read_bytes()).decode()


def _info(desk: Desk, job: Job) -> dict[str, Any]:
    asked = job.request
    assert isinstance(asked, ResolvedRequest)
    texts = [_text(desk.store.path(job.id, place)) for place in job.pictures]
    return {
        "prompt": asked.prompts[0],
        "all_prompts": [asked.prompt_of(place) for place in job.pictures],
        "negative_prompt": asked.negative,
        "seed": asked.seed,
        "all_seeds": [asked.seed_of(place) for place in job.pictures],
        "width": asked.width,
        "height": asked.height,
        "sampler_name": SAMPLERS.get(asked.sampler, asked.sampler),
        "cfg_scale": asked.guidance,
        "steps": asked.steps,
        "batch_size": asked.pictures,
        "sd_model_name": asked.model,
        "infotexts": texts,
        "content": [None if found is None else asdict(found) for found in job.content],
    }


def _text(path: Path) -> str:
    """The settings that a picture's file tells, in that form."""
    with PIL.Image.open(path) as opened:
        return str(opened.info[parameters.KEY])
