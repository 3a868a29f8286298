"""The Python face: `calotype.load("icons").generate("a red apple", seed=7)`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import PIL.Image
import torch
from torch import Tensor

from calotype.checkpoints import shelf
from calotype.errors import InputError
from calotype.models.allocation import keep_freed
from calotype.models.compiling import compile_networks
from calotype.models.latent_diffusion import LatentDiffusion
from calotype.models.offload import Offload
from calotype.models.precision import chosen
from calotype.safety.policy import Safety
from calotype.tasks.finish import guarded, is_shipped
from calotype.tasks.generate import Event, Notice
from calotype.tasks.picture import Picture
from calotype.tasks.pixels import decode
from calotype.tasks.preview import preview
from calotype.tasks.request import Request, ResolvedRequest
from calotype.tasks.vary import variations


class Studio:
    """A loaded model and what one can do with it."""

    def __init__(self, model: LatentDiffusion, name: str, safety: Safety | None = None) -> None:
        """`name` is what requests will say the model is: a shipped name or a path."""
        self.model = model
        self.name = name
        self.safety = Safety() if safety is None else safety

    @overload
    def generate(self, prompt: str, *, count: None = None, **options: Any) -> PIL.Image.Image: ...
    @overload
    def generate(self, prompt: str, *, count: int, **options: Any) -> list[PIL.Image.Image]: ...
    @overload
    def generate(
        self, prompt: list[str] | tuple[str, ...], *, count: int | None = None, **options: Any
    ) -> list[PIL.Image.Image]: ...
    def generate(
        self, prompt: str | list[str] | tuple[str, ...], *, count: int | None = None, **options: Any
    ) -> PIL.Image.Image | list[PIL.Image.Image]:
        """One prompt as a plain text gives one picture; a list of prompts, or a `count`, gives a list.

        `options` are the fields of `Request`: seed, steps, guidance ….  Pictures come prompt by prompt,
        picture i with seed + i.  A plain prompt too long for the model is cut with a UserWarning, and a
        picture that the content check withholds is grey, with another.  Raises InputError.
        """
        single = isinstance(prompt, str) and count is None
        pictures = self.pictures(prompt, count=1 if count is None else count, **options)
        return pictures[0].image if single else [picture.image for picture in pictures]

    def pictures(self, prompt: str | Sequence[str], **options: Any) -> list[Picture]:
        """A list always, each with latents and record; `picture.save(path)` puts the record in the PNG."""
        pictures = []
        for event in self.events(Request(prompts=prompt, model=self.name, **options)):
            if isinstance(event, Notice):
                warnings.warn(event.text, stacklevel=3)
            elif isinstance(event, Picture):
                if event.withheld is not None:
                    warnings.warn(event.withheld, stacklevel=3)
                pictures.append(event)
        return pictures

    def vary(
        self,
        picture: str | Path | Picture,
        amount: float = 0.2,
        *,
        count: int = 4,
        seed: int | None = None,
        prompt: str | None = None,
    ) -> list[PIL.Image.Image]:
        """Pictures like one that Calotype made, whose noise is turned by `amount` (0 to 1) to other seeds'.

        A file that does not say how it was made is drawn anew by image to image, `amount` strong; it needs a
        `prompt`.  `seed` is the first variation's.  Raises InputError.
        """
        asked = variations(picture, amount, count, seed, prompt, self.name)
        return [event.image for event in self.events(asked) if isinstance(event, Picture)]

    def events(self, request: Request) -> Iterator[Event]:
        """Everything that happens on the way, to watch, preview or stop by leaving the loop."""
        return guarded(self.model, request, self.safety)

    def may_show(self, image: PIL.Image.Image, request: ResolvedRequest) -> bool:
        """Whether a preview of the request's picture may be seen: not where the check would withhold it."""
        safety = self.safety
        if safety.content_check == "report" or not safety.checks(is_shipped(self.model, request)):
            return True
        return safety.judge(image).decision != "withheld"

    def preview(self, latents: Tensor) -> PIL.Image.Image:
        """What unfinished latents (C h w) look like by now, decoded only where they are few."""
        return preview(self.model, latents)

    def decode(self, latents: Tensor) -> PIL.Image.Image:
        """The picture of finished latents (C h w)."""
        return decode(self.model, latents)


def load(
    model: str = "icons",
    device: str | None = None,
    dtype: torch.dtype | None = None,
    *,
    prediction: str | None = None,
    vae: str | None = None,
    offline: bool = False,
    safety: Safety | None = None,
    offload: bool = False,
    compiled: bool = False,
) -> Studio:
    """A shipped model by name, or one from a file, a diffusers folder, the folder CALOTYPE_MODELS, or the
    Hugging Face hub by its id (`owner/name`, `owner/name:fp16`).

    device      torch's name for it; None takes CUDA where there is one, else the CPU
    dtype       of the weights and inside the networks; everything between them is float32.  None takes bf16
                on a GPU that has it, else float32
    prediction  what the U-Net predicts (eps, v, x0), for files that do not say it or say it wrongly
    vae         a file or folder whose autoencoder is used instead of the model's own
    offline     take an id from the hub's local cache only
    safety      the content check and the like; None for `Safety()`
    offload     networks come to the device one at a time, from their file: less memory, slower between them
    compiled    torch.compile for the networks, at their first call with every shape of latents

    Raises InputError for an unknown name or device and where there is nothing to compile with, FetchError for
    an id that cannot be had, CheckpointError for a file that cannot be used.
    """
    path = shelf.find(model, fetch=not offline)
    place = pick_device(device)
    dtype = chosen(None, place) if dtype is None else dtype
    one_by_one = Offload(place, dtype) if offload else None
    loaded = shelf.load(
        path,
        place,
        dtype,
        prediction=prediction,
        vae=vae,
        offload=one_by_one,
        widen="now" if compiled else None,
    )
    if compiled:
        compile_networks(loaded)
    return Studio(loaded, model, safety)


def pick_device(name: str | None) -> torch.device:
    """The device of that name, or the best one here; InputError where there is no such device.

    Where it is the CPU, the process keeps the memory that it frees from now on.
    """
    if name is None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    else:
        try:
            device = torch.device(name)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, NotImplementedError):
            raise InputError(f"There is no device {name!r} here; use cpu, or leave it out.") from None
    if device.type == "cpu":
        keep_freed()
    return device
