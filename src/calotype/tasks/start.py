"""What a run begins from: every task is a row of the table, a start x, a grid and a denoiser.

Most tasks are one leg down the grid.  An inversion goes up, or along its recorded walk, before it comes
down; a picture refined from a smaller one comes down twice; a refiner walks the last part of the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from calotype.conditioning.conditioning import Conditioning
from calotype.diffusion import guidance
from calotype.diffusion.denoiser import Denoiser
from calotype.diffusion.grids import GRIDS, Grid, SigmaGrid, leading, linspace, trailing
from calotype.diffusion.known_noise import NOISES
from calotype.diffusion.masking import keep_known
from calotype.diffusion.noise import Between, NoiseSource
from calotype.diffusion.samplers import SAMPLERS, Step
from calotype.diffusion.walk import PATHS, Found, Given
from calotype.diffusion.windows import Windows, windowed
from calotype.models.latent_diffusion import LatentDiffusion
from calotype.tasks.adapted import Adapted
from calotype.tasks.canvas import Canvas
from calotype.tasks.condition import Conditions, condition_of, encode
from calotype.tasks.guides import Guides, guides
from calotype.tasks.pixels import decode, encode_pixels, to_tensor, windows_of
from calotype.tasks.refining import loaded, turn
from calotype.tasks.request import ResolvedRequest
from calotype.tasks.steady import steady


@dataclass(frozen=True)
class Leg:
    """One row for some pictures: from the latents (B C h w) that the leg before left to a sampler's steps."""

    run: Callable[[Tensor], Iterator[Step]]


@dataclass(frozen=True)
class Plan:
    """Everything of a request that all its pictures share."""

    adapted: Adapted
    guides: Guides
    request: ResolvedRequest
    canvas: Canvas | None
    conditions: Conditions
    windows: Windows | None
    sigmas: SigmaGrid
    first: Plan | None = None
    then: Plan | None = None

    @property
    def model(self) -> LatentDiffusion:
        """The model as it is without LoRAs."""
        return self.adapted.model

    @property
    def steps(self) -> int:
        """Of all legs of a picture."""
        legs = 1 if self.request.invert is None else 2
        others = sum(plan.steps for plan in (self.first, self.then) if plan is not None)
        return legs * (len(self.sigmas) - 1) + others

    def shape(self) -> tuple[int, int, int]:
        """(C, h, w) of a picture's latents."""
        factor = self.model.config.factor
        height, width = (-(-side // factor) for side in (self.request.height, self.request.width))
        return (self.model.config.unet.out_channels, height, width)

    def noise(self, indices: Sequence[int]) -> NoiseSource:
        """The pictures' own random streams."""
        request = self.request
        source = NOISES[request.noise]
        own = source([request.seed_of(i) for i in indices])
        others = [seed for i in indices if (seed := request.vary_seed_of(i)) is not None]
        return own if request.vary is None else Between(own, source(others), request.vary)

    def legs(self, indices: Sequence[int], noise: NoiseSource) -> list[Leg]:
        """What leads to the pictures `indices`, one leg after the other."""
        if self.then is not None:
            then = self.then
            goes_on = Leg(lambda x: then._follow(then._denoiser(indices), x, noise))
            return [*replace(self, then=None).legs(indices, noise), goes_on]
        if self.first is not None:
            refined = Leg(lambda z: self._down(indices, noise, self._larger(z)))
            return [*self.first.legs(indices, noise), refined]
        if self.request.invert == "euler":
            return [
                Leg(lambda z: self._up(indices, self._known(z))),
                Leg(lambda x: self._follow(self._denoiser(indices), x, noise)),
            ]
        if self.request.invert is not None:
            return self._walk(indices, noise)
        return [Leg(lambda z: self._down(indices, noise, self._known(z)))]

    def _known(self, blank: Tensor) -> Tensor:
        return blank if self.canvas is None else self.canvas.latents.to(blank).expand_as(blank)

    def _down(self, indices: Sequence[int], noise: NoiseSource, z: Tensor) -> Iterator[Step]:
        """From z + sigma * noise; what a mask keeps is kept."""
        noised = self.guides.noised(noise, len(indices))  # drawn first, as diffusers does
        unit = noise(z)
        denoiser = self._denoiser(indices, noised=noised)
        told = self.model.config.unet.in_channels != self.model.config.unet.out_channels
        if self.canvas is not None and self.canvas.mask is not None and not told:
            denoiser = keep_known(denoiser, z, self.canvas.mask.to(z), unit)
        return self._follow(denoiser, z + float(self.sigmas[0]) * unit, noise)

    def _up(self, indices: Sequence[int], z: Tensor) -> Iterator[Step]:
        """DDIM inversion (arXiv 2105.05233, appendix F): Euler along the rising grid, unguided."""
        denoiser = self._denoiser(indices, was=True, scale=1.0)
        return SAMPLERS["euler"](denoiser, z, self.sigmas.flip(0), Given(()))

    def _walk(self, indices: Sequence[int], noise: NoiseSource) -> list[Leg]:
        """DDPM down the picture's own path, to find its noise; then down again with that noise."""
        assert self.request.invert is not None
        path_of = PATHS[self.request.invert]
        draws: list[Tensor] = []
        top: list[Tensor] = []

        def find(z: Tensor) -> Iterator[Step]:
            path = path_of(self._known(z), self.sigmas, noise)
            top.append(path[0])
            found = Found(path, self.sigmas, draws)
            return self._follow(self._denoiser(indices, was=True), path[0], found)

        return [Leg(find), Leg(lambda _: self._follow(self._denoiser(indices), top[0], Given(draws)))]

    def _follow(self, denoiser: Denoiser, x: Tensor, noise: NoiseSource) -> Iterator[Step]:
        request = self.request
        return SAMPLERS[request.sampler](denoiser, x, self.sigmas, noise, **request.sampler_options)

    def _larger(self, latents: Tensor) -> Tensor:
        """The first pass' latents (B C h w) at this pass' size, by way of pixels or directly."""
        _, height, width = self.shape()
        if self.request.hires_by == "latents":
            return torch.nn.functional.interpolate(latents, (height, width), mode="bicubic")
        factor = self.model.config.factor
        small = torch.cat([to_tensor(decode(self.model, z)) for z in latents])
        large = torch.nn.functional.interpolate(
            small, (height * factor, width * factor), mode="bicubic", antialias=True
        )
        return torch.cat([encode_pixels(self.model, row[None], self.windows) for row in large]).to(latents)

    def _denoiser(
        self,
        indices: Sequence[int],
        was: bool = False,
        scale: float | None = None,
        noised: Tensor | None = None,
    ) -> Denoiser:
        """The guided model; told, with `was`, what the image shows instead of what to draw, and, where there
        is one, of the picture to enlarge (B 3 h w) at its noise level.
        """
        request, rows = self.request, len(indices)
        told = self.guides.beside(self.adapted.drawing(request.prompt_of(indices[0])))
        text = request.was if was else None
        positive = Conditioning.cat(
            [
                condition_of(self.conditions, request, i) if text is None else self.conditions[text, False]
                for i in indices
            ]
        )
        negative = Conditioning.cat([self.conditions[request.prompt_of(i), True] for i in indices])
        positive = told.told(positive, rows, noised)
        negative = told.told(negative, rows, noised, negative=True)
        distilled = self.model.config.unet.guidance_width is not None  # told the scale, and does the rest
        chosen = 1.0 if distilled else request.guidance if scale is None else scale

        def guided(positive: Conditioning, negative: Conditioning) -> Denoiser:
            return guidance.guided(
                told.timed(steady(told.model, rows)),
                (positive, negative),
                chosen,
                rescale=request.rescale,
                interval=request.interval,
                apg=None if request.apg is None else guidance.Apg(**request.apg.model_dump()),
            )

        windows = self.windows
        if windows is None:
            return guided(positive, negative)
        parts = [
            guided(_seen(positive, windows, i), _seen(negative, windows, i)) for i in range(len(windows))
        ]
        return windowed(windows, parts)


def plan(adapted: Adapted, request: ResolvedRequest, canvas: Canvas | None = None) -> Plan:
    """The plan of a request; InputError where the model cannot do what is asked."""
    model, first = adapted.model, None
    if request.hires_from is not None:
        width, height = request.hires_from
        fields = {"width": width, "height": height, "hires_from": None, "strength": None, "tile": None}
        fields |= {"refiner": None, "refiner_hash": None}
        first = plan(adapted, request.model_copy(update=fields).resolved(model.config))
    sigmas, then = _sigmas(model, request), None
    if request.refiner is not None:
        turned = turn(model, sigmas, request.refiner_at)
        then = _refiner(model, request, sigmas[turned:])
        sigmas = sigmas[: turned + 1]
    conditions = encode(adapted, request, canvas)
    guiding = guides(model, request, sigmas)
    windows = windows_of(model, request)
    return Plan(adapted, guiding, request, canvas, conditions, windows, sigmas, first, then)


def _refiner(model: LatentDiffusion, request: ResolvedRequest, sigmas: SigmaGrid) -> Plan:
    """The rest of the way by the refiner, which knows nothing of the model's LoRAs, words and ControlNets."""
    asked = request.model_copy(update={"controls": (), "loras": (), "embeddings": (), "clip_skip": None})
    refiner = loaded(model, request)
    adapted = Adapted(refiner, asked, bare=True)
    conditions = encode(adapted, asked)
    windows = windows_of(refiner, asked)
    return Plan(adapted, guides(refiner, asked, sigmas), asked, None, conditions, windows, sigmas)


def _seen(condition: Conditioning, windows: Windows, index: int) -> Conditioning:
    """What a window sees of conditions that are laid out like the picture."""
    seen = {}
    for name in ("channels", "control"):
        value = getattr(condition, name)
        if value is not None:
            seen[name] = windows.take(value, index, value.shape[-1] // windows.size[1])
    return replace(condition, **seen)


def _sigmas(model: LatentDiffusion, request: ResolvedRequest) -> SigmaGrid:
    """The levels from where the request begins: all of them, or those below its strength's."""
    schedule = model.denoiser.schedule
    sigmas = _grid(model, request)(request.steps, schedule.sigma_min, schedule.sigma_max)
    if request.strength is not None:
        kept = max(1, int(request.steps * request.strength + 1e-6))
        sigmas = sigmas[-kept - 1 :]
    if request.invert is not None:  # the picture stands at the lowest trained level, not at 0
        low = schedule.sigma_min
        sigmas = torch.cat([sigmas[sigmas > low * 1.001], sigmas.new_tensor([low])])
    return sigmas


def _grid(model: LatentDiffusion, request: ResolvedRequest) -> Grid:
    """The grid asked for, as the model's own scheduler would lay it."""
    schedule, own = model.denoiser.schedule, model.config.defaults
    final = schedule.sigma_min if own.ends_at_first and request.sampler in ("ddim", "plms") else 0.0
    if request.grid == "leading":
        return leading(schedule, own.offset, final)
    if request.grid in ("trailing", "linspace"):
        return {"trailing": trailing, "linspace": linspace}[request.grid](schedule, final)
    return GRIDS[request.grid](schedule)
