"""Writes a model as a folder that diffusers' own pipelines run."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calotype import durable
from calotype.checkpoints import diffusers_config, diffusers_names, diffusers_scheduler
from calotype.checkpoints.diffusers_folder import EXTRA, INDEX, KEPT, LOW_RES, TEXT_WEIGHTS, WEIGHTS
from calotype.checkpoints.names import Layout
from calotype.checkpoints.weights import as_dtype, write_safetensors
from calotype.conditioning.config import TextConfig
from calotype.conditioning.tokenizer import END, START, Tokenizer
from calotype.errors import CheckpointError, OutputError
from calotype.models.config import ModelConfig
from calotype.models.latent_diffusion import LatentDiffusion

LOW_RES_KIND = "DDPMScheduler"
"""What diffusers noises an upscaler's small picture with."""

POOLED = "pooled"
"""The module with the two classes that a U-Net with a plain pooled vector needs."""


@dataclass(frozen=True)
class Component:
    """One folder below the model's: its entry in the index, its settings and its weights."""

    folder: str
    entry: tuple[str, str]
    settings: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    stem: str = WEIGHTS


def write(folder: Path, model: LatentDiffusion, dtype: torch.dtype | None, recipe: Mapping[str, Any]) -> None:
    """The model as a folder, which must not be there yet; `dtype` None for the precisions it has.

    Raises CheckpointError for what diffusers cannot express, OutputError where it cannot be written.
    """
    config = model.config
    components = _components(model)
    scheduler = diffusers_scheduler.settings(config)
    tokenizer = model.text_encoder.tokenizer
    assert tokenizer is not None  # `_components` has refused models without text
    if folder.exists():
        raise OutputError(f"{folder} is there already; choose another name or remove it.")
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    try:
        for component in components:
            place = partial / component.folder
            place.mkdir(parents=True)
            _json(place / "config.json", component.settings)
            tensors = as_dtype(component.weights, dtype)
            write_safetensors(place / f"{component.stem}.safetensors", tensors, {"format": "pt"})
            if component.entry[0] == POOLED:
                source = Path(__file__).with_name("pooled_for_diffusers.txt")
                shutil.copyfile(source, place / f"{POOLED}.py")
        for name, text in zip(_towers(config), config.text, strict=True):
            _write_tokenizer(partial / f"tokenizer{name}", tokenizer, text)
        (partial / "scheduler").mkdir()
        _json(partial / "scheduler" / "scheduler_config.json", scheduler)
        if config.low_res is not None:
            (partial / LOW_RES).mkdir()
            levels = diffusers_scheduler.level_settings(config.low_res.schedule)
            _json(partial / LOW_RES / "scheduler_config.json", {"_class_name": LOW_RES_KIND} | levels)
        told = json.loads(config.to_json())
        _json(partial / EXTRA, {key: told[key] for key in KEPT} | {"recipe": dict(recipe)})
        _json(partial / INDEX, _index(config, components, scheduler["_class_name"]))
        durable.rename(partial, folder)
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written ({error}); choose another place or free space."
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _components(model: LatentDiffusion) -> list[Component]:
    config = model.config
    if config.autoencoder is None or not config.text:
        raise CheckpointError(
            f"The model {config.name} has no autoencoder or takes no text, for which diffusers' Stable "
            "Diffusion has no place; convert it to --format native."
        )
    if config.autoencoder.shift:
        raise CheckpointError(
            f"The model {config.name} shifts its latents, which diffusers' Stable Diffusion does not; "
            "convert it to --format native."
        )
    pooled = config.sizes is None and config.unet.vector_width is not None
    if config.unet.outline_cells and not pooled:
        raise CheckpointError(
            f"The model {config.name} has an outline but no pooled text, for which diffusers has no "
            "place; convert it to --format native."
        )
    unet = _named(
        model.denoiser.state_dict(), "network.", diffusers_names.unet(sized=config.sizes is not None)
    )
    vae = _named(model.autoencoder.state_dict(), "", diffusers_names.autoencoder)
    vae_settings = diffusers_config.autoencoder_settings(config.autoencoder, config.size)
    components = [
        Component(
            "unet",
            (POOLED, "PooledUNet") if pooled else ("diffusers", "UNet2DConditionModel"),
            diffusers_config.unet_settings(config),
            unet,
        ),
        Component("vae", ("diffusers", "AutoencoderKL"), vae_settings, vae),
    ]
    for i, (name, text) in enumerate(zip(_towers(config), config.text, strict=True)):
        weights = _named(model.text_encoder.state_dict(), f"towers.{i}.", diffusers_names.clip)
        components.append(
            _text_component(config, model.text_encoder.tokenizer, f"text_encoder{name}", text, weights)
        )
    return components


def _text_component(
    config: ModelConfig,
    tokenizer: Tokenizer | None,
    folder: str,
    text: TextConfig,
    weights: dict[str, Tensor],
) -> Component:
    """A tower whose layers beyond the one that is read are left out where diffusers reads the last."""
    assert tokenizer is not None
    sized, plain = config.sizes is not None, config.unet.vector_width is not None
    layers = text.clip.layers
    if not sized:
        cut = -1 - text.layer
        if not text.final_norm or (plain and (cut or text.clip.projection_width)):
            raise _inexpressible(config)
        layers -= cut
        weights = {
            name: value
            for name, value in weights.items()
            if name != "text_projection.weight" and not _beyond(name, layers)
        }
    elif text.layer != -2 or text.final_norm:
        raise _inexpressible(config)
    projected = sized and text.clip.projection_width is not None
    clip = text.clip if projected else dataclasses.replace(text.clip, projection_width=None)
    kind = "CLIPTextModelWithProjection" if projected else "CLIPTextModel"
    pad = tokenizer.end if text.pad_token is None else tokenizer.vocab[text.pad_token]
    settings = diffusers_config.clip_settings(clip, layers, start=tokenizer.start, pad=pad)
    entry = (POOLED, "PooledText") if plain and not sized else ("transformers", kind)
    return Component(folder, entry, settings, weights, TEXT_WEIGHTS)


def _beyond(name: str, layers: int) -> bool:
    parts = name.split(".")
    return "layers" in parts and int(parts[parts.index("layers") + 1]) >= layers


def _inexpressible(config: ModelConfig) -> CheckpointError:
    return CheckpointError(
        f"The model {config.name} reads its text otherwise than any pipeline of diffusers; "
        "convert it to --format native or single-file."
    )


def _towers(config: ModelConfig) -> list[str]:
    """What follows `text_encoder` and `tokenizer` in the names of the towers' folders."""
    if config.sizes is None:
        return [""]
    return ["_2"] if config.sizes.aesthetic else ["", "_2"]


def _index(config: ModelConfig, components: list[Component], scheduler: str) -> dict[str, Any]:
    index: dict[str, Any] = {
        "_class_name": _pipeline(config),
        "_diffusers_version": "0.42.0",
        **{component.folder: component.entry for component in components},
        **{f"tokenizer{name}": ("transformers", "CLIPTokenizer") for name in _towers(config)},
        "scheduler": ("diffusers", scheduler),
    }
    if config.low_res is not None:
        index["low_res_scheduler"] = ("diffusers", LOW_RES_KIND)
        index["max_noise_level"] = config.low_res.most
        return index | dict.fromkeys(("feature_extractor", "safety_checker", "watermarker"), (None, None))
    absent = ["feature_extractor", "image_encoder"]
    if config.sizes is None:
        absent.append("safety_checker")
        index["requires_safety_checker"] = False
    else:
        index["force_zeros_for_empty_prompt"] = config.zero_negative
        if config.sizes.aesthetic:
            index["requires_aesthetics_score"] = True
            absent += ["text_encoder", "tokenizer"]
    return index | dict.fromkeys(absent, (None, None))


def _pipeline(config: ModelConfig) -> str:
    """The pipeline a folder is meant for."""
    unet = config.unet
    if config.low_res is not None:
        return "StableDiffusionUpscalePipeline"
    painting = unet.in_channels > unet.out_channels
    if config.sizes is None:
        return "StableDiffusionInpaintPipeline" if painting else "StableDiffusionPipeline"
    if config.sizes.aesthetic:
        return "StableDiffusionXLImg2ImgPipeline"
    return "StableDiffusionXLInpaintPipeline" if painting else "StableDiffusionXLPipeline"


def _write_tokenizer(folder: Path, tokenizer: Tokenizer, text: TextConfig) -> None:
    folder.mkdir()
    tokenizer.save_clip_files(folder)
    special = {
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": text.pad_token or END,
    }
    _json(folder / "special_tokens_map.json", special)
    length = {"tokenizer_class": "CLIPTokenizer", "model_max_length": tokenizer.context_length}
    _json(folder / "tokenizer_config.json", special | length)


def _named(state: Mapping[str, Tensor], place: str, layout: Layout) -> dict[str, Tensor]:
    """The tensors below `place`, as the layout names them."""
    return layout.write(
        {name.removeprefix(place): value for name, value in state.items() if name.startswith(place)}
    )


def _json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
