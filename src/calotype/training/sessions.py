"""From a folder of pictures to a prepared run: data, model, cached latents, objective."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calotype.checkpoints import native
from calotype.data.folder import PictureFolder, Record
from calotype.data.shards import ShardFolder, shards_of
from calotype.errors import InputError
from calotype.models.config import ModelConfig
from calotype.models.latent_diffusion import LatentDiffusion, build
from calotype.networks.autoencoder import Autoencoder
from calotype.training.autoencoding import AutoencoderObjective
from calotype.training.config import AutoencoderTraining, DiffusionTraining, TextTraining, TrainConfig
from calotype.training.denoising import DiffusionObjective, until_noise
from calotype.training.fit import Plan, Run, settled, training_device
from calotype.training.loop import inside
from calotype.training.objective import Objective
from calotype.training.order import BatchOrder
from calotype.training.parts import on_text_encoder, tokenizer_of, with_autoencoder, with_text_encoder
from calotype.training.prepared import Captions, Examples, Pixels, encode_all
from calotype.training.private import Private
from calotype.training.shapes import Grouped, Rows, Shape, ShapeOrder, grouped, nearest, shapes_of
from calotype.training.words import TextObjective

Watch = Callable[[str, int, int], None]
"""Told (what is being prepared, done, total)."""

HELD_OUT = 50
"""Of a folder without splits, one picture in this many is held out, if that leaves any to hold out."""


@dataclass(frozen=True)
class DataSet:
    """A folder in memory, or shards: pictures uint8 (N 3 H W), or of several shapes, and their records."""

    pictures: Rows
    records: list[Record]
    held_out: Rows
    held_out_records: list[Record]
    content: str
    skipped: list[tuple[Path, str]]
    classes: tuple[str, ...] = ()
    texts: tuple[tuple[str, ...], ...] = ()
    """Captions that words are learnt from, where they are more than the records'."""

    @property
    def weighable(self) -> list[str]:
        """The kind of every training record, "" where it has none."""
        return [str(record.meta.get("kind", "")) for record in self.records]

    def weights(self, balance: dict[str, float]) -> np.ndarray[Any, np.dtype[np.float64]] | None:
        """How often each training picture is drawn; None for all alike.  InputError for an unknown kind."""
        if not balance:
            return None
        kinds = self.weighable
        unknown = sorted(set(balance) - set(kinds))
        if unknown:
            known = ", ".join(sorted(set(kinds) - {""})) or "none at all"
            raise InputError(
                f"balance.{unknown[0]} names a kind that no picture has; the data set has {known}."
            )
        weights = np.array([balance.get(kind, 1.0) for kind in kinds])
        if not weights.any():
            raise InputError("balance gives every picture the weight 0; leave some above it.")
        return weights


def picture_size(config: TrainConfig, model_config: ModelConfig) -> int:
    """Side of the pictures a run trains on; InputError where the model cannot take it."""
    size, factor = config.image_size or model_config.size, model_config.factor
    if size < factor or size % factor:
        raise InputError(
            f"image_size is {size}, but the model {model_config.name} needs a multiple of {factor}; "
            f"the nearest is {max(factor, round(size / factor) * factor)}."
        )
    return size


def picture_shapes(config: TrainConfig, model_config: ModelConfig) -> tuple[Shape, ...]:
    """Shapes of the pictures a run trains on, () for the square alone."""
    if config.aspect == 1:
        return ()
    unit = model_config.factor * 2 ** (len(model_config.unet.block_channels) - 1)
    return shapes_of(picture_size(config, model_config), unit, config.aspect)


def read_data(
    folder: str | Path, size: int, *, strict: bool, watch: Watch, shapes: Sequence[Shape] = ()
) -> DataSet:
    """All pictures of a folder at `size` pixels a side or in the nearest of `shapes`, those held out apart;
    of tar shards, at `size`.
    A folder that knows no splits holds out one picture in fifty, chosen by the hash of its name.
    Raises DataError for a folder without pictures, InputError from the reader where captions do not fit.
    """
    if shards_of(Path(folder)):
        if shapes:
            raise InputError(f"{folder} holds tar shards, whose pictures are made square; leave aspect out.")
        return _in_shards(ShardFolder(folder, lambda done, total: watch("reading shards", done, total)), size)
    everything = PictureFolder(folder, size=size, strict=strict)
    return in_memory(everything, size, watch, shapes)


def _in_shards(everything: ShardFolder, size: int) -> DataSet:
    """All records of shards, their pictures unread."""
    pictures, records = everything.pictures(size), everything.records
    train, held_out = parted(records, everything.path)
    return DataSet(
        pictures.subset(train),
        [records[i] for i in train],
        pictures.subset(held_out),
        [records[i] for i in held_out],
        everything.content_hash(),
        [],
        everything.classes,
    )


def in_memory(everything: PictureFolder, size: int, watch: Watch, shapes: Sequence[Shape] = ()) -> DataSet:
    """All records of an opened folder, their pictures read."""
    tell = functools.partial(watch, "reading pictures")
    some = everything.load_shaped(nearest(shapes), tell) if shapes else everything.load_all(size, tell)
    records = everything.records
    train, held_out = parted(records, everything.path)

    def rows(chosen: list[int]) -> Rows:
        return some[chosen] if isinstance(some, Tensor) else grouped([some[i] for i in chosen], shapes)

    return DataSet(
        rows(train),
        [records[i] for i in train],
        rows(held_out),
        [records[i] for i in held_out],
        everything.content_hash(),
        list(everything.skipped),
        everything.classes,
    )


def parted(records: Sequence[Record], folder: Path) -> tuple[list[int], list[int]]:
    """Rows of the training pictures and of those held out for validation."""
    splits = [record.meta.get("split") for record in records]
    if not any(splits):
        splits = [_held_out(record, folder) for record in records]
        if splits.count("train") == 0:
            splits = ["train"] * len(splits)
    train = [i for i, split in enumerate(splits) if split not in {"validation", "test"}]
    return train, [i for i, split in enumerate(splits) if split == "validation"]


def _held_out(record: Record, folder: Path) -> str:
    name = record.path.relative_to(folder).as_posix()
    mark = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
    return "validation" if mark % HELD_OUT == 0 else "train"


def prepare_autoencoder(
    config: AutoencoderTraining,
    model_config: ModelConfig,
    data: DataSet,
    plan: Plan,
    *,
    init_from: Path | None = None,
) -> Run:
    """A run that trains the model's autoencoder, from fresh weights or those of a Calotype checkpoint."""
    if model_config.autoencoder is None:
        raise InputError(f"The model {model_config.name} works on pixels and has no autoencoder to train.")
    config = settled(config, plan)
    textless = dataclasses.replace(model_config, text=())
    model = build(textless, None, seed=config.seed)
    if init_from is not None:
        trained = native.load_autoencoder(init_from)
        model = model.replace(
            config=dataclasses.replace(textless, autoencoder=trained.config), autoencoder=trained
        )
    objective = AutoencoderObjective(config, model, data.pictures, data.held_out)
    return run_of(objective, config, data, plan, model.config)


def prepare_text(
    config: TextTraining,
    model_config: ModelConfig,
    data: DataSet,
    plan: Plan,
    *,
    autoencoder: Path | None,
    init_from: Path | None = None,
    watch: Watch,
) -> Run:
    """A run that teaches a model's text encoder what latents its captions belong to.

    `init_from` is a checkpoint whose text encoder, and the words it knows, the run goes on from.
    """
    if not model_config.text:
        raise InputError(f"The model {model_config.name} takes no text, so there is no encoder to train.")
    config = settled(config, plan)
    model = _new_model(model_config, data, config.seed, autoencoder, init_from)
    training, held_out = examples_of(model, data, config, plan, watch)
    return run_of(TextObjective(config, model, training, held_out), config, data, plan, model.config)


def prepare_diffusion(
    config: DiffusionTraining,
    model_config: ModelConfig,
    data: DataSet,
    plan: Plan,
    *,
    autoencoder: Path | None = None,
    text_encoder: Path | None = None,
    init_from: Path | None = None,
    watch: Watch,
) -> Run:
    """A run that trains a model's denoiser and text encoder on top of a finished autoencoder.

    `autoencoder` names the checkpoint that holds one (not for models of pixels), `text_encoder` one made by
    a text run; without it the tokenizer is learnt from the training captions.  `init_from` is a whole model
    to go on from, with its own parts where no others are named.
    """
    config = settled(config, plan)
    private = None
    if config.epsilon is not None:
        if model_config.text and config.train_text_encoder:
            raise InputError(
                "A private run trains the denoiser alone; give --labels, or --text-encoder and "
                "--set train_text_encoder=false."
            )
        private = Private(config, len(data.pictures), plan.folder, resume=plan.resume)
    if model_config.classes:
        model_config = _labelled(model_config, data)
    if init_from is not None:
        model = native.load(init_from)
        if model.config.classes and _labelled(model.config, data).classes != model.config.classes:
            raise InputError(
                f"{init_from} draws {', '.join(model.config.classes)}, but the class folders are "
                f"{', '.join(data.classes)}; name the folders alike, or begin without --init-from."
            )
        if autoencoder is not None:
            model = with_autoencoder(model, native.load_autoencoder(autoencoder), autoencoder)
        if text_encoder is not None:
            model = with_text_encoder(model, text_encoder, config.seed)
    else:
        model = _new_model(model_config, data, config.seed, autoencoder, text_encoder)
    if config.zero_terminal_snr:
        model = until_noise(model)
    training, held_out = examples_of(model, data, config, plan, watch)
    objective = DiffusionObjective(config, model, training, held_out)
    return run_of(objective, config, data, plan, model.config, private=private)


def _labelled(config: ModelConfig, data: DataSet) -> ModelConfig:
    """The model with the data set's classes; InputError where a picture has none."""
    if not data.classes or any(record.label is None for record in (*data.records, *data.held_out_records)):
        raise InputError(
            f"The model {config.name} draws classes, but not every picture lies in a class folder; put each "
            "into the folder of its class, or train a model that takes captions."
        )
    return config.of_classes(data.classes)


def _new_model(
    model_config: ModelConfig, data: DataSet, seed: int, autoencoder: Path | None, text_encoder: Path | None
) -> LatentDiffusion:
    """Fresh networks on a finished autoencoder, and on a text encoder if there is one."""
    trained = None
    if model_config.autoencoder is not None:
        if autoencoder is None:
            raise InputError(
                "A latent diffusion model needs a trained autoencoder: give --autoencoder FILE (made by "
                "`calotype train autoencoder`), --init-from a whole model, or --pixels to do without."
            )
        trained = native.load_autoencoder(autoencoder)
        model_config = dataclasses.replace(model_config, autoencoder=trained.config)
    if text_encoder is not None:
        model = on_text_encoder(model_config, text_encoder, seed)
    else:
        tokenizer = tokenizer_of(model_config, data.texts or [record.captions for record in data.records])
        if tokenizer is not None:
            model_config = model_config.fitted_to(tokenizer)
        model = build(model_config, tokenizer, seed=seed)
    return model if trained is None else model.replace(autoencoder=trained)


def examples_of(
    model: LatentDiffusion, data: DataSet, config: TrainConfig, plan: Plan, watch: Watch
) -> tuple[Examples, Examples | None]:
    """What to train on and what is held out, if anything is."""
    model.autoencoder.to(training_device(plan))

    def examples(pictures: Rows, records: Sequence[Record], part: str) -> Examples | None:
        if not len(pictures):
            return None
        captions = Captions([record.captions for record in records], model.text_encoder)
        labels = None
        if model.config.classes:
            labels = torch.tensor([record.label for record in records])
        if not isinstance(model.autoencoder, Autoencoder):
            return Examples(Pixels(pictures), captions, labels)
        key = f"{data.content} {part}"
        latents = encode_all(
            model.autoencoder,
            pictures,
            key,
            lambda done, total: watch("computing latents", done, total),
            inside(config),
        )
        return Examples(latents, captions, labels)

    training = examples(data.pictures, data.records, "train")
    assert training is not None  # a data set without pictures was refused when it was read
    return training, examples(data.held_out, data.held_out_records, "validation")


def run_of(
    objective: Objective,
    config: TrainConfig,
    data: DataSet,
    plan: Plan,
    model_config: ModelConfig,
    more: Mapping[str, Any] | None = None,
    private: Private | None = None,
) -> Run:
    """The run of an objective on a data set; `more` are further facts that it has to keep."""
    weights = data.weights(config.balance)
    order = private.order if private else BatchOrder(len(data.pictures), config.batch, config.seed, weights)
    if isinstance(data.pictures, Grouped):
        order = ShapeOrder(data.pictures.group, config.batch, config.seed, weights)
    facts = {"data": data.content, "pictures": len(data.pictures), "model": model_config.name}
    facts |= more or {}
    return Run(objective, config, plan, order, facts, [str(record.path) for record in data.records], private)
