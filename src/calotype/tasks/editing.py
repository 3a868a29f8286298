"""The part of a `Request` that says what its pictures begin from and how they hang together."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from calotype.diffusion.samplers import SAMPLERS
from calotype.diffusion.walk import PATHS
from calotype.errors import InputError
from calotype.models.config import ModelConfig
from calotype.tasks.source import Source

LONGEST_SIDE = 4096  # pixels
MOST_FRAMES = 10_000

Invert = Literal["euler", "walk", "edit_friendly"]


class Editing(BaseModel):
    """Fields of every `Request`; each changes a row of the table, none needs a loop of its own.

    image       the picture to begin from: a path or, in Python, a Pillow picture
    strength    above 0 to 1: how much of the way from noise is gone again; None is 0.75, and
                1 with a mask, margin or inversion
    mask        as large as the image: white is drawn anew, black is kept, grey is mixed
    margin      (left, top, right, bottom) pixels to draw around the image
    invert      the noise is found from the image, not drawn: euler (DDIM inversion), or the exact walk on the
                plain process' path (walk) or on independent states (edit_friendly, arXiv 2304.06140)
    was         what the image shows, for the inversion; None is the prompt itself
    hires_from  (width, height) to draw first, to be enlarged to the whole size and refined by `strength`
    hires_by    what is enlarged: pixels or latents
    tile        pixels a side of the overlapping windows the network sees; None the whole picture
    wrap        x, y or xy: the ends meet, so that the picture tiles that way
    vary        0 to 1: how far the noise of `seed` is turned towards that of `vary_seed`
    vary_seed   of the first picture; picture i has vary_seed + i, and all have the same `seed`
    toward      a second prompt, mixed with the first by `blend`, 0 to 1
    frames      a sequence from each prompt to the next, this many pictures in all, all of the same seed
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: Source | None = None
    strength: float | None = None
    mask: Source | None = None
    margin: tuple[int, int, int, int] | None = None
    invert: Invert | None = None
    was: str | None = None
    hires_from: tuple[int, int] | None = None
    hires_by: Literal["pixels", "latents"] = "pixels"
    tile: int | None = None
    wrap: Literal["x", "y", "xy"] | None = None
    vary: float | None = None
    vary_seed: int | None = None
    toward: str | None = None
    blend: float = 0.0
    frames: int | None = None

    @model_validator(mode="after")
    def _check_editing(self) -> Self:
        if self.strength is not None and not 0 < self.strength <= 1:
            raise InputError(f"strength is {self.strength:g}; give a number above 0 and up to 1.")
        for name in ("vary", "blend"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise InputError(f"{name} is {value:g}; give a number from 0 to 1.")
        if self.margin is not None and not (min(self.margin) >= 0 < max(self.margin)):
            raise InputError(
                f"margin is {self.margin}; give pixels of left, top, right and bottom, not all 0."
            )
        for name, low, high in (("tile", 1, LONGEST_SIDE), ("frames", 2, MOST_FRAMES)):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InputError(f"{name} is {value}; give a whole number from {low} to {high}.")
        if self.hires_from is not None and not all(1 <= side <= LONGEST_SIDE for side in self.hires_from):
            raise InputError(f"hires_from is {self.hires_from}; give sides from 1 to {LONGEST_SIDE} pixels.")
        self._check_company()
        return self

    def _check_company(self) -> None:
        """Fields that need others, or exclude them."""
        begun = self.image is not None
        for name, given, needs, there in (
            ("mask", self.mask, "an image", begun),
            ("margin", self.margin, "an image", begun),
            ("invert", self.invert, "an image", begun),
            ("strength", self.strength, "an image or hires_from", begun or self.hires_from is not None),
            ("was", self.was, "invert", self.invert is not None),
            ("vary_seed", self.vary_seed, "vary", self.vary is not None),
            ("blend", self.blend or None, "a prompt to blend with (toward)", self.toward is not None),
        ):
            if given is not None and not there:
                raise InputError(f"{name} is given, but needs {needs}; give that too, or leave {name} out.")
        for one, other in (
            ("image", "hires_from"),
            ("invert", "mask"),
            ("invert", "margin"),
            ("frames", "vary"),
            ("frames", "toward"),
        ):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise InputError(f"{one} and {other} do not go together; leave one of them out.")

    def check_inversion(self, sampler: str | None, options: dict[str, float]) -> None:
        """InputError for a sampler that cannot follow the inversion asked for."""
        if self.invert in PATHS and (options or sampler not in (None, "ddpm")):
            raise InputError(
                f"An inversion by {self.invert} records DDPM's steps; leave the sampler and its options out."
            )
        if self.invert == "euler" and sampler is not None and SAMPLERS[sampler].stochastic:
            raise InputError(
                f"An inversion by euler is undone by a sampler that draws no noise, not by {sampler}; "
                "leave it out, or take euler or heun."
            )

    def check_sources(self) -> None:
        """InputError where a picture to begin from cannot be had."""
        for source in (self.image, self.mask):
            if source is not None:
                source.resolved()

    def settled(self, config: ModelConfig, width: int | None, height: int | None) -> dict[str, object]:
        """Fields that depend on the pictures and the model: hashes, strength, width and height.

        Raises InputError where a picture cannot be had or has the wrong size.
        """
        found: dict[str, object] = {}
        if config.low_res is not None:
            self._check_enlarged(config)
            return found
        if self.image is not None:
            found["image"] = image = self.image.resolved()
            own = image.size()
            if self.mask is not None:
                found["mask"] = mask = self.mask.resolved()
                if mask.size() != own:
                    raise InputError(
                        f"The mask {mask.named} is {'x'.join(map(str, mask.size()))} pixels, but the image "
                        f"{image.named} is {'x'.join(map(str, own))}; make the mask as large as the picture."
                    )
            found["width"], found["height"] = self._size(config, own, width, height)
        if self.image is not None or self.hires_from is not None:
            whole = (self.mask, self.margin, self.invert) != (None, None, None)
            found["strength"] = self.strength if self.strength is not None else 1.0 if whole else 0.75
        if self.tile is not None and self.tile % config.factor:
            raise InputError(
                f"tile is {self.tile}, but the model {config.name} needs a multiple of {config.factor}."
            )
        return found

    def _check_enlarged(self, config: ModelConfig) -> None:
        """An upscaler's picture is no beginning: it lies beside what is drawn."""
        for name in ("strength", "mask", "margin", "invert", "hires_from", "tile", "wrap"):
            if getattr(self, name) is not None:
                raise InputError(
                    f"The model {config.name} enlarges its picture whole, so that {name} has no meaning; "
                    "leave it out, or take a model that draws."
                )

    def _size(
        self, config: ModelConfig, own: tuple[int, int], width: int | None, height: int | None
    ) -> tuple[int, int]:
        """Of the result: the image's own and its margins, unless another is asked for."""
        left, top, right, bottom = self.margin or (0, 0, 0, 0)
        grown = (own[0] + left + right, own[1] + top + bottom)
        size = (width or grown[0], height or grown[1])
        if self.margin is not None and size != grown:
            raise InputError("The image and its margin decide the size; leave the size out.")
        if max(size) > LONGEST_SIDE:
            assert self.image is not None
            raise InputError(
                f"The image {self.image.named} would become {size[0]}x{size[1]} pixels, which takes about "
                f"{memory(config, *size) / 1e9:,.0f} GB; the longest side is {LONGEST_SIDE}: give a size."
            )
        return size


def memory(config: ModelConfig, width: int, height: int) -> float:
    """Bytes that a picture takes on its way through the autoencoder: eight maps of its finest level."""
    channels = 8 if config.autoencoder is None else 8 * config.autoencoder.block_channels[0]
    return float(width * height * 4 * channels)


def key_frame(index: int, frames: int, prompts: int) -> tuple[int, float]:
    """Frame `index` lies between two prompts: the number of the first, and how far to the next, below 1."""
    place = index * (prompts - 1) / (frames - 1)
    first = min(math.floor(place + 1e-9), prompts - 1)
    return first, max(0.0, place - first)
