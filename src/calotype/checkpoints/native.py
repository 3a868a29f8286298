"""Calotype's own checkpoint: one safetensors file that holds everything needed to use the model.

Tensors are named PART.KEY with the parts autoencoder, text_encoder, denoiser (any of them may be absent).
Metadata, all texts: `format` = calotype, `config` (ModelConfig as JSON), `tokenizer` (JSON: merges,
context_length, and the vocab where CLIP's layout does not tell it), `recipe` (JSON: how it was made),
`weights_sha256`, `calotype_version`; and `kind` = pixel for a PixelDiffusion with its PixelConfig.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import calotype
from calotype import __version__
from calotype.checkpoints.loading import filler, placed, way
from calotype.checkpoints.names import Source
from calotype.checkpoints.native_file import (
    PARTS,
    PIXEL,
    FileInfo,
    NativeFile,
    by_part,
    describe,
    latent_config,
)
from calotype.checkpoints.weights import as_dtype, some, write_safetensors
from calotype.checkpoints.weights_file import open_weights
from calotype.conditioning.text import TextEncoder
from calotype.conditioning.tokenizer import Tokenizer, clip_vocabulary
from calotype.errors import CheckpointError
from calotype.models.config import ModelConfig
from calotype.models.latent_diffusion import LatentDiffusion, build, unfilled
from calotype.models.offload import Fill, Offload
from calotype.models.pixel_diffusion import PixelDiffusion, build_pixel
from calotype.networks.autoencoder import Autoencoder
from calotype.networks.last_word import LastWord
from calotype.networks.narrow import Widen

__all__ = [
    "OUTLINE",
    "PARTS",
    "PIXEL",
    "FileInfo",
    "describe",
    "latent_config",
    "load",
    "load_autoencoder",
    "load_pixel",
    "load_text_encoder",
    "save",
    "save_pixel",
    "tokenizer_from_json",
    "tokenizer_to_json",
    "weights_sha256",
]

OUTLINE = "denoiser.network.outline."
"""Beginning of the names of the weights that read an outline off the text's last tokens."""


def save_pixel(
    path: str | Path,
    model: PixelDiffusion,
    *,
    recipe: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = torch.float16,
) -> str:
    """As `save`, for a model of pictures themselves."""
    return _write(path, model, PARTS, dtype, {"kind": PIXEL}, recipe)


def save(
    path: str | Path,
    model: LatentDiffusion,
    *,
    recipe: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = torch.float16,
    parts: Sequence[str] = PARTS,
) -> str:
    """Write the model (or only the named parts, or parts of parts) atomically; returns the hash of the
    weights as stored.

    dtype  None for the precisions the weights have

    Raises OutputError where the file cannot be written, CheckpointError where a weight is not a finite
    number in `dtype`.
    """
    facts = {}
    if model.text_encoder.tokenizer is not None:
        facts["tokenizer"] = tokenizer_to_json(model.text_encoder.tokenizer)
    return _write(path, model, parts, dtype, facts, recipe)


def _write(
    path: str | Path,
    model: LatentDiffusion | PixelDiffusion,
    parts: Sequence[str],
    dtype: torch.dtype | None,
    facts: Mapping[str, str],
    recipe: Mapping[str, Any] | None,
) -> str:
    kept = tuple(f"{part}." for part in parts)
    named = {
        f"{part}.{name}": value
        for part, module in model.parts().items()
        for name, value in module.state_dict().items()
        if f"{part}.{name}".startswith(kept)
    }
    tensors = as_dtype(named, dtype)
    digest = weights_sha256(tensors)
    metadata = {
        "format": "calotype",
        "config": model.config.to_json(),
        "recipe": json.dumps(recipe or {}, ensure_ascii=False),
        "weights_sha256": digest,
        "calotype_version": __version__,
        **facts,
    }
    write_safetensors(Path(path), tensors, metadata)
    return digest


def tokenizer_to_json(tokenizer: Tokenizer) -> str:
    """Merges, context length, and the vocabulary where CLIP's layout does not tell it."""
    told: dict[str, Any] = {"merges": tokenizer.merges, "context_length": tokenizer.context_length}
    if tokenizer.vocab != clip_vocabulary(tokenizer.merges):  # else the merges tell it
        told["vocab"] = tokenizer.vocab
    return json.dumps(told, ensure_ascii=False)


def tokenizer_from_json(text: str) -> Tokenizer:
    """The inverse of `tokenizer_to_json`; ValueError, KeyError or TypeError where the text is none such."""
    stored = json.loads(text)
    merges = stored["merges"]
    if not isinstance(merges, list) or not all(isinstance(merge, str) for merge in merges):
        raise ValueError("merges are not texts")
    vocab = stored["vocab"] if "vocab" in stored else clip_vocabulary(merges)
    return Tokenizer.from_vocab(vocab, merges, stored["context_length"])


def weights_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over name, dtype, shape and bytes of every tensor, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _tokenizer(file: NativeFile, config: ModelConfig) -> Tokenizer | None:
    if not config.text:
        return None
    try:
        return tokenizer_from_json(file.text("tokenizer"))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CheckpointError(
            f"{file.path} holds a damaged tokenizer; make or fetch the file again."
        ) from None


def _filling(
    file: NativeFile,
    part: str,
    module: nn.Module,
    device: torch.device | str,
    dtype: torch.dtype | None,
    widen: Widen = "now",
) -> Fill:
    """What gives the module, built on the meta device, its tensors; strict in names and shapes."""
    wanted = {f"{part}.{name}": tuple(value.shape) for name, value in module.state_dict().items()}
    stored = {name: shape for name, shape in file.shapes.items() if name.startswith(part + ".")}
    missing, extra = wanted.keys() - stored.keys(), stored.keys() - wanted.keys()
    misshapen = [
        f"{name} {stored[name]} instead of {wanted[name]}"
        for name in sorted(wanted.keys() & stored.keys())
        if wanted[name] != stored[name]
    ]
    problems = [
        f"{verb} {some(names)}"
        for verb, names in (("lacks", missing), ("has unknown", extra), ("has misshapen", misshapen))
        if names
    ]
    if problems:
        raise CheckpointError(
            f"{file.path} {' and '.join(problems)}; its weights are not those of its config."
        )

    told = file.weights.shapes
    places = {
        name.removeprefix(f"{part}."): (file.weights, Source(name, told[name].shape, told[name].dtype))
        for name in stored
    }
    return filler(module, places, torch.device(device), dtype, widen)


def _under(
    file: NativeFile, prefix: str, device: torch.device | str, dtype: torch.dtype
) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, named by the rest."""
    return {
        name.removeprefix(prefix): file.weights.tensor(name).to(device, dtype)
        for name in file.shapes
        if name.startswith(prefix)
    }


def load(
    path: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = torch.float32,
    offload: Offload | None = None,
    *,
    widen: Widen | None = "now",
) -> LatentDiffusion:
    """The whole model, ready for use, weights in `dtype` (None for as they are stored) on `device`; `offload`
    and `widen` as `Found.load` takes them.

    Raises CheckpointError: not a file, cut short, another format, a config of the wrong kind, a part or a
    key missing, unknown or misshapen.
    """
    file = NativeFile(path)
    config = file.config()
    tokenizer = _tokenizer(file, config)
    with unfilled():
        model = build(config, tokenizer)
    device = torch.device(device)
    widen = widen or way(config, by_part(file.weights.shapes), device, dtype, offload)
    fills = {}
    for part, module in model.parts().items():
        if any(True for _ in module.parameters()) and not any(k.startswith(part + ".") for k in file.shapes):
            raise CheckpointError(
                f"{file.path} has no {part.replace('_', ' ')}, only a part of a model; "
                "name a whole one, or train the rest with `calotype train diffusion`."
            )
        fills[part] = _filling(file, part, module, device, dtype, widen)
    unknown = [name for name in file.shapes if name.partition(".")[0] not in PARTS]
    if unknown:
        raise CheckpointError(f"{file.path} has unknown {some(unknown)}; the file needs a newer Calotype.")
    return placed(model, fills, offload).replace(weights_hash=file.text("weights_sha256"))


def load_pixel(
    path: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = torch.float32
) -> PixelDiffusion:
    """A model of pictures themselves, ready for use; errors as `load`'s."""
    file = NativeFile(path)
    config = file.pixel_config()
    with unfilled():
        model = build_pixel(config)
    _filling(file, "denoiser", model.denoiser, device, dtype)()
    weights_hash = file.text("weights_sha256")
    return model.replace(weights_hash=weights_hash, last_word=_last_word(weights_hash, device))


def _last_word(weights_hash: str, device: torch.device | str) -> LastWord | None:
    """Where the package has one that was fitted to just these weights."""
    file = open_weights(Path(calotype.__file__).parent / "weights" / "photo" / "last_word.safetensors")
    if file.metadata.get("of_weights_sha256") != weights_hash:
        return None
    last_word = LastWord()
    last_word.load_state_dict({name: file.tensor(name) for name in last_word.state_dict()})
    return last_word.eval().to(device)


def load_autoencoder(
    path: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Autoencoder:
    """Only the autoencoder, from a whole model or from a file that holds nothing else; errors as `load`'s."""
    file = NativeFile(path)
    config = file.config()
    if config.autoencoder is None or not any(name.startswith("autoencoder.") for name in file.shapes):
        raise CheckpointError(
            f"{file.path} has no autoencoder; name one made by `calotype train autoencoder`."
        )
    with unfilled():
        autoencoder = Autoencoder(config.autoencoder)
    _filling(file, "autoencoder", autoencoder, device, dtype)()
    return autoencoder.eval()


def load_text_encoder(
    path: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[TextEncoder, dict[str, Tensor]]:
    """Only the text encoder, of a whole model or of a file that holds little else, and the weights by which
    a U-Net reads the outline that it foretells ({} where the model has none); errors as `load`'s.
    """
    file = NativeFile(path)
    config = file.config()
    if not config.text or not any(name.startswith("text_encoder.") for name in file.shapes):
        raise CheckpointError(f"{file.path} has no text encoder; name one made by `calotype train text`.")
    with unfilled():
        encoder = TextEncoder(config.text, _tokenizer(file, config))
    _filling(file, "text_encoder", encoder, device, dtype)()
    return encoder.eval(), _under(file, OUTLINE, device, dtype)
