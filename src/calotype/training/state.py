"""Everything a run needs to go on to the bit, and its atomic checkpoint file (safetensors, no pickle)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from calotype import durable
from calotype.errors import OutputError, TrainingError
from calotype.training.ema import Ema
from calotype.training.sharding import alike, whole


@dataclass
class TrainState:
    """The module that trains, its optimiser and weight average, and the number of updates made.

    `averages` are those from which others are put together later (`training/posthoc.py`).
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    ema: Ema
    step: int = 0
    averages: tuple[Ema, ...] = ()

    def tensors(self) -> dict[str, Tensor]:
        """All of the state as flat names: model/…, ema/…, average0/… and optimizer/<parameter>/<moment>.

        Where it lies in parts, all processes have to come here together, and each gets it whole.
        """
        flat = {f"model/{name}": value for name, value in self.module.state_dict().items()}
        flat |= {f"ema/{name}": value for name, value in self.ema.average.items()}
        for i, ema in enumerate(self.averages):
            flat |= {f"average{i}/{name}": value for name, value in ema.average.items()}
        for name, parameter in self._trained().items():
            for moment, value in self.optimizer.state.get(parameter, {}).items():
                flat[f"optimizer/{name}/{moment}"] = value
        return {name: _complete(value.detach()).contiguous() for name, value in flat.items()}

    def load(self, tensors: dict[str, Tensor], step: int) -> None:
        """Take up what `tensors` gave, strictly."""
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "ema": {}, "optimizer": {}}
        groups |= {f"average{i}": {} for i in range(len(self.averages))}
        for name, value in tensors.items():
            group, _, rest = name.partition("/")
            groups[group][rest] = value
        own = self.module.state_dict()
        model = {name: alike(value, own.get(name, value)) for name, value in groups["model"].items()}
        self.module.load_state_dict(model)
        self.ema.load(groups["ema"])
        for i, ema in enumerate(self.averages):
            ema.load(groups[f"average{i}"])
        trained = self._trained()
        for name, value in groups["optimizer"].items():
            owner, _, moment = name.rpartition("/")
            parameter = trained[owner]
            if moment == "step":  # the fused AdamW keeps its counter where the parameter lies
                self.optimizer.state[parameter][moment] = value.to(parameter.device)
            else:  # in the parameter's own memory layout, which the fused update takes for granted
                self.optimizer.state[parameter][moment] = torch.empty_like(parameter).copy_(
                    alike(value, parameter)
                )
        self.step = step

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.module.named_parameters() if p.requires_grad}


def _complete(value: Tensor) -> Tensor:
    """Tensors in parts are put together on the CPU, one after the other."""
    found = whole(value)
    return value if found is value else found.cpu()


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write a state's tensors and its facts (JSON) under a temporary name, flush it to disk, rename it.

    Raises OutputError when the disk does not take it; an earlier checkpoint then stays.
    """
    partial = path.with_suffix(".tmp")
    try:
        safetensors.torch.save_file(dict(tensors), partial, {"facts": json.dumps(dict(facts))})
        durable.rename(partial, path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise OutputError(
            f"{path} could not be written ({error}); free some space and go on with --resume "
            "from the checkpoint before it."
        ) from error


def read_facts(path: Path) -> dict[str, Any]:
    """The facts stored beside the state; raises TrainingError if the file is not a checkpoint."""
    try:
        with safe_open(path, framework="pt") as file:
            return dict(json.loads((file.metadata() or {})["facts"]))
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise TrainingError(
            f"{path} is not a readable training checkpoint ({error}); "
            "delete it to go on from the one before it."
        ) from error


def read_checkpoint(path: Path, state: TrainState) -> None:
    """Load the state that `write_checkpoint` wrote; raises TrainingError if it does not fit."""
    facts = read_facts(path)
    try:
        state.load(safetensors.torch.load_file(path), facts["step"])
    except (RuntimeError, KeyError) as error:
        raise TrainingError(
            f"{path} does not fit this model ({error}); resume with the model it was made of."
        ) from error
