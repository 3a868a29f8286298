"""From a finished model and a folder of pictures to a prepared run that goes on from it."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass

from calotype.checkpoints import shelf
from calotype.checkpoints.found import Found
from calotype.checkpoints.lora_names import Fashion
from calotype.data.folder import Record
from calotype.errors import InputError
from calotype.models.config import ModelConfig
from calotype.models.latent_diffusion import LatentDiffusion
from calotype.training.adapters import LoraObjective
from calotype.training.denoising import until_noise
from calotype.training.finetune import FineTune
from calotype.training.fit import Plan, Run, settled
from calotype.training.objective import Objective
from calotype.training.sessions import DataSet, Watch, examples_of, run_of
from calotype.training.tune_config import FineTuning, LoraTraining


@dataclass(frozen=True)
class Base:
    """The model that a training begins with, its tensors not read yet."""

    found: Found | shelf.Native

    @classmethod
    def of(cls, name: str, *, fetch: bool = False) -> Base:
        """By what a person calls it: a shipped name, a file, a folder, a name on the shelf or the hub.

        Raises InputError, CheckpointError or FetchError as `shelf.find` and `shelf.recognise`.
        """
        return cls(shelf.recognise(shelf.find(name, fetch=fetch)))

    @property
    def config(self) -> ModelConfig:
        return self.found.config

    def load(self) -> LatentDiffusion:
        """The model in float32."""
        return self.found.load()

    @property
    def single_file(self) -> bool:
        """Whether the whole model is written back as the world's single files."""
        whole = self.config.autoencoder is not None and bool(self.config.text)
        return whole and not isinstance(self.found, shelf.Native)


def prepare_finetune(config: FineTuning, base: Base, data: DataSet, plan: Plan, *, watch: Watch) -> Run:
    """A run in which the whole U-Net goes on learning, and the text encoder where the config says so."""
    config = settled(config, plan)
    model = base.load()
    if config.zero_terminal_snr:
        model = until_noise(model)
    training, held_out = examples_of(model, captioned(data, config), config, plan, watch)
    objective = FineTune(config, model, training, held_out, single_file=base.single_file)
    return tuning_run(objective, "finetune", data, plan, model)


def prepare_lora(
    config: LoraTraining,
    base: Base,
    data: DataSet,
    plan: Plan,
    *,
    layout: Fashion = "kohya",
    watch: Watch,
) -> Run:
    """A run that trains a LoRA, which ends as a file in `layout`."""
    config = settled(config, plan)
    model = base.load()
    training, held_out = examples_of(model, captioned(data, config), config, plan, watch)
    objective = LoraObjective(config, model, training, held_out, layout)
    return tuning_run(objective, "lora", data, plan, model)


def lora_layout(name: str) -> Fashion:
    """InputError for a layout that there is not."""
    if name not in typing.get_args(Fashion):
        raise InputError(f"There is no LoRA layout {name!r}; choose kohya or diffusers.")
    return typing.cast("Fashion", name)


def captioned(data: DataSet, config: FineTuning) -> DataSet:
    """The data set with the config's caption where a picture has none."""
    if not config.caption:
        return data

    def named(records: list[Record]) -> list[Record]:
        words = (config.caption,)
        return [
            record if record.captions else dataclasses.replace(record, captions=words) for record in records
        ]

    return dataclasses.replace(
        data, records=named(data.records), held_out_records=named(data.held_out_records)
    )


def tuning_run(objective: Objective, kind: str, data: DataSet, plan: Plan, model: LatentDiffusion) -> Run:
    """The run, which goes on only as the same kind of training from the same weights."""
    more = {"kind": kind, "weights": model.weights_hash}
    return run_of(objective, objective.config, data, plan, model.config, more)
