"""Which networks lie in a single file, told by the beginnings of its names."""

from __future__ import annotations

from dataclasses import dataclass

from calotype.checkpoints import compvis_names
from calotype.checkpoints.compvis_names import AUTOENCODER, TOWERS, UNET
from calotype.checkpoints.weights import WeightsFile, some
from calotype.checkpoints.weights_file import TensorInfo
from calotype.errors import CheckpointError

ALL_BUT_AUTOENCODER = "a model without its autoencoder"


@dataclass(frozen=True)
class Contents:
    """Tensors by the prefix of their network, names that belong to none, and how many are averaged copies."""

    groups: dict[str, dict[str, TensorInfo]]
    unknown: tuple[str, ...]
    averaged: int

    @classmethod
    def of(cls, file: WeightsFile) -> Contents:
        prefixes = (UNET, AUTOENCODER, *(prefix for prefix, _ in TOWERS))
        passed_by = {*compvis_names.BUFFERS, *compvis_names.LOW_SCALE}
        groups: dict[str, dict[str, TensorInfo]] = {}
        unknown, averaged = [], 0
        for name, info in file.shapes.items():
            prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
            if name in passed_by or name.startswith(compvis_names.TRAINING):
                continue
            if prefix is not None:
                groups.setdefault(prefix, {})[name] = info
            elif name.startswith(compvis_names.EMA):
                averaged += 1
            else:
                unknown.append(name)
        return cls(groups, tuple(unknown), averaged)

    @property
    def lacking(self) -> list[str]:
        """The networks that are not there."""
        there = (
            ("U-Net", UNET in self.groups),
            ("autoencoder", AUTOENCODER in self.groups),
            ("text encoder", any(prefix in self.groups for prefix, _ in TOWERS)),
        )
        return [what for what, found in there if not found]

    @property
    def lone(self) -> str | None:
        """What a file of one network is."""
        groups, unknown = set(self.groups), self.unknown
        if groups == {AUTOENCODER} or any(name.startswith("encoder.conv_in.") for name in unknown):
            return "an autoencoder"
        if groups == {UNET} or any(name.startswith(("input_blocks.", "down_blocks.")) for name in unknown):
            return "a U-Net"
        tower = ("text_model.encoder.", "transformer.resblocks.")
        if (groups and not {UNET, AUTOENCODER} & groups) or any(n.startswith(tower) for n in unknown):
            return "a text encoder"
        return None

    @property
    def notes(self) -> tuple[str, ...]:
        note = f"It also holds an averaged copy of the U-Net, {self.averaged} tensors, which is not used."
        return (note,) if self.averaged else ()


def contents(file: WeightsFile, *, whole: bool) -> Contents:
    """The file's, where a model is there.

    whole  whether there must be an autoencoder among its networks

    Raises CheckpointError where a network is missing.
    """
    found = Contents.of(file)
    if found.lone is not None:
        raise CheckpointError(f"{file.path} is {found.lone} alone, only a part of a model; name a whole one.")
    lacking = [what for what in found.lacking if whole or what != "autoencoder"]
    if lacking and found.unknown:
        raise CheckpointError(
            f"{file.path} holds {len(found.unknown)} tensors that belong to no part of a Stable Diffusion "
            f"({some(found.unknown)}); it is another kind of model."
        )
    if lacking:
        raise CheckpointError(
            f"{file.path} has no {lacking[0]}, it is only a part of a model; name a whole one."
        )
    return found


def part(file: WeightsFile) -> str | None:
    """What a file is that holds a part of a model; None for any other file."""
    found = Contents.of(file)
    if found.lone is not None or found.unknown or not found.groups:
        return found.lone
    if found.lacking == ["autoencoder"]:
        return ALL_BUT_AUTOENCODER
    return f"a model without its {' and '.join(found.lacking)}" if found.lacking else None
