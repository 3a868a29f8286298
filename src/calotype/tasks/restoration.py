"""A photograph to restore as one request: from JSON, from Python, and in the metadata of what comes out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL.Image
import PIL.PngImagePlugin
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from calotype import __version__
from calotype.errors import InputError
from calotype.models.pixel_diffusion import PixelDiffusion
from calotype.safety.content import Verdict
from calotype.safety.policy import Metadata
from calotype.safety.provenance import EDITED, Signer
from calotype.tasks import restore
from calotype.tasks.noise_level import CameraNoise
from calotype.tasks.photo_file import Photo
from calotype.tasks.picture import KEY, write_png
from calotype.tasks.places import shareable
from calotype.tasks.request import sentence
from calotype.tasks.source import Source
from calotype.tasks.uncertainty import heat_map

Task = Literal["denoise", "inpaint", "upscale", "deblur"]
Kind = Literal["picture", "sample", "uncertainty"]

OWN: dict[Task, set[str]] = {
    "denoise": {"sigma", "camera", "gain", "read", "ensemble", "alike"},
    "inpaint": {"mask", "jacobian"},
    "upscale": {"sigma", "scale", "jacobian"},
    "deblur": {"sigma", "blur", "kernel", "jacobian"},
}
"""Fields that have a meaning for some tasks only."""

MOST_SAMPLES = 64
MOST_STEPS = 1000


class Restoration(BaseModel):
    """What `calotype denoise`, `inpaint`, `upscale` and `deblur` take, and mean by it.

    task      which of them
    model     a pixel model
    image     the photograph
    mask      as large: white is missing (inpaint)
    kernel    the blur as a small picture of a point (deblur), or
    blur      the deviation of a Gaussian one in pixels
    sigma     the noise's deviation, of 255; None estimates it (denoise), or is the command's own
    camera    noise that grows with brightness: `gain` and `read` (of 255), estimated where gain is None
    scale     2, 3 or 4 (upscale)
    samples   pictures to draw, 0 to 64; 0 and None: one estimate, nearest to the true picture in the mean
    seed      sample i takes seed + i
    steps     of each sample, and of an estimate but denoise's, 1 to 1000
    tile      pixels a side of what the network sees at once, from 32
    jacobian  guide through the network's slope
    ensemble  the mean of eight passes, over the picture's turns and mirrorings (denoise, without samples)
    alike     patches that look alike are restored together (denoise, without samples)

    A wrong field is an InputError of one sentence.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Task
    model: str = "photo"
    image: Source
    mask: Source | None = None
    kernel: Source | None = None
    blur: float | None = None
    sigma: float | None = None
    camera: bool = False
    gain: float | None = None
    read: float = 0.0
    scale: int = 2
    samples: int | None = None
    seed: int = 0
    steps: int = 30
    tile: int = 512
    jacobian: bool = False
    ensemble: bool = False
    alike: bool = False

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise InputError(sentence(error, Restoration.model_fields)) from None

    @model_validator(mode="after")
    def _check(self) -> Restoration:
        fields = type(self).model_fields
        for name in set().union(*OWN.values()) - OWN[self.task]:
            if getattr(self, name) != fields[name].default:
                raise InputError(f"The task {self.task} does not take {name}; leave it out.")
        if self.task == "inpaint" and self.mask is None:
            raise InputError("The task inpaint needs a mask, white where something is missing; give one.")
        if self.task == "deblur" and (self.blur is None) == (self.kernel is None):
            raise InputError("The task deblur needs to know the blur; give either blur or kernel.")
        if self.sigma is not None and (self.camera or self.gain is not None):
            raise InputError("sigma tells of white noise, camera and gain of a camera's; give one of them.")
        if self.scale not in (2, 3, 4):
            raise InputError(f"scale is {self.scale}; give 2, 3 or 4.")
        for name, low, high in (("samples", 0, MOST_SAMPLES), ("steps", 1, MOST_STEPS), ("tile", 32, 4096)):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InputError(f"{name} is {value}; give a whole number from {low} to {high}.")
        self.options()
        return self

    def options(self) -> restore.Options:
        """InputError for a seed out of range, and for what is of an estimate where samples are asked for."""
        return restore.Options(
            self.drawn,
            self.seed,
            self.steps,
            self.tile,
            jacobian=self.jacobian,
            ensemble=self.ensemble,
            alike=self.alike,
        )

    @property
    def drawn(self) -> int:
        """Samples that are drawn; 0 where an estimate is wanted.  The slope guides samples only."""
        return int(self.jacobian) if self.samples is None else self.samples

    @property
    def grow(self) -> int:
        """How many times longer the sides become."""
        return self.scale if self.task == "upscale" else 1

    @property
    def passes(self) -> int:
        """Of the whole picture through the network."""
        estimate = self.options().passes_of_mean if self.task == "denoise" else self.steps
        return self.drawn * self.steps or estimate

    @property
    def pictures(self) -> int:
        """The result; and where several samples are drawn, each of them and the map of how they differ."""
        return 1 if self.drawn < 2 else self.drawn + 2

    def kind_of(self, place: int) -> Kind:
        """What picture `place` is: the result, then the samples, then the map."""
        if place == 0:
            return "picture"
        return "uncertainty" if place == self.pictures - 1 else "sample"

    def seed_of(self, place: int) -> int:
        """Of a sample its own; of the others the first sample's."""
        return self.seed + (place - 1 if self.kind_of(place) == "sample" else 0)

    def size(self) -> tuple[int, int]:
        """(width, height) of what comes out; InputError where mask and photograph differ in size."""
        width, height = self.image.size()
        if self.mask is not None and self.mask.size() != (width, height):
            raise InputError(
                f"The mask is {'x'.join(map(str, self.mask.size()))} pixels, but the image is "
                f"{width}x{height}; make the mask as large as the image."
            )
        return (width * self.grow, height * self.grow)

    def run(
        self,
        model: PixelDiffusion,
        photo: Photo,
        mask: Photo | None = None,
        kernel: Photo | None = None,
        watch: restore.Watch | None = None,
    ) -> restore.Restored:
        """The task done on pictures already read.  Raises InputError as the functions of `restore`."""
        options = self.options()
        noise = {} if self.sigma is None else {"sigma": self.sigma}
        if self.task == "denoise":
            camera = None if self.gain is None else CameraNoise(self.gain, self.read / 255)
            return restore.denoise(
                model,
                photo,
                sigma=self.sigma,
                camera=camera,
                estimate=not self.camera,
                options=options,
                watch=watch,
            )
        if self.task == "inpaint":
            assert mask is not None
            return restore.inpaint(model, photo, mask.pixels.mean(0) > 0.5, options=options, watch=watch)
        if self.task == "upscale":
            return restore.upscale(model, photo, self.scale, options=options, watch=watch, **noise)
        shape = None if kernel is None else kernel.pixels.mean(0)
        return restore.deblur(
            model, photo, blur=self.blur, kernel=shape, options=options, watch=watch, **noise
        )


@dataclass(frozen=True)
class RestoredPicture:
    """One of a restoration's pictures, in RGB of 8 bits, and its place among them.

    record    what its file will tell
    scale     of the map: what its brightest colour means
    content   what the content check said; None where it was off
    metadata  how much of the record its file will tell
    signer    signs its file
    """

    image: PIL.Image.Image
    index: int
    record: Mapping[str, Any]
    scale: str | None = None
    content: Verdict | None = None
    metadata: Metadata = "full"
    signer: Signer | None = None

    def save(self, path: str | Path) -> None:
        """Write the PNG with its record, atomically; OutputError where that fails."""
        told = {name: value for name, value in self.record.items() if name != "request"}
        if self.content is not None:
            told["content"] = asdict(self.content)
        asked = self.record["request"]
        told |= {"request": asked} if self.metadata == "full" else {"settings": shareable(asked)}
        info = PIL.PngImagePlugin.PngInfo()
        info.add_itxt(KEY, json.dumps(told, ensure_ascii=False))
        if self.scale is not None:
            info.add_itxt("scale", self.scale)
        write_png(Path(path), self.image, info, self.signer, EDITED)


def pictures(asked: Restoration, found: restore.Restored, model: PixelDiffusion) -> Iterator[RestoredPicture]:
    """All that a restoration leaves, in its order; without what the camera wrote: it may tell the place."""
    record = {
        "calotype_version": __version__,
        "model_name": model.config.name,
        "weights_sha256": model.weights_hash,
        "request": asked.model_dump(mode="json", exclude_defaults=True),
    }
    for index, photo in enumerate((found.photo, *found.samples)):
        yield RestoredPicture(shown(photo), index, record)
    if found.deviation is not None:
        top = float(np.quantile(np.sqrt((found.deviation**2).mean(0)), 0.995))
        colours = PIL.Image.fromarray(heat_map(found.deviation, top))
        yield RestoredPicture(colours, asked.pictures - 1, record, f"{255 * top:.2f} of 255 is brightest")


def shown(photo: Photo) -> PIL.Image.Image:
    """In RGB of 8 bits, without its alpha."""
    levels = np.rint(photo.pixels.clip(0, 1) * 255).astype(np.uint8)
    # (C H W) -> (H W 3)
    return PIL.Image.fromarray(np.ascontiguousarray(levels.transpose(1, 2, 0).repeat(3 // len(levels), 2)))
