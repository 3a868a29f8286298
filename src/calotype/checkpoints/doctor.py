"""What a file of weights is, what ails it and what mends it: read off names, shapes and metadata."""

from __future__ import annotations

import dataclasses
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Literal

from calotype.checkpoints import (
    addons,
    compvis_names,
    contents,
    detect,
    memory,
    native_file,
    shelf,
    single_file,
    sizes,
)
from calotype.checkpoints.addons import EmbeddingInfo, LoraInfo
from calotype.checkpoints.digests import Digests, NotFinite, digests, not_finite
from calotype.checkpoints.found import Found, LackingError, misfit, wanted
from calotype.checkpoints.memory import Memory
from calotype.checkpoints.misfit import Misfit
from calotype.checkpoints.weights import WeightsFile, some
from calotype.checkpoints.weights_file import TensorInfo, open_weights
from calotype.errors import CheckpointError
from calotype.models.config import ModelConfig
from calotype.models.pixel_config import PixelConfig

NETWORKS = {"denoiser": "U-Net", "autoencoder": "autoencoder", "text_encoder": "text encoder"}
"""Parts of a model, as people call them."""

Kind = Literal["model", "autoencoder", "part", "LoRA", "textual inversion"]


@dataclass(frozen=True)
class Deep:
    """What was found by reading every byte: hashes by file, and tensors with NaN or infinities."""

    hashes: Mapping[str, Digests]
    not_finite: Mapping[str, NotFinite]


@dataclass(frozen=True)
class Report:
    """family      as people call it; None where nothing tells it
    format      of the file
    size        bytes on disk, of all files
    config      of a whole model
    prediction  what the U-Net puts out, and `decided`, by what that was found
    parameters  numbers, by network; `precisions`: tensors by dtype
    averaged    tensors and bytes of a second, averaged copy (EMA) of the U-Net
    misfit      keys that are missing, unknown or misshapen
    problem     why it cannot be used as it is, in one sentence; None where it can
    mend        the command that helps
    notes       what else a person may want to know, one sentence each
    """

    path: Path
    kind: Kind
    format: str
    family: str | None
    size: int
    tensors: int
    parameters: Mapping[str, int]
    precisions: Mapping[str, int]
    metadata: Mapping[str, str]
    config: ModelConfig | None = None
    prediction: str | None = None
    decided: str | None = None
    averaged: tuple[int, int] | None = None
    misfit: Misfit = field(default_factory=Misfit)
    memory: Memory | None = None
    lora: LoraInfo | None = None
    embedding: EmbeddingInfo | None = None
    problem: str | None = None
    mend: str | None = None
    notes: tuple[str, ...] = ()
    deep: Deep | None = None


def examine(path: Path, prediction: str | None = None, *, deep: bool = False) -> Report:
    """Everything about a file or a diffusers folder; without `deep` no tensor is read.

    prediction  what its U-Net predicts (eps, v, x0), if the person knows better than the file

    A LoRA, a textual inversion and a part of a model are described as well as a model.
    Raises CheckpointError, one sentence, for files that hold no weights and models of no use here.
    """
    if path.is_dir():
        found = shelf.recognise(path, prediction)
        assert isinstance(found, Found)
        files = list({id(piece.file): piece.file for piece in found.pieces}.values())
        report = _whole(found, files, "diffusers folder", {})
    else:
        file = open_weights(path)
        files = [file]
        report = _file(path, file, prediction)
    return _read_through(report, files) if deep else report


def glance(path: Path) -> tuple[str, str]:
    """What a file or folder is, and its family, for a list; CheckpointError as `examine`, and for a part."""
    if not path.is_dir():
        file = open_weights(path)
        lora, embedding = addons.lora(file), addons.embedding(file)
        if lora is not None:
            return lora.method, lora.family or "unknown"
        if embedding is not None:
            return "textual inversion", embedding.family or "unknown"
        if contents.part(file) == "an autoencoder":
            return "autoencoder", ""
        if file.metadata.get("kind") == native_file.PIXEL:
            return "model", native_file.describe(path).config.about
    found = shelf.recognise(path)
    return "model", found.title if isinstance(found, Found) else found.config.about


def _file(path: Path, file: WeightsFile, prediction: str | None) -> Report:
    lora, embedding = addons.lora(file), addons.embedding(file)
    if lora is not None:
        return dataclasses.replace(_bare(path, [file], "LoRA", lora.family), lora=lora)
    if embedding is not None:
        report = _bare(path, [file], "textual inversion", embedding.family)
        return dataclasses.replace(report, embedding=embedding)
    detect.refuse_others(path, file.shapes)
    if file.metadata.get("format") == "calotype":
        return _native(path, file)
    try:
        found = shelf.recognise(path, prediction)
        assert isinstance(found, Found)
        return _whole(found, [file], _format(file), file.metadata)
    except LackingError as error:
        report = _bare(path, [file], "model", None)
        return dataclasses.replace(report, problem=str(error), misfit=Misfit(missing=(error.name,)))
    except CheckpointError as error:
        part = contents.part(file)
        if part is None:
            raise
        return _part(path, file, part, str(error))


def _whole(found: Found, files: list[WeightsFile], format: str, metadata: Mapping[str, str]) -> Report:
    counts: Counter[str] = Counter()
    for piece in found.pieces:
        counts[NETWORKS[piece.part]] += sum(prod(source.shape) for source in piece.sources.values())
    config = found.config
    report = dataclasses.replace(
        _bare(found.path, files, "model", found.title),
        format=format,
        config=config,
        prediction=config.parameterization,
        decided=found.decided,
        parameters=dict(counts),
        metadata=metadata,
        averaged=_averaged(files),
        misfit=found.misfit(),
        memory=_memory(config, found.stored),
    )
    return _with_keys_judged(report, found)


def _memory(config: ModelConfig, stored: memory.Stored) -> Memory:
    return dataclasses.replace(memory.needed(config, stored), least=sum(memory.narrow(stored).values()))


def _with_keys_judged(report: Report, found: Found) -> Report:
    """The report with what is wrong with the keys, and what mends it."""
    wrong, path = report.misfit, found.path
    coder = {
        name
        for piece in found.pieces
        if piece.part == "autoencoder"
        for name in misfit(wanted(found.config)["autoencoder"], [piece]).names()
    }
    harmful = {*wrong.missing, *(name for name, _, _ in wrong.misshapen)}
    if harmful and harmful <= coder:
        return dataclasses.replace(
            report,
            problem=f"Its autoencoder is not whole ({wrong}), while all else is; give it another.",
            mend=command("convert", path, beside(path, "mended"), "--vae", "VAE.safetensors"),
        )
    if wrong.misshapen:
        problem = f"It {wrong}; its parts are from different models, so fetch it again."
        return dataclasses.replace(report, problem=problem)
    if wrong.missing:
        problem = f"It {wrong}; it is cut short or was pruned too far, so fetch it again."
        return dataclasses.replace(report, problem=problem)
    if wrong.unknown:
        return dataclasses.replace(
            report,
            problem=f"It holds {len(wrong.unknown)} tensors for which a {found.title} has no place "
            f"({some(wrong.unknown)}); another program left them there.",
            mend=command("convert", path, beside(path, "mended"), "--drop-unknown"),
        )
    return report


def _native(path: Path, file: WeightsFile) -> Report:
    info = native_file.describe(path)
    if isinstance(info.config, PixelConfig):
        named = f"{info.config.name}, {info.config.about}"
        report = _bare(path, [file], "model", named)
        told = "by Calotype's own metadata"
        return dataclasses.replace(report, format="Calotype's own", prediction="edm", decided=told)
    parts = wanted(info.config)
    lacking = [part for part, below in parts.items() if below and part not in info.parameters]
    shapes = {
        f"{part}.{name}": shape
        for part, below in parts.items()
        for name, shape in below.items()
        if part not in lacking
    }
    wrong = Misfit.between(shapes, {name: told.shape for name, told in file.shapes.items()})
    config = info.config
    report = dataclasses.replace(
        _bare(path, [file], "part" if lacking else "model", f"{config.name}, {config.about}"),
        format="Calotype's own",
        config=config,
        prediction=config.parameterization,
        decided="by Calotype's own metadata",
        parameters={NETWORKS.get(part, part): count for part, count in info.parameters.items()},
        misfit=wrong,
        memory=_memory(config, native_file.by_part(file.shapes)),
    )
    if wrong:
        problem = f"It {wrong}; its weights are not those of its config, so fetch or make it again."
        return dataclasses.replace(report, problem=problem)
    if lacking:
        names = " and no ".join(NETWORKS[part] for part in lacking)
        problem = f"It has no {names}; it is a part of a model, for `calotype train` to go on with."
        return dataclasses.replace(report, problem=problem)
    return report


def _part(path: Path, file: WeightsFile, part: str, sentence: str) -> Report:
    """A file of some networks of a model, and not of all."""
    if part == "an autoencoder":
        piece = single_file.autoencoder(file)
        config = piece.measured(lambda found: sizes.autoencoder(found, 1.0))
        channels, factor = config.latent_channels, config.factor
        return dataclasses.replace(
            _bare(path, [file], "autoencoder", f"latents of {channels} channels, {factor} times smaller"),
            parameters={NETWORKS["autoencoder"]: sum(prod(info.shape) for info in file.shapes.values())},
            misfit=Misfit(unknown=piece.unknown),
            notes=("It takes the place of a model's own: calotype generate … --vae FILE.",),
        )
    report = dataclasses.replace(_bare(path, [file], "part", part), problem=sentence)
    if part == contents.ALL_BUT_AUTOENCODER:
        mend = command("convert", path, beside(path, "whole"), "--vae", "VAE.safetensors")
        return dataclasses.replace(report, mend=mend)
    return report


def _bare(path: Path, files: list[WeightsFile], kind: Kind, family: str | None) -> Report:
    """What can be said of any weights."""
    infos = [info for file in files for info in file.shapes.values()]
    return Report(
        path=path,
        kind=kind,
        format=_format(files[0]),
        family=family,
        size=sum(place.stat().st_size for file in files for place in file.files),
        tensors=len(infos),
        parameters={},
        precisions=dict(Counter(info.dtype.name for info in infos)),
        metadata=files[0].metadata,
    )


def _averaged(files: Iterable[WeightsFile]) -> tuple[int, int] | None:
    copies = [
        info
        for file in files
        for name, info in file.shapes.items()
        if name.startswith(compvis_names.EMA) and name not in compvis_names.BUFFERS
    ]
    return (len(copies), sum(_bytes(info) for info in copies)) if copies else None


def _read_through(report: Report, files: list[WeightsFile]) -> Report:
    """The report with hashes and a count of numbers that are none, and what mends those."""
    places = [place for file in files for place in file.files]
    sick = {name: count for file in files for name, count in not_finite(file).items()}
    report = dataclasses.replace(report, deep=Deep({str(place): digests(place) for place in places}, sick))
    if not sick or report.problem is not None:
        return report
    total = sum(count.nan + count.infinite for count in sick.values())
    told = f"It holds {total} numbers that are NaN or infinite, in {some(sick)}"
    if report.kind == "model" and all(name.startswith(compvis_names.AUTOENCODER) for name in sick):
        return dataclasses.replace(
            report,
            problem=f"{told}; its autoencoder is damaged, all else is not.",
            mend=command("convert", report.path, beside(report.path, "mended"), "--vae", "VAE.safetensors"),
        )
    return dataclasses.replace(report, problem=f"{told}; it was damaged in training or merging.")


def command(*words: object) -> str:
    """A command of Calotype's, as one would type it."""
    return "calotype " + " ".join(shlex.quote(str(word)) for word in words)


def beside(path: Path, word: str) -> Path:
    """A name for the mended copy."""
    return path.with_name(f"{path.name if path.is_dir() else path.stem}-{word}.safetensors")


def _format(file: WeightsFile) -> str:
    with file.files[0].open("rb") as opened:
        return "safetensors" if opened.read(9)[8:] == b"{" else "torch.save"


def _bytes(info: TensorInfo) -> int:
    return prod(info.shape) * info.dtype.itemsize
