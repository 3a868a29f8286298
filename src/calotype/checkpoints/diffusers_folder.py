"""Folders as diffusers writes them: model_index.json, and a folder with JSON and weights for every part.

`calotype.json`, where Calotype wrote the folder, holds what the others have no place for: the model's name,
what it draws, its steps and guidance, its recipe.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from calotype.checkpoints import detect, diffusers_config, diffusers_names, diffusers_scheduler, prediction
from calotype.checkpoints.compose import model_config, text_configs
from calotype.checkpoints.found import Found, Piece
from calotype.checkpoints.weights import open_component, read_json
from calotype.conditioning.tokenizer import END, Tokenizer, read_clip_files
from calotype.errors import CheckpointError
from calotype.models.config import LowResConfig, ModelConfig
from calotype.networks.config import ClipTextConfig

INDEX, EXTRA = "model_index.json", "calotype.json"
LOW_RES = "low_res_scheduler"
WEIGHTS, TEXT_WEIGHTS = "diffusion_pytorch_model", "model"
KEPT = ("name", "about", "size", "defaults")
"""Fields of the config that calotype.json keeps."""


def recognise(folder: Path, explicit: str | None = None) -> Found:
    """What the folder is; only its JSON and the heads of its weights are read.

    explicit  what its U-Net predicts (eps, v, x0), if the person knows better

    Raises CheckpointError: no such folder, another kind of model, missing parts, settings that Calotype's
    networks do not have.
    """
    if not (folder / INDEX).is_file():
        raise CheckpointError(f"{folder} has no {INDEX}; name a folder that diffusers wrote, whole.")
    index = read_json(folder / INDEX)
    detect.refuse_pipeline(folder, str(index.get("_class_name", "")))
    unet_path = folder / "unet" / "config.json"
    settings = read_json(unet_path)
    unet = diffusers_config.unet(unet_path, settings)
    family = detect.family(folder, unet, sized=settings.get("class_embed_type") != "projection")
    told = read_json(folder / "scheduler" / "scheduler_config.json")
    decided = prediction.decide(folder, family, explicit=explicit, scheduler=told)
    schedule, defaults = diffusers_scheduler.read(folder / "scheduler", told, family)
    vae_path = folder / "vae" / "config.json"
    autoencoder = diffusers_config.autoencoder(vae_path, read_json(vae_path), family.scale)
    pieces = [
        Piece.of(
            "denoiser",
            "network.",
            open_component(folder / "unet", WEIGHTS),
            diffusers_names.unet(sized=family.sized),
        ),
        Piece.of("autoencoder", "", open_component(folder / "vae", WEIGHTS), diffusers_names.autoencoder),
    ]
    names = [name for name in ("text_encoder", "text_encoder_2") if _there(index, folder, name)]
    texts = [
        Piece.of(
            "text_encoder", f"towers.{i}.", open_component(folder / name, TEXT_WEIGHTS), diffusers_names.clip
        )
        for i, name in enumerate(names)
    ]
    towers = [_clip(folder / name, piece) for name, piece in zip(names, texts, strict=True)]
    pads = [_pad(folder / name.replace("text_encoder", "tokenizer")) for name in names]
    if not names:
        raise CheckpointError(
            f"{folder} has no text encoder, it is only a part of a model; name a whole one."
        )
    text = text_configs(family, towers, pads)
    if unet.vector_width is not None and not family.sized:
        text = tuple(dataclasses.replace(tower, pooled=True) for tower in text)
    config = model_config(
        folder,
        family,
        decided,
        unet,
        autoencoder,
        text,
        schedule=schedule,
        defaults=defaults,
        zero_negative=bool(index.get("force_zeros_for_empty_prompt", False)),
        low_res=_low_res(folder / LOW_RES, index),
    )
    config, recipe = _with_extra(folder, config, settings.get("sample_size"))
    return Found(
        folder,
        "diffusers",
        family.title,
        config,
        decided.decided,
        (*pieces, *texts),
        partial(_tokenizer, folder, names, text[0].clip.context_length),
        diffusers_scheduler.remarks(told),
        recipe,
    )


def _low_res(folder: Path, index: Mapping[str, Any]) -> LowResConfig | None:
    """An upscaler's second schedule; None where the folder says nothing of it."""
    told = folder / "scheduler_config.json"
    if not told.is_file():
        return None
    levels = diffusers_scheduler.levels(folder, read_json(told))
    most = index.get("max_noise_level", 350)
    return diffusers_config.made(folder / INDEX, LowResConfig, schedule=levels, most=most)


def _there(index: Mapping[str, Any], folder: Path, name: str) -> bool:
    entry = index.get(name)
    return isinstance(entry, list) and entry[:1] != [None] and (folder / name).is_dir()


def _clip(folder: Path, piece: Piece) -> ClipTextConfig:
    told = read_json(folder / "config.json")
    return diffusers_config.clip(folder / "config.json", told, projected="projection.weight" in piece.sources)


def _pad(folder: Path) -> str | None:
    """What fills a short prompt; None for the end token, CLIP's own habit."""
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            pad = read_json(folder / name).get("pad_token")
            pad = pad.get("content") if isinstance(pad, dict) else pad
            if isinstance(pad, str):
                return None if pad == END else pad
    return None


def _tokenizer(folder: Path, names: list[str], context_length: int) -> Tokenizer:
    """The one tokenizer of all towers; OpenAI's where the folder has none."""
    found = [_vocabulary(folder / name.replace("text_encoder", "tokenizer")) for name in names]
    told = [vocabulary for vocabulary in found if vocabulary is not None]
    if not told:
        return Tokenizer.clip()
    if any(vocabulary != told[0] for vocabulary in told):
        raise CheckpointError(f"{folder} has tokenizers that differ, for which Calotype has no place.")
    return Tokenizer.from_vocab(*told[0], context_length)


def _vocabulary(folder: Path) -> tuple[dict[str, int], list[str]] | None:
    if (folder / "vocab.json").is_file():
        return read_clip_files(folder)
    if not (folder / "tokenizer.json").is_file():
        return None
    try:
        stored = read_json(folder / "tokenizer.json")["model"]
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in stored["merges"]]
        return dict(stored["vocab"]), merges
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(f"{folder / 'tokenizer.json'} is no CLIP tokenizer; fetch it again.") from None


def _with_extra(folder: Path, config: ModelConfig, side: Any) -> tuple[ModelConfig, dict[str, Any]]:
    """The config with the U-Net's own picture size and what calotype.json adds, and the recipe.

    Everything is checked for its type, as a file of Calotype's own is; what is wrong is a CheckpointError.
    """
    told = read_json(folder / EXTRA) if (folder / EXTRA).is_file() else {}
    if isinstance(side, int):
        config = dataclasses.replace(config, size=side * config.factor)
    recipe = told.get("recipe", {})
    if not isinstance(recipe, dict):
        raise CheckpointError(f"{folder / EXTRA} holds a damaged recipe; fetch the folder again.")
    whole = json.loads(config.to_json()) | {key: told[key] for key in KEPT if key in told}
    try:
        return ModelConfig.from_json(json.dumps(whole)), recipe
    except CheckpointError as error:
        raise CheckpointError(f"{folder} makes no model: {error}") from None
