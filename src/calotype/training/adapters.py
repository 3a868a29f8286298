"""Training a LoRA: low-rank changes beside the layers of a model that stays as it is."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import nn

from calotype.checkpoints import lora
from calotype.checkpoints.lora_names import Fashion, Part, written
from calotype.errors import InputError
from calotype.models.latent_diffusion import LatentDiffusion
from calotype.networks.lora import Adapter, LowRank, fresh
from calotype.training.finetune import FineTune
from calotype.training.order import step_generator
from calotype.training.prepared import Examples
from calotype.training.tune_config import LoraTraining

PARTS: tuple[Part, ...] = ("text_encoder", "denoiser")

TARGETS: dict[str, tuple[Part, str]] = {
    "attention": ("denoiser", r"\.attend_(self|context)\.\w+"),
    "self": ("denoiser", r"\.attend_self\.\w+"),
    "cross": ("denoiser", r"\.attend_context\.\w+"),
    "feed-forward": ("denoiser", r"\.feed\.(up|down)"),
    "projections": ("denoiser", r"\.transformers?(\.\d+)?\.(enter|leave)"),
    "convolutions": ("denoiser", r"\.(conv1|conv2|skip)|\.resample\.conv"),
    "embeddings": ("denoiser", r"\.embed|_embedding\.linear[12]"),
    "ends": ("denoiser", r"network\.(enter|leave|outline)"),
    "text": ("text_encoder", r"\.attention\.\w+"),
    "text-feed-forward": ("text_encoder", r"\.layers\.\d+\.(up|down)"),
}
"""Kinds of layers by name: which part of the model, and the end of the layers' paths in it."""


def chosen(model: LatentDiffusion, targets: Sequence[str]) -> dict[tuple[Part, str], str]:
    """The layers that the targets name, by part and path, with what diffusers calls them.

    InputError for a target that names none.
    """
    names = written(model, "diffusers")
    found: dict[tuple[Part, str], str] = {}
    for target in targets:
        if target in TARGETS:
            part, pattern = TARGETS[target]
            end = re.compile(rf"(?:{pattern})$")
            met = [place for place in names if place[0] == part and end.search(place[1])]
        else:
            met = [place for place, name in names.items() if fnmatchcase(name, target)]
        if not met:
            near = difflib.get_close_matches(target, TARGETS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"give {', '.join(TARGETS)}, or a pattern."
            raise InputError(f"No layer of {model.config.name} is called {target!r}; {hint}")
        found |= {place: names[place] for place in met}
    return found


class Low(nn.Module):
    """All changes of one training, by part and path: what trains and is saved."""

    def __init__(self, model: LatentDiffusion, config: LoraTraining) -> None:
        """Begins with changes that change nothing; those of a layer depend on seed and name alone."""
        super().__init__()
        self.places: dict[str, tuple[Part, str]] = {}
        self.changes = nn.ModuleDict()
        for (part, path), name in sorted(chosen(model, config.targets).items()):
            layer = model.parts()[part].get_submodule(path)
            assert isinstance(layer, nn.Linear | nn.Conv2d)
            key = name.replace(".", "_")  # a ModuleDict takes no points
            generator = step_generator(config.seed, 0, f"lora {name}")
            self.changes[key] = fresh(layer, config.rank, config.scaling, generator)
            self.places[key] = (part, path)

    def of(self, part: Part) -> dict[str, LowRank]:
        """The changes of one part of the model, by path."""
        found = {}
        for key, change in self.changes.items():
            assert isinstance(change, LowRank)
            if self.places[key][0] == part:
                found[self.places[key][1]] = change
        return found


class LoraObjective(FineTune):
    """The denoising loss of a model with changes beside its layers, which alone learn."""

    product = "lora.safetensors"

    def __init__(
        self,
        config: LoraTraining,
        model: LatentDiffusion,
        training: Examples,
        held_out: Examples | None,
        layout: Fashion = "kohya",
    ) -> None:
        """`layout` is that of the file in the end.  InputError for targets that the model has not."""
        low = Low(model, config)  # before the parts' layers are wrapped
        hears = bool(low.of("text_encoder"))
        super().__init__(config, model, training, held_out, text_changes=hears)
        self.layout: Fashion = layout
        self.low = low
        self.keep_still("denoiser")
        self.keep_still("text_encoder")
        self._adapters = {part: Adapter(model.parts()[part]) for part in PARTS}
        self.attach()

    def attach(self) -> None:
        """Lays the changes beside the model's layers."""
        for part, adapter in self._adapters.items():
            adapter.attach(self.low.of(part))

    def remove(self) -> None:
        """The model as it was."""
        for adapter in self._adapters.values():
            adapter.remove()

    @torch.no_grad()
    def export(self, path: Path, recipe: Mapping[str, Any]) -> None:
        """A LoRA file in float16."""
        assert isinstance(self.config, LoraTraining)
        changes = {part: self.low.of(part) for part in PARTS}
        self.remove()  # the layers' names are those of the bare model
        try:
            lora.write(path, self._model[0], changes, self.layout, torch.float16, facts(self.config, recipe))
        finally:
            self.attach()


def facts(config: LoraTraining, recipe: Mapping[str, Any]) -> dict[str, str]:
    """What others' programs read in a LoRA's metadata, and how it was made."""
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(config.rank),
        "ss_network_alpha": f"{config.scaling:g}",
        "recipe": json.dumps(recipe, ensure_ascii=False),
    }
