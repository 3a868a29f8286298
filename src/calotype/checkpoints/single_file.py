"""Single files: U-Net, autoencoder and text encoders in one, named as CompVis and Stability name them.

What Calotype writes also holds its own config and tokenizer in the metadata, since heads, schedules and
vocabularies leave no trace in names and shapes; a file without them is told by its family.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calotype.checkpoints import compvis_names, detect, diffusers_names, prediction, sizes
from calotype.checkpoints.compose import family_defaults, model_config, text_configs
from calotype.checkpoints.compvis_names import AUTOENCODER, TOWERS, UNET
from calotype.checkpoints.contents import contents
from calotype.checkpoints.found import Found, Piece
from calotype.checkpoints.names import Layout
from calotype.checkpoints.weights import WeightsFile, as_dtype, write_safetensors
from calotype.checkpoints.weights_file import TensorInfo
from calotype.errors import CheckpointError
from calotype.models.config import ModelConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from calotype.conditioning.tokenizer import Tokenizer
    from calotype.models.latent_diffusion import LatentDiffusion

CONFIG, TOKENIZER, RECIPE = "calotype.config", "calotype.tokenizer", "calotype.recipe"
"""Keys of the metadata."""

OPEN_CLIP_H_LAYERS = 24
"""SD 2.x reads the last layer but one; a copy that was cut there has one fewer."""


def recognise(file: WeightsFile, explicit: str | None = None, vae: Piece | None = None) -> Found:
    """What the file is; no tensor is read.

    explicit  what its U-Net predicts (eps, v, x0), if the person knows better
    vae       the autoencoder of another file, for a model that has none or a damaged one

    Raises CheckpointError: another kind of model, a part of one, unknown names, a wrong prediction type.
    """
    detect.refuse_others(file.path, file.shapes)
    found = contents(file, whole=vae is None)
    groups = found.groups
    towers = [(prefix, layout) for prefix, layout in TOWERS if prefix in groups]
    unet = Piece.of("denoiser", "network.", file, compvis_names.unet_met(groups[UNET], UNET), groups[UNET])
    vae = _own_autoencoder(file, groups.get(AUTOENCODER), vae)
    texts = [
        (Piece.of("text_encoder", f"towers.{i}.", file, layout.below(prefix), groups[prefix]), layout)
        for i, (prefix, layout) in enumerate(towers)
    ]
    if CONFIG in file.metadata:
        config, decided = ModelConfig.from_json(file.metadata[CONFIG]), "by Calotype's own metadata"
        if explicit is not None:
            kind, decided = prediction.named(file.path, explicit), "asked for"
            config = dataclasses.replace(config, parameterization=kind)
    else:
        config, decided = _told_by_shapes(file, explicit, unet, vae, texts)
    return Found(
        file.path,
        "single-file",
        config.about or config.name,
        config,
        decided,
        (unet, vae, *(piece for piece, _ in texts)),
        partial(_tokenizer, file),
        found.notes,
        _recipe(file),
        found.unknown,
    )


def _own_autoencoder(
    file: WeightsFile, stored: Mapping[str, TensorInfo] | None, other: Piece | None
) -> Piece:
    """The file's own, unless there is another and its own is missing or has lost what tells its sizes."""
    if stored is None:
        assert other is not None, "contents() refuses a file without one"
        return other
    layout = compvis_names.autoencoder_met(stored, AUTOENCODER)
    own = Piece.of("autoencoder", "", file, layout, stored)
    try:
        own.measured(lambda found: sizes.autoencoder(found, 1.0))
    except CheckpointError:
        if other is None:
            raise
        return other
    return own


def autoencoder(file: WeightsFile) -> Piece:
    """The autoencoder of a whole file, or of one that holds nothing else, named in either fashion.

    Raises CheckpointError where there is none.
    """
    for prefix in (AUTOENCODER, "vae.", ""):
        stored = {
            name: info
            for name, info in file.shapes.items()
            if name.startswith(tuple(prefix + part for part in ("encoder.", "decoder.", "quant_", "post_")))
        }
        if f"{prefix}encoder.down.0.block.0.conv1.weight" in stored:
            layout = compvis_names.autoencoder_met(stored, prefix)
        elif f"{prefix}encoder.down_blocks.0.resnets.0.conv1.weight" in stored:
            layout = diffusers_names.autoencoder.below(prefix)
        else:
            continue
        return Piece.of("autoencoder", "", file, layout, stored)
    raise CheckpointError(f"{file.path} has no autoencoder; name a file with one.")


def _told_by_shapes(
    file: WeightsFile, explicit: str | None, unet: Piece, coder: Piece, texts: list[tuple[Piece, Layout]]
) -> tuple[ModelConfig, str]:
    """The config of a file that says nothing of itself, and how its prediction type was found."""
    path, enter = file.path, unet.sources.get("middle.transformer.enter.weight")
    # SD 1.x and the upscaler have 8 heads everywhere, all others heads of 64 channels.
    eight = enter is None or len(enter.shape) == 4 or "class_embedding.weight" in unet.sources
    network = unet.measured(lambda found: sizes.unet(found, (lambda _: 8) if eight else sizes.heads_of_64))
    family = detect.family(path, network)
    told = {name: str(value) for name, value in file.scalars.items()} | dict(file.metadata)
    decided = prediction.decide(path, family, explicit=explicit, names=file.shapes, metadata=told)
    openai = [layout is diffusers_names.clip and family.text != "open_clip" for _, layout in texts]
    towers = [
        piece.measured(partial(sizes.clip, activation="quick_gelu" if own else "gelu"))
        for (piece, _), own in zip(texts, openai, strict=True)
    ]
    text = text_configs(family, towers, [None if own else "!" for own in openai])
    if texts[0][1] is compvis_names.open_clip and towers[0].layers != OPEN_CLIP_H_LAYERS - 1:
        text = tuple(dataclasses.replace(tower, layer=-2) for tower in text)
    autoencoder = coder.measured(lambda found: sizes.autoencoder(found, family.scale))
    defaults = family_defaults(family, decided, file.metadata.get("modelspec.title", ""))
    config = model_config(path, family, decided, network, autoencoder, text, defaults=defaults)
    return config, decided.decided


def _recipe(file: WeightsFile) -> dict[str, Any]:
    try:
        recipe = json.loads(file.metadata.get(RECIPE, "{}"))
    except (ValueError, RecursionError):
        recipe = None
    if not isinstance(recipe, dict):
        raise CheckpointError(f"{file.path} holds a damaged recipe; make or fetch it again.")
    return recipe


def _tokenizer(file: WeightsFile) -> Tokenizer:
    from calotype.checkpoints import native
    from calotype.conditioning.tokenizer import Tokenizer

    if TOKENIZER not in file.metadata:
        return Tokenizer.clip()
    try:
        return native.tokenizer_from_json(file.metadata[TOKENIZER])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CheckpointError(f"{file.path} holds a damaged tokenizer; make or fetch it again.") from None


def write(path: Path, model: LatentDiffusion, dtype: torch.dtype | None, recipe: Mapping[str, Any]) -> None:
    """The whole model as one file; `dtype` None for the precisions it has.

    Raises CheckpointError where a number is not finite in `dtype`, OutputError where it cannot be written.
    """
    import torch

    from calotype.checkpoints import native
    from calotype.conditioning.tokenizer import clip_merges

    config = model.config
    tensors = named(model)
    if config.parameterization == "v":  # the sign by which other programs know it
        tensors["v_pred"] = torch.zeros(0)
    if config.schedule.zero_terminal_snr:
        tensors["ztsnr"] = torch.zeros(0)
    metadata = {"format": "pt", CONFIG: config.to_json(), RECIPE: json.dumps(recipe, ensure_ascii=False)}
    tokenizer = model.text_encoder.tokenizer
    if tokenizer is not None and tokenizer.merges != clip_merges():
        metadata[TOKENIZER] = native.tokenizer_to_json(tokenizer)
    write_safetensors(path, as_dtype(tensors, dtype), metadata)


def named(model: LatentDiffusion) -> dict[str, Tensor]:
    """All its weights under the names of a single file; CheckpointError for a model that has no such file."""
    tensors: dict[str, Tensor] = {}
    for module, place, layout in _layouts(model):
        state = module.state_dict()
        below = {name.removeprefix(place): state[name] for name in state if name.startswith(place)}
        tensors |= layout.write(below)
    return tensors


def _layouts(model: LatentDiffusion) -> Iterator[tuple[nn.Module, str, Layout]]:
    """Every network's part, its place in it and how a single file names it."""
    config = model.config
    if config.autoencoder is None or not config.text:
        raise CheckpointError(
            f"The model {config.name} has no autoencoder or takes no text, for which single files have no "
            "place; convert it to --format native."
        )
    unet, levels = config.unet, len(config.autoencoder.block_channels)
    middle = bool(unet.transformer_depth[-1])
    named = compvis_names.unet(unet.layers_per_block, unet.attention_levels, middle=middle)
    yield model.denoiser, "network.", named.below(UNET)
    yield model.autoencoder, "", compvis_names.autoencoder(levels).below(AUTOENCODER)
    if config.sizes is None:
        towers = [TOWERS[1] if unet.linear_projection else TOWERS[0]]
    else:
        towers = [TOWERS[4]] if config.sizes.aesthetic else [TOWERS[2], TOWERS[3]]
    for i, (prefix, layout) in enumerate(towers):
        yield model.text_encoder, f"towers.{i}.", layout.below(prefix)
