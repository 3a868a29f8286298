"""AUTOMATIC1111's interface: the tasks, from words and from pictures."""

from __future__ import annotations

import asyncio
import base64
import io
from dataclasses import asdict
from typing import Any

import fastapi
import numpy as np
import PIL.Image
import PIL.ImageFilter
import PIL.ImageOps
import PIL.PngImagePlugin
from pydantic import BaseModel, ConfigDict

from calotype.errors import InputError
from calotype.server.a1111 import TextToImage, answer, chosen, file_of
from calotype.server.a1111_controls import controls_of
from calotype.server.native import AnyDesk
from calotype.server.refusal import Refusal
from calotype.server.sources import decoded, one_upload, unpacked
from calotype.server.waiting import finished
from calotype.tasks.editing import LONGEST_SIDE
from calotype.tasks.restoration import Restoration

router = fastapi.APIRouter(prefix="/sdapi/v1")

Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels."""


class ImageToImage(TextToImage):
    """With `inpaint_full_res`, only what is around the mask is drawn, at width and height, and laid back."""

    init_images: tuple[str, ...] = ()
    mask: str | None = None
    mask_blur: float = 4.0
    inpainting_fill: int = 0
    inpaint_full_res: bool = True
    inpaint_full_res_padding: int = 0
    inpainting_mask_invert: int = 0
    resize_mode: int = 0
    initial_noise_multiplier: float | None = None

    def check(self) -> None:
        """Refusal for what is not served."""
        count = len(self.init_images)
        for wrong, text in (
            (count != 1, f"There are {count} init_images; this server takes one."),
            (self.enable_hr, "img2img has no enable_hr; leave it out."),
            (self.resize_mode not in (0, 1), "resize_mode is 0 (resize) or 1 (crop and resize) here."),
            (self.inpainting_fill not in (0, 1), "inpainting_fill is 0 (fill) or 1 (original) here."),
            (self.initial_noise_multiplier not in (None, 1), "initial_noise_multiplier is 1 here."),
            (not 0 <= self.mask_blur <= 256, "mask_blur is a number from 0 to 256."),
            (
                not 0 <= self.inpaint_full_res_padding <= LONGEST_SIDE,
                f"inpaint_full_res_padding is a number of pixels from 0 to {LONGEST_SIDE}.",
            ),
        ):
            if wrong:
                raise Refusal(422, "not_served", text)

    def size(self, image: PIL.Image.Image) -> tuple[int, int]:
        """Of what is drawn.  InputError where a side is none."""
        width, height = self.width or image.width, self.height or image.height
        if not (1 <= width <= LONGEST_SIDE and 1 <= height <= LONGEST_SIDE):
            raise InputError(f"The size is {width}x{height}; give sides from 1 to {LONGEST_SIDE} pixels.")
        return width, height

    def fitted(self, image: PIL.Image.Image) -> PIL.Image.Image:
        """In the size that is drawn."""
        if self.resize_mode == 1:
            return PIL.ImageOps.fit(image, self.size(image), PIL.Image.Resampling.LANCZOS)
        return image.resize(self.size(image), PIL.Image.Resampling.LANCZOS)

    def painted(self, mask: PIL.Image.Image, size: tuple[int, int]) -> PIL.Image.Image:
        """The mask in grey, as large as the image, white where to draw, its edge soft."""
        grey = mask.convert("L").resize(size, PIL.Image.Resampling.LANCZOS)
        if self.inpainting_mask_invert:
            grey = PIL.ImageOps.invert(grey)
        return grey.filter(PIL.ImageFilter.GaussianBlur(self.mask_blur))


@router.post("/txt2img")
async def txt2img(body: TextToImage, request: fastapi.Request, desk: AnyDesk) -> dict[str, Any]:
    """Waits for the pictures; a client that leaves cancels them."""
    controls = await controls_of(body, desk)
    return await answer(body, body.request(chosen(request, desk), **controls), request, desk)


@router.post("/img2img")
async def img2img(body: ImageToImage, request: fastapi.Request, desk: AnyDesk) -> dict[str, Any]:
    """Waits for the pictures; a client that leaves cancels them."""
    body.check()
    most = desk.settings.limits.upload_pixels
    data = [decoded(body.init_images[0], "init_images")]
    if body.mask:
        data.append(decoded(body.mask, "mask"))

    def begun() -> tuple[dict[str, Any], PIL.Image.Image, PIL.Image.Image | None, Box | None]:
        with one_upload:
            image, *masks = (unpacked(one, most) for one in data)
        if not masks:
            return {"image": body.fitted(image)}, image, None, None
        mask = body.painted(masks[0], image.size)
        box = mask.getbbox()
        if box is None:
            raise InputError("The mask is all black, which keeps everything; paint white what to draw anew.")
        filled = image if body.inpainting_fill == 1 else spread(image, mask)
        box = (0, 0, *image.size)
        if body.inpaint_full_res:
            box = _around(mask, body.inpaint_full_res_padding, body.size(image))
        mine = body.fitted(mask.crop(box))
        return {"image": body.fitted(filled.crop(box)), "mask": mine}, image, mask, box

    fields, image, mask, box = await asyncio.to_thread(begun)
    fields |= await controls_of(body, desk)
    width, height = fields["image"].size
    strength = 0.75 if body.denoising_strength is None else body.denoising_strength
    asked = body.request(chosen(request, desk), **fields, strength=strength, width=width, height=height)
    told = await answer(body, asked, request, desk)
    if body.inpaint_full_res and mask is not None and box is not None:
        told["images"] = [
            await asyncio.to_thread(_laid_back, text, image, mask, box) for text in told["images"]
        ]
    return told


def _around(mask: PIL.Image.Image, padding: int, size: tuple[int, int]) -> Box:
    """What holds all of the mask and the padding, as broad for its height as `size` where there is room."""
    found = mask.getbbox()
    assert found is not None
    left, top = max(0, found[0] - padding), max(0, found[1] - padding)
    right, bottom = min(mask.width, found[2] + padding), min(mask.height, found[3] + padding)
    width = min(mask.width, max(right - left, round((bottom - top) * size[0] / size[1])))
    height = min(mask.height, max(bottom - top, round((right - left) * size[1] / size[0])))
    left = min(max(0, (left + right - width) // 2), mask.width - width)
    top = min(max(0, (top + bottom - height) // 2), mask.height - height)
    return left, top, left + width, top + height


def spread(image: PIL.Image.Image, mask: PIL.Image.Image) -> PIL.Image.Image:
    """The image with what the mask marks filled by the colours around it."""
    pixels = np.asarray(image, dtype=np.float32)  # (H W 3)
    known = (np.asarray(mask) < 128).astype(np.uint8)  # (H W)
    if not known.any():
        return image
    kept = PIL.Image.fromarray((pixels * known[..., None]).astype(np.uint8))
    weight = PIL.Image.fromarray(known * np.uint8(255))
    filled = np.full_like(pixels, pixels[known > 0].mean(0))
    for radius in (64, 16, 4):  # the nearer, the later
        blur = PIL.ImageFilter.GaussianBlur(radius)
        share = np.asarray(weight.filter(blur), dtype=np.float32)[..., None] / 255  # (H W 1)
        colour = np.asarray(kept.filter(blur), dtype=np.float32) / np.maximum(share, 1 / 255)
        filled = np.where(share > 0.05, colour, filled)
    out = np.where(known[..., None] > 0, pixels, filled)
    return PIL.Image.fromarray(out.clip(0, 255).astype(np.uint8))


def _laid_back(text: str, image: PIL.Image.Image, mask: PIL.Image.Image, box: Box) -> str:
    """A drawn part laid into the whole by its mask, with the texts of its PNG."""
    info = PIL.PngImagePlugin.PngInfo()
    with PIL.Image.open(io.BytesIO(base64.b64decode(text)), formats=("PNG",)) as opened:
        opened.load()
        for key, value in opened.info.items():
            if isinstance(value, str):
                info.add_itxt(str(key), value)
        part = opened.convert("RGB").resize((box[2] - box[0], box[3] - box[1]), PIL.Image.Resampling.LANCZOS)
    whole = image.copy()
    whole.paste(part, box[:2], mask.crop(box))
    buffer = io.BytesIO()
    whole.save(buffer, "PNG", pnginfo=info)
    return base64.b64encode(buffer.getvalue()).decode()


class Extras(BaseModel):
    """What of their upscalers' form has a meaning here: one upscaler, 2, 3 or 4 times."""

    model_config = ConfigDict(extra="allow")

    image: str
    upscaler_1: str = "None"
    upscaling_resize: float = 2.0
    resize_mode: int = 0


@router.post("/extra-single-image")
async def extra_single_image(body: Extras, request: fastapi.Request, desk: AnyDesk) -> dict[str, Any]:
    """Waits for the larger picture; a client that leaves cancels it."""
    for field in ("gfpgan_visibility", "codeformer_visibility", "extras_upscaler_2_visibility"):
        if (body.model_extra or {}).get(field):
            raise Refusal(422, "not_served", f"This server does not serve {field}; leave it out.")
    if body.resize_mode != 0 or body.upscaling_resize not in (2, 3, 4):
        raise Refusal(
            422, "not_served", "This server enlarges 2, 3 or 4 times; give that as upscaling_resize."
        )
    names = desk.models.restorers
    if body.upscaler_1 not in names:
        raise Refusal(
            422,
            "not_served",
            f"There is no upscaler {body.upscaler_1[:80]!r}; there are {', '.join(names) or 'none'}.",
        )
    data = decoded(body.image)

    def begun() -> PIL.Image.Image:
        with one_upload:
            return unpacked(data, desk.settings.limits.upload_pixels)

    image = await asyncio.to_thread(begun)
    asked = Restoration(task="upscale", model=body.upscaler_1, image=image, scale=int(body.upscaling_resize))
    job = await finished(desk, asked, request)
    verdict = None if job.content[0] is None else asdict(job.content[0])
    return {"html_info": "", "image": await asyncio.to_thread(file_of, desk, job, 0), "content": verdict}
