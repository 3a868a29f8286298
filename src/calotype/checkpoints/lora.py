"""LoRA files, read for a model: kohya's layout, those of diffusers and PEFT, LyCORIS' other kinds.

A tensor's name is a layer's (lora_names.py) and an ending (`ENDINGS`) that says what it is of the change:

    up, down, mid, alpha   LoRA, LoCon                     magnitude          DoRA, around any of the others
    w1_a … w2_b, t1, t2    LoHa (hada_), LoKr (lokr_)      difference, bias   the change itself
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calotype.checkpoints.lora_changes import Pieces, change
from calotype.checkpoints.lora_names import Fashion, Part, Place, places, written
from calotype.checkpoints.weights import WeightsFile, as_dtype, read_json, some, write_safetensors
from calotype.checkpoints.weights_file import open_weights
from calotype.errors import CheckpointError
from calotype.models.latent_diffusion import LatentDiffusion
from calotype.networks.lora import Change, LowRank

ENDINGS = {
    ".lora_up.weight": "up",
    ".lora_down.weight": "down",
    ".lora_mid.weight": "mid",
    ".lora_B.weight": "up",
    ".lora_A.weight": "down",
    ".lora_B.default.weight": "up",
    ".lora_A.default.weight": "down",
    ".lora.up.weight": "up",
    ".lora.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    "_lora.up.weight": "up",  # before diffusers 0.20: attn1.processor.to_q_lora.up.weight
    "_lora.down.weight": "down",
    ".alpha": "alpha",
    ".dora_scale": "magnitude",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
    ".lora_magnitude_vector.default.weight": "magnitude",
    ".diff": "difference",
    ".diff_b": "bias",
    **{f".hada_{part}": f"hada_{part}" for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    **{f".lokr_{part}": f"lokr_{part}" for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
}

REFUSED = (
    ("(IA)³", (".on_input",)),
    ("OFT or BOFT", (".oft_blocks", ".oft_diag", ".oft_R", ".boft_R")),
    ("GLoRA", (".a1.weight", ".b1.weight")),
    ("VeRA", (".vera_lambda_b", ".vera_lambda_d")),
)
"""Kinds that Calotype does not apply, and what their names end in or hold."""

PEFT = "base_model.model."
"""Before every name in a file of PEFT's own."""

METADATA = "lora_adapter_metadata"
"""diffusers' key of the metadata for PEFT's configs, network by network."""


@dataclass(frozen=True)
class Lora:
    """changes  by part of the model and path in it; unknown: names that fit none of its layers"""

    path: Path
    changes: Mapping[Part, Mapping[str, Change]]
    unknown: tuple[str, ...]
    tensors: int

    def warning(self, model: str) -> str | None:
        """What to tell of the tensors that are not used."""
        if not self.unknown:
            return None
        return (
            f"{self.path} fits the model {model} only in part: {len(self.unknown)} of its {self.tensors} "
            f"tensors belong to none of its layers and are not used ({some(self.unknown)})."
        )


def read(path: Path, model: LatentDiffusion) -> Lora:
    """The changes that the file makes to this model.

    Raises CheckpointError: no LoRA, of a kind that is not applied, for another model (no name or not all
    shapes fit), incomplete, of rank 0, its numbers not finite.
    """
    file = open_weights(path)
    kind = next(
        (kind for kind, parts in REFUSED if any(part in name for part in parts for name in file.shapes)), None
    )
    if kind is not None:
        raise CheckpointError(
            f"{path} is of the kind {kind}, which Calotype does not apply; "
            "LoRA, LoCon, LoHa, LoKr and DoRA it does."
        )
    known = places(model)
    met: dict[Place, dict[str, str]] = {}
    unknown, ended = [], 0
    for name in file.shapes:
        layer, what = _split(name)
        ended += what is not None
        place = known.get(layer)
        if place is None or what is None:
            unknown.append(name)
        elif what in met.setdefault(place, {}):
            raise CheckpointError(
                f"{path} says twice how {layer} changes, in {met[place][what]} and {name}; use another file."
            )
        else:
            met[place][what] = name
    if not ended:
        raise CheckpointError(f"{path} is no LoRA ({some(file.shapes) or 'it is empty'}); name one.")
    if not met:
        raise CheckpointError(
            f"{path} is a LoRA for another model than {model.config.name}: none of its {len(unknown)} "
            f"tensors belongs to one of its layers ({some(unknown)})."
        )
    scales = _Scales(file)
    changes: dict[Part, dict[str, Change]] = {"text_encoder": {}, "denoiser": {}}
    for place, names in met.items():
        told = scales.of(next(iter(names.values())))
        pieces = Pieces(file, names, place.layer.weight.shape, place.layer.bias is not None, told)
        changes[place.part][place.path] = change(pieces, model.config.name)
    return Lora(path, changes, tuple(unknown), len(file.shapes))


def write(
    path: Path,
    model: LatentDiffusion,
    changes: Mapping[Part, Mapping[str, LowRank]],
    fashion: Fashion,
    dtype: torch.dtype | None = None,
    told: Mapping[str, str] | None = None,
) -> None:
    """A LoRA for this model as a file; `dtype` None for the precisions as they are, `told` more metadata.

    kohya's layout has an alpha beside every layer; in diffusers' the scale goes into `lora_B`, because
    not every reader of that layout looks for an alpha.
    Raises CheckpointError for a change that the layout has no place for or a number that is not finite in
    `dtype`, OutputError where it cannot write.
    """
    names = written(model, fashion)
    tensors: dict[str, Tensor] = {}
    for part, found in changes.items():
        for layer, low in found.items():
            name = names.get((part, layer))
            if name is None or (fashion == "diffusers" and low.mid is not None):
                raise CheckpointError(
                    f"The LoRA's {layer} has no place in the layout {fashion}; "
                    f"{'leave it out' if name is None else 'write it in kohya, which has lora_mid'}."
                )
            down, up, mid = low.down.detach(), low.up.detach(), low.mid
            if down.ndim == 4 or mid is not None:
                up = up[:, :, None, None]  # (O r) -> (O r 1 1)
                down = down if down.ndim == 4 else down[:, :, None, None]  # (r C) -> (r C 1 1)
            if fashion == "diffusers":
                tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up * low.scale}
                continue
            alpha = torch.tensor(low.scale * len(down), dtype=torch.float32)
            tensors |= {
                f"{name}.lora_down.weight": down,
                f"{name}.lora_up.weight": up,
                f"{name}.alpha": alpha,
            }
            if mid is not None:
                tensors[f"{name}.lora_mid.weight"] = mid.detach()
    alphas = {name: value for name, value in tensors.items() if not value.ndim}
    stored = as_dtype({name: value for name, value in tensors.items() if value.ndim}, dtype) | alphas
    write_safetensors(path, stored, {"format": "pt", **(told or {})})


def _split(name: str) -> tuple[str, str | None]:
    """A tensor's name to its layer's and what it is of the change; None where it does not say."""
    name = name.removeprefix(PEFT)
    ending = next((ending for ending in ENDINGS if name.endswith(ending)), None)
    if ending is None:
        return name, None
    return name.removesuffix(ending).replace(".processor.", "."), ENDINGS[ending]


class _Scales:
    """alpha / rank where PEFT's configs say it and no tensor does: diffusers puts them into the metadata,
    PEFT itself into adapter_config.json beside the file.
    """

    def __init__(self, file: WeightsFile) -> None:
        self._place = f"{file.path} ({METADATA})"
        self._own = any(name.startswith(PEFT) for name in file.shapes)
        try:
            told = json.loads(file.metadata.get(METADATA, "{}"))
        except (ValueError, RecursionError):
            told = None
        if self._own:
            config = file.path.with_name("adapter_config.json")
            self._place, told = str(config), read_json(config)
        if not isinstance(told, dict):
            raise CheckpointError(f"{file.path} holds a damaged {METADATA}; make or fetch it again.")
        self._told: dict[str, Any] = told

    def of(self, name: str) -> tuple[float | None, bool]:
        """alpha, None where it is not told, and whether it is divided by the root of the rank (rsLoRA)."""
        network, layer = ("", _split(name)[0]) if self._own else _split(name)[0].partition(".")[::2]
        key = f"{network}." if network else ""
        patterns = self._told.get(f"{key}alpha_pattern")
        alpha = self._told.get(f"{key}lora_alpha")
        for pattern, value in (patterns if isinstance(patterns, dict) else {}).items():
            if re.search(rf"(^|\.){re.escape(pattern)}$", layer):
                alpha = value
                break
        if alpha is not None and (
            isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha)
        ):
            raise CheckpointError(f"{self._place} says that alpha is {alpha!r}; give a number there.")
        return alpha, self._told.get(f"{key}use_rslora") is True
