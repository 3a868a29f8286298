"""The models that clients may name, and those of them that are in memory."""

from __future__ import annotations

import dataclasses
import math
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from calotype.checkpoints import memory, native, shelf
from calotype.checkpoints.weights_file import open_weights
from calotype.errors import InputError
from calotype.models.config import ModelConfig
from calotype.models.offload import Offload
from calotype.models.pixel_config import PixelConfig
from calotype.models.pixel_diffusion import PixelDiffusion
from calotype.models.precision import chosen
from calotype.networks.narrow import Widen
from calotype.safety.policy import Safety
from calotype.server.addons import Addons
from calotype.server.refusal import Refusal
from calotype.server.settings import Settings
from calotype.tasks.request import Request
from calotype.tasks.studio import Studio, pick_device

Kind = Literal["draw", "enlarge", "restore"]


@dataclass(frozen=True)
class Known:
    """A model that can be loaded.

    memory  what it will take, in bytes
    widen   as `Found.load`'s
    """

    name: str
    path: Path
    config: ModelConfig | PixelConfig
    parameters: int
    memory: int
    changed: float
    widen: Widen = "once"

    @property
    def kind(self) -> Kind:
        """What it is for: pictures from words, larger pictures of small ones, or photographs restored."""
        if isinstance(self.config, PixelConfig):
            return "restore"
        return "draw" if self.config.low_res is None else "enlarge"


class Models:
    """Loads models by name under a memory budget; the least recently used leaves first.

    precision  what the networks of those that draw compute in; None for what suits the device

    Raises CheckpointError where a file is no model, InputError where there is none at all, and no such
    precision or device.
    """

    def __init__(
        self,
        files: dict[str, Path],
        default: str | None,
        device: str | None,
        memory: int | None,
        safety: Safety | None = None,
        folder: Path | None = None,
        *,
        offload: bool = False,
        precision: str | None = None,
    ) -> None:
        self.offload = offload
        self.device = pick_device(device)
        self.dtype = chosen(precision, self.device)
        self.safety = Safety() if safety is None else safety
        self.addons = Addons(folder)
        self.budget = half_of_memory(self.device) if memory is None else memory
        told = offload, self.device, self.dtype, self.budget
        self.known = {name: _known(name, path, *told) for name, path in files.items()}
        if not self.known:
            raise InputError("There is no model to serve; name one with --model.")
        drawing = [name for name, known in self.known.items() if known.kind == "draw"]
        first = "icons" if "icons" in drawing else next(iter([*drawing, *self.known]))
        self.default = default or first
        self.named(self.default)
        self._loaded: OrderedDict[str, Studio | PixelDiffusion] = OrderedDict()
        self._beside: dict[str, dict[str, int]] = {}
        self._lock = threading.RLock()

    @classmethod
    def of(cls, settings: Settings) -> Models:
        """Those of a server: what is shipped, and what its owner named."""
        files = {**shelf.shipped(), **settings.models}
        told = (settings.default, settings.device, settings.memory, settings.safety, settings.folder)
        return cls(files, *told, offload=settings.offload, precision=settings.precision)

    def named(self, name: str) -> Known:
        """Refusal (404) where there is none of that name."""
        if name not in self.known:
            raise Refusal(
                404, "model_not_found", f"There is no model {name[:80]!r}; there are {', '.join(self.known)}."
            )
        return self.known[name]

    def loaded(self) -> list[str]:
        """The least recently used first."""
        with self._lock:
            return list(self._loaded)

    def drawing(self, name: str) -> ModelConfig:
        """The config of a model that draws; Refusal (404, 422) where there is none of that name."""
        config = self.named(name).config
        if isinstance(config, PixelConfig):
            raise Refusal(
                422,
                "wrong_model",
                f"The model {name} restores photographs and cannot draw; name another, or say with task "
                "what it is to do: denoise, inpaint, upscale or deblur.",
            )
        return config

    def restoring(self, name: str) -> PixelConfig:
        """The config of a model that restores photographs; Refusal (404, 422) where there is none."""
        config = self.named(name).config
        if not isinstance(config, PixelConfig):
            raise Refusal(
                422,
                "wrong_model",
                f"The model {name} draws and cannot restore photographs; "
                f"{f'name {self.restorers[0]}' if self.restorers else 'this server has none that can'}.",
            )
        return config

    @property
    def restorers(self) -> list[str]:
        """Names of the models that restore photographs."""
        return [known.name for known in self.known.values() if known.kind == "restore"]

    @property
    def default_restorer(self) -> str:
        """Refusal (422) where no model restores photographs."""
        if not self.restorers:
            raise Refusal(422, "wrong_model", "This server has no model that restores photographs.")
        return self.restorers[0]

    def located(self, request: Request) -> Request:
        """The request with files for the names of what draws beside its model; Refusal as `Addons`'."""
        config = self.drawing(request.model)
        if request.refiner is not None:
            request = request.model_copy(update={"refiner": str(self._refiner(request.refiner).path)})
        return self.addons.located(request, config)

    def _refiner(self, name: str) -> Known:
        """By the name it is served under, or its file's: a picture's record says that."""
        met = [known for known in self.known.values() if name == known.path.name]
        found = met[0] if name not in self.known and met else self.named(name)
        self.drawing(found.name)
        return found

    def without_places(self, text: str) -> str:
        """A sentence that names files by no folder of the owner's."""
        folders = {known.path.parent for known in self.known.values()}
        folders |= {self.addons.folder} if self.addons.folder is not None else set()
        for folder in sorted(folders, key=lambda folder: -len(str(folder))):
            text = text.replace(f"{folder}/", "")
        return text

    def get(self, name: str, request: Request | None = None) -> Studio:
        """A model that draws, loaded if need be, with room for what draws beside it in a located request.

        Refusal as `load` and `drawing`.
        """
        self.drawing(name)
        beside = {}
        if request is not None and request.refiner is not None:
            beside["refiner"] = next(k.memory for k in self.known.values() if str(k.path) == request.refiner)
        if request is not None and request.controls:
            beside["controls"] = self.addons.memory(request)
        model = self.load(name, beside)
        assert isinstance(model, Studio)
        return model

    def restorer(self, name: str) -> PixelDiffusion:
        """A model that restores, loaded if need be; Refusal as `load` and `restoring`."""
        self.restoring(name)
        model = self.load(name)
        assert isinstance(model, PixelDiffusion)
        return model

    def load(self, name: str, beside: Mapping[str, int] | None = None) -> Studio | PixelDiffusion:
        """The model, loaded if need be.  Refusal (507) where it is larger than the whole budget.

        beside  bytes of its refiner and ControlNets, which stay with it until others take their place
        """
        known = self.named(name)
        with self._lock:
            kept = self._beside.get(name, {}) if name in self._loaded else {}
            kept = {**kept, **(beside or {})}
            needed = known.memory + sum(kept.values())
            if needed > self.budget:
                self._loaded.pop(name, None)
                raise Refusal(
                    507,
                    "model_too_large",
                    f"The model {name} takes {needed / 1e9:.2g} GB of the {self.budget / 1e9:.2g} GB "
                    "that models may have; start the server with a larger --memory.",
                )
            while self._taken(but=name) + needed > self.budget:
                self._loaded.pop(next(other for other in self._loaded if other != name))
            self._beside[name] = kept
            if name in self._loaded:
                self._loaded.move_to_end(name)
                return self._loaded[name]
            if known.kind == "restore":
                self._loaded[name] = native.load_pixel(known.path, self.device)
            else:
                one_by_one = Offload(self.device, self.dtype) if self.offload else None
                model = shelf.load(known.path, self.device, self.dtype, offload=one_by_one, widen=known.widen)
                self._loaded[name] = Studio(model, name, self.safety)
            return self._loaded[name]

    def unload(self, name: str) -> None:
        """Forget it; a batch that is being drawn with it keeps it to its end."""
        self.named(name)
        with self._lock:
            self._loaded.pop(name, None)

    def _taken(self, but: str) -> int:
        """By all that are loaded and what is beside them, but for one."""
        others = [name for name in self._loaded if name != but]
        return sum(self.known[name].memory + sum(self._beside[name].values()) for name in others)


def half_of_memory(device: torch.device) -> int:
    """Of the device's own memory, in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory) // 2
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _known(
    name: str, path: Path, offload: bool, device: torch.device, dtype: torch.dtype, budget: int
) -> Known:
    changed = path.stat().st_mtime if path.exists() else time.time()
    if path.is_file() and open_weights(path).metadata.get("kind") == native.PIXEL:
        said = native.describe(path)
        parameters = sum(said.parameters.values())
        return Known(name, path, said.config, parameters, 4 * parameters, changed)  # restores in float32
    found = shelf.recognise(path)
    stored = found.stored
    parameters = sum(math.prod(told.shape) for tensors in stored.values() for told in tensors.values())
    at_once = max if offload else sum
    known = Known(
        name, path, found.config, parameters, at_once(memory.held(stored, dtype.itemsize).values()), changed
    )
    if known.memory <= budget or device.type != "cpu" or dtype != torch.float32:
        return known
    return dataclasses.replace(known, memory=at_once(memory.narrow(stored).values()), widen="always")
