"""LoRAs, textual inversions and ControlNets of the owner's folder: clients name them, and never a file."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from calotype.checkpoints import addons, collection, controlnet
from calotype.checkpoints.weights_file import open_weights
from calotype.conditioning.prompt import parse
from calotype.errors import CalotypeError
from calotype.models.config import ModelConfig
from calotype.server.refusal import Refusal
from calotype.tasks.additions import LoraUse
from calotype.tasks.request import Request

Kind = Literal["lora", "embedding", "control"]
TITLES: dict[Kind, str] = {"lora": "LoRA", "embedding": "textual inversion", "control": "ControlNet"}
COMPONENT = "diffusion_pytorch_model"
"""What diffusers calls the file of every network; its folder has the name."""


@dataclass(frozen=True)
class Addon:
    """
    family  the model it was made for, as people call it; None where nothing tells it
    memory  what a ControlNet takes beside its model, in bytes
    """

    name: str
    kind: Kind
    family: str | None
    path: Path
    memory: int = 0


class Addons:
    """What lies in a folder, read from the headers of its files; None for no folder."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._seen: dict[tuple[Path, int, int], Addon | None] = {}

    def listed(self) -> list[Addon]:
        """By name.  Files that are none of the three, or cannot be read, are passed by."""
        if self.folder is None:
            return []
        found = (self._addon(name, path) for name, path in collection.entries(self.folder).items())
        return [addon for addon in found if addon is not None]

    def named(self, name: str, kind: Kind) -> Addon:
        """By its name, with or without folder and suffix; Refusal (404, 422) for none, or several."""
        known = [addon for addon in self.listed() if addon.kind == kind]
        exact = [addon for addon in known if addon.name == name]
        met = exact or [addon for addon in known if name in self._names(addon)]
        if len(met) == 1:
            return met[0]
        if met:
            several = " and ".join(addon.name for addon in met)
            raise Refusal(422, "ambiguous_name", f"{name[:80]!r} may be {several}; say which.")
        names = [addon.name for addon in known]
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names[:8]) or 'none'}."
        raise Refusal(404, f"{kind}_not_found", f"There is no {TITLES[kind]} {name[:80]!r} here; {hint}")

    def located(self, request: Request, config: ModelConfig) -> Request:
        """The request with the files of what it and its prompts name.  Refusal as `named`, InputError for a
        prompt that cannot be read."""
        loras = [
            use.model_copy(update={"file": str(self.named(use.file, "lora").path)}) for use in request.loras
        ]
        if (request.prompt_syntax or config.defaults.prompt_syntax) == "a1111":
            texts = (*request.prompts, request.toward, request.was)
            self._add(loras, [lora.name for text in texts if text for lora in parse(text).loras])
        embeddings = (
            use.model_copy(update={"file": str(self.named(use.file, "embedding").path)})
            for use in request.embeddings
        )
        controls = (
            control.model_copy(update={"net": str(self.named(control.net, "control").path)})
            for control in request.controls
        )
        changed = {"loras": tuple(loras), "embeddings": tuple(embeddings), "controls": tuple(controls)}
        return request.model_copy(update=changed)

    def _add(self, loras: list[LoraUse], names: Sequence[str]) -> None:
        """Those that only prompts name, with weight 0: each prompt says its own."""
        for name in names:
            if all(use.name != name for use in loras):
                loras.append(LoraUse(file=str(self.named(name, "lora").path), weight=0.0))

    def memory(self, request: Request) -> int:
        """What the ControlNets of a located request take, in bytes."""
        known = {str(addon.path): addon.memory for addon in self.listed()} if request.controls else {}
        return sum(known.get(net, 0) for net in {control.net for control in request.controls})

    def _names(self, addon: Addon) -> set[str]:
        assert self.folder is not None
        return {*collection.names(self.folder, addon.path), addon.name.rpartition("/")[2]}

    def _addon(self, name: str, path: Path) -> Addon | None:
        try:
            state = path.stat()
        except OSError:  # gone since it was listed
            return None
        key = (path, state.st_mtime_ns, state.st_size)
        if key not in self._seen:
            self._seen[key] = _described(name, path)
        return self._seen[key]


def _described(name: str, path: Path) -> Addon | None:
    if path.is_dir():  # a whole model
        return None
    if path.stem.startswith(COMPONENT) and "/" in name:
        name = name.rpartition("/")[0]
        path = path.parent if (path.parent / "config.json").is_file() else path
    try:
        if path.is_dir():
            return _control(name, path)
        file = open_weights(path)
        lora, embedding = addons.lora(file), addons.embedding(file)
        if lora is not None:
            return Addon(name, "lora", lora.family, path)
        if embedding is not None:
            return Addon(name, "embedding", embedding.family, path)
        return _control(name, path)
    except CalotypeError:
        return None


def _control(name: str, path: Path) -> Addon:
    found = controlnet.recognise(path)
    parameters = sum(math.prod(source.shape) for source in found.piece.sources.values())
    return Addon(name, "control", found.title, path, 4 * parameters)
