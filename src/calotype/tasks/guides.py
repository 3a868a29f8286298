"""Pictures that guide the drawing, loaded: what they tell the denoiser, and when."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor

from calotype.checkpoints import controlnet
from calotype.conditioning.conditioning import Conditioning
from calotype.diffusion.grids import SigmaGrid
from calotype.diffusion.noise import NoiseSource
from calotype.diffusion.schedule import NoiseSchedule
from calotype.errors import InputError
from calotype.models.controls import Controls
from calotype.models.latent_diffusion import LatentDiffusion, NetworkDenoiser
from calotype.networks.controlnet import ControlNet
from calotype.tasks.guiding import Control
from calotype.tasks.request import ResolvedRequest
from calotype.tasks.steady import Model

_loaded: WeakKeyDictionary[NetworkDenoiser, dict[object, ControlNet]] = WeakKeyDictionary()
"""The ControlNets of a model's last request, so that the next need not load them again."""


@dataclass(frozen=True)
class Guides:
    """What guides all pictures of a request.

    model     the model, with the request's ControlNets beside its U-Net
    control   what they see (1 N*C h w), None without any
    spans     (low, high) for each: it speaks at low < sigma <= high
    small     the picture to enlarge (1 3 h w), values -1 to 1, None for other models
    notices   what the person should know, a sentence each
    """

    model: LatentDiffusion
    request: ResolvedRequest
    control: Tensor | None
    spans: tuple[tuple[float, float], ...]
    small: Tensor | None
    notices: tuple[str, ...]

    def beside(self, model: LatentDiffusion) -> Guides:
        """The same for a twin of the model, as it is under LoRAs."""
        controls = self.model.denoiser.controls
        if controls is not None:
            model = model.replace(denoiser=model.denoiser.controlled(controls).eval())
        return dataclasses.replace(self, model=model)

    def noised(self, noise: NoiseSource, rows: int) -> Tensor | None:
        """The picture to enlarge at its noise level, each row with its own noise: (rows 3 h w).

        Drawn before the latents' noise, as diffusers does.
        """
        low_res = self.model.config.low_res
        if self.small is None or low_res is None or self.request.noise_level is None:
            return None
        small = self.small.expand(rows, -1, -1, -1)  # (1 3 h w) -> (B 3 h w)
        schedule = low_res.schedule.build()
        assert isinstance(schedule, NoiseSchedule)
        sigma = float(schedule.sigmas[self.request.noise_level])
        noised: Tensor = (small + sigma * noise(small)) / (1 + sigma**2) ** 0.5
        return noised

    def told(
        self, condition: Conditioning, rows: int, noised: Tensor | None, *, negative: bool = False
    ) -> Conditioning:
        """A batch's condition, with what guides it."""
        if noised is not None:
            label = torch.full((rows,), self.request.noise_level or 0, device=noised.device)
            condition = dataclasses.replace(condition, channels=noised, label=label)
        if self.control is not None:
            controls = self.request.controls
            scales = [0.0 if negative and self._softly(i) else one.scale for i, one in enumerate(controls)]
            condition = dataclasses.replace(
                condition,
                control=self.control.expand(rows, -1, -1, -1),  # (1 N*C h w) -> (B N*C h w)
                strength=self.control.new_tensor(scales).expand(rows, -1),  # (N) -> (B N)
            )
        return condition

    def _softly(self, index: int) -> bool:
        """Whether a ControlNet speaks to the prompt's half alone; one that is pooled always does."""
        controls = self.model.denoiser.controls
        assert controls is not None
        net = controls.nets[index]
        assert isinstance(net, ControlNet)
        return self.request.controls[index].guess or net.control.pooled

    def timed(self, model: Model) -> Model:
        """The model, each ControlNet silent outside its span of noise levels."""
        if self.control is None:
            return model

        def switched(x: Tensor, sigma: Tensor, condition: Conditioning) -> Tensor:
            level = float(sigma[0])
            on = [low < level <= high for low, high in self.spans]
            if condition.strength is None or all(on):
                return model(x, sigma, condition)
            if not any(on):
                return model(x, sigma, dataclasses.replace(condition, control=None, strength=None))
            strength = condition.strength * condition.strength.new_tensor(on)  # (B N), (N) -> (B N)
            return model(x, sigma, dataclasses.replace(condition, strength=strength))

        return switched


@torch.no_grad()
def guides(model: LatentDiffusion, request: ResolvedRequest, sigmas: SigmaGrid) -> Guides:
    """Loads what guides the request, settled before.

    Raises InputError where a ControlNet would not speak at any step, or a file is no picture;
    CheckpointError where a ControlNet is damaged.
    """
    small = None
    if model.config.low_res is not None and request.image is not None:
        small = _tensor(request.image.read()).to(model.device) * 2 - 1
    if not request.controls:
        return Guides(model, request, None, (), small, ())
    spans = tuple(_span(control, sigmas) for control in request.controls)
    dtype = model.dtype
    nets = _nets(model, request.controls, dtype)
    controls = Controls(nets, [control.guess for control in request.controls])
    pictures, notices = [], []
    for control in request.controls:
        image = control.picture.read()
        if image.size != (request.width, request.height):
            notices.append(
                f"The control picture {control.picture.path or 'in memory'} is {image.width}x{image.height} "
                f"and was scaled to {request.width}x{request.height}; --size says what to draw."
            )
            image = image.resize((request.width, request.height), PIL.Image.Resampling.LANCZOS)
        factor = model.config.factor
        fill = (0, -request.width % factor, 0, -request.height % factor)
        whole = F.pad(_tensor(image), fill, mode="replicate")  # (1 3 H W), filled up to whole latents
        pictures.append(whole.to(model.device, dtype))
    controlled = model.replace(denoiser=model.denoiser.controlled(controls).eval())
    return Guides(controlled, request, controls.hinted(pictures), spans, small, tuple(notices))


def _span(control: Control, sigmas: SigmaGrid) -> tuple[float, float]:
    """The noise levels at which it speaks, those of whole steps."""
    steps = len(sigmas) - 1
    spoken = [step for step in range(steps) if control.speaks(step, steps)]
    if not spoken:
        raise InputError(
            f"The ControlNet {control.net} speaks from {control.start:g} to {control.end:g} of the way, "
            f"which holds none of the {steps} steps; widen it, or take more steps."
        )
    return float(sigmas[spoken[-1] + 1]), float(sigmas[spoken[0]])


def _nets(model: LatentDiffusion, controls: Sequence[Control], dtype: torch.dtype) -> list[ControlNet]:
    known = _loaded.get(model.denoiser, {})
    nets: dict[object, ControlNet] = {}
    for control in controls:
        key = (control.net_hash, model.device, dtype)
        if key not in nets:
            found = known.get(key)
            nets[key] = (
                controlnet.recognise(Path(control.net).expanduser()).load(model.device, dtype, widen=None)
                if found is None
                else found
            )
    _loaded[model.denoiser] = nets
    return [nets[control.net_hash, model.device, dtype] for control in controls]


def _tensor(image: PIL.Image.Image) -> Tensor:
    """An RGB picture (H W 3) as numbers from 0 to 1: (1 3 H W)."""
    pixels = torch.from_numpy(np.array(image)).float() / 255
    return pixels.permute(2, 0, 1)[None]  # (H W 3) -> (1 3 H W)
