"""ControlNets: recognised from names and shapes, or a folder's JSON, as models are."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from calotype.checkpoints import compvis_names, detect, diffusers_config, diffusers_names, memory, sizes
from calotype.checkpoints.compvis_names import CONTROL
from calotype.checkpoints.diffusers_folder import WEIGHTS
from calotype.checkpoints.found import Piece
from calotype.checkpoints.loading import filling
from calotype.checkpoints.weights import (
    WeightsFile,
    as_dtype,
    open_component,
    read_json,
    write_safetensors,
)
from calotype.checkpoints.weights_file import open_weights
from calotype.errors import CheckpointError, InputError, OutputError, shown
from calotype.models.config import ModelConfig
from calotype.models.latent_diffusion import unfilled
from calotype.networks.config import ControlNetConfig, UNetConfig
from calotype.networks.controlnet import ControlNet
from calotype.networks.narrow import Widen

SETTINGS = "controlnet"
"""The name under which the weights' metadata holds the settings."""
PLAIN = "a model with pooled text"
"""The family of those whose vector is the pooled text alone, as that of `icons`."""
OTHERS = (
    ("a ControlNet Union, which is several in one", "task_embedding control_add_embedding."),
    ("a Control-LoRA", "lora_controlnet"),
    ("a ControlNet-LLLite", "lllite_"),
    ("a ControlNet kept as its difference from Stable Diffusion 1.5", "difference"),
    ("a ControlNet of Stable Diffusion 3 or Flux", "controlnet_blocks. controlnet_x_embedder."),
    ("a T2I-Adapter", "adapter.body. body.0.resnets.0.block1"),
    ("an IP-Adapter", "ip_adapter."),
)
"""Title and tell-tale parts of names: other things that follow a picture, and which cannot be used."""


@dataclass(frozen=True)
class FoundControlNet:
    """No tensor has been read yet.

    title  the family it was made for, as people call it
    """

    path: Path
    title: str
    config: ControlNetConfig
    piece: Piece

    def check(self, model: ModelConfig) -> None:
        """Raises CheckpointError where it is a ControlNet for other models than this one."""
        own, its = self.config.unet, model.unet
        sizes_agree = (own.block_channels, own.layers_per_block, own.vector_width, own.in_channels) == (
            its.block_channels,
            its.layers_per_block,
            its.vector_width,
            its.out_channels,
        )
        texts_agree = own.context_width in (0, its.context_width)  # SDXL's small ones read none
        pictures_agree = self.config.factor == model.factor and self.config.picture_channels == 3
        if not (sizes_agree and texts_agree and pictures_agree):
            raise CheckpointError(
                f"{self.path} is a ControlNet for {self.title} ({_told(own)}), which does not fit the model "
                f"{model.name} ({_told(its)}); use one for {model.about or model.name}, or another --model."
            )

    def load(
        self,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = torch.float32,
        *,
        widen: Widen | None = "now",
    ) -> ControlNet:
        """The network, weights in `dtype`, None for as they are stored; `widen` and errors as
        `Found.load`'s.
        """
        try:
            with unfilled():
                net = ControlNet(self.config)
        except InputError as error:
            raise CheckpointError(f"{self.path} makes no ControlNet: {error}") from None
        weights = sum(memory.held({"": self.piece.sources}, memory.itemsize(dtype)).values())
        widen = widen or memory.way(memory.Memory(weights, 0, 0), torch.device(device))
        filling(self.path, net, [self.piece], device, dtype, widen)()
        return net.eval()


def _told(unet: UNetConfig) -> str:
    levels = ", ".join(map(str, unet.block_channels))
    return f"levels of {levels} channels, text {unet.context_width} wide"


def recognise(path: Path) -> FoundControlNet:
    """What the file or the folder is, without reading a tensor.

    Raises InputError where there is none, CheckpointError where it is no ControlNet that Calotype can use.
    """
    if not path.exists():
        raise InputError(f"There is no file {path}; name a ControlNet, a file or a diffusers folder.")
    if path.is_dir():
        return _folder(path)
    file = open_weights(path)
    _refuse_others(file)
    if SETTINGS in file.metadata:
        return _with_settings(path, path, _settings_in(file), file)
    if "controlnet_cond_embedding.conv_in.weight" in file.shapes:
        layout, stored = diffusers_names.controlnet(), dict(file.shapes)
    else:
        prefix = CONTROL if any(name.startswith(CONTROL) for name in file.shapes) else ""
        if f"{prefix}input_hint_block.0.weight" not in file.shapes:
            raise CheckpointError(
                f"{path} is no ControlNet; name one of Stable Diffusion 1.x, 2.x or XL, a file or a folder."
            )
        # The first ControlNets came in one file with the model that they belong to.
        stored = {name: info for name, info in file.shapes.items() if name.startswith(prefix)}
        layout = compvis_names.controlnet_met(stored, prefix)
    piece = Piece.of("ControlNet", "", file, layout, stored)
    piece.refuse_unknown()
    enter = piece.sources.get("middle.transformer.enter.weight")
    eight = enter is not None and len(enter.shape) == 4  # SD 1.x has 8 heads everywhere
    heads = (lambda _: 8) if eight else sizes.heads_of_64
    config = piece.measured(partial(sizes.controlnet, heads=heads))
    return FoundControlNet(path, _title(path, config), config, piece)


def _folder(folder: Path) -> FoundControlNet:
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} has no config.json; name a ControlNet's own folder, whole.")
    told = read_json(path)
    kind = told.get("_class_name", "ControlNetModel")
    if kind != "ControlNetModel":
        raise CheckpointError(
            f"{folder} is a {shown(kind)} of diffusers and no ControlNet of Stable Diffusion 1.x, 2.x or XL; "
            "name one of those."
        )
    return _with_settings(folder, path, told, open_component(folder, WEIGHTS))


def _with_settings(path: Path, place: Path, told: Mapping[str, Any], file: WeightsFile) -> FoundControlNet:
    """Of diffusers' names and the settings that `place` gives for them."""
    config = diffusers_config.controlnet(place, told)
    piece = Piece.of("ControlNet", "", file, diffusers_names.controlnet())
    piece.refuse_unknown()
    plain = told.get("class_embed_type") == "projection"
    return FoundControlNet(path, PLAIN if plain else _title(path, config), config, piece)


def _settings_in(file: WeightsFile) -> dict[str, Any]:
    """What config.json says beside it, kept in the weights' own metadata as well."""
    try:
        told = json.loads(file.metadata[SETTINGS])
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise CheckpointError(f"{file.path} holds settings that are no JSON object; take an intact file.")
    return told


def write(
    folder: Path, net: ControlNet, model: ModelConfig, dtype: torch.dtype, recipe: Mapping[str, Any]
) -> None:
    """A ControlNet of the model as diffusers keeps it: config.json and the weights, which hold it as well.

    Raises CheckpointError for what diffusers cannot express, OutputError where it cannot be written.
    """
    settings = json.dumps(diffusers_config.controlnet_settings(model, net.control), indent=1)
    layout = diffusers_names.controlnet(sized=model.sizes is not None)
    tensors = as_dtype(layout.write(net.state_dict()), dtype)
    metadata = {"format": "pt", SETTINGS: settings, "recipe": json.dumps(recipe, ensure_ascii=False)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(settings + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written ({error}); choose another place or free space."
        ) from None
    write_safetensors(folder / f"{WEIGHTS}.safetensors", tensors, metadata)


def _refuse_others(file: WeightsFile) -> None:
    for title, tell_tales in OTHERS:
        if any(part in name for part in tell_tales.split() for name in file.shapes):
            raise CheckpointError(
                f"{file.path} is {title}; --control takes ControlNets of Stable Diffusion 1.x, 2.x and XL."
            )


def _title(path: Path, config: ControlNetConfig) -> str:
    unet = config.unet
    if unet.vector_width is not None:  # small ones lack what else tells XL's base from its refiner
        return "Stable Diffusion XL"
    return detect.family(path, dataclasses.replace(unet, in_channels=unet.out_channels)).title
