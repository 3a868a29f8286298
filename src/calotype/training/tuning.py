"""From a finished model and a folder of pictures to a prepared run that goes on from it."""

from __future__ import annotations

import dataclasses
import hashlib
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from calotype.checkpoints import shelf
from calotype.checkpoints.embedding import EmbeddingLayout
from calotype.checkpoints.found import Found
from calotype.checkpoints.lora_names import Fashion
from calotype.data.folder import Record
from calotype.errors import InputError
from calotype.models.config import ModelConfig
from calotype.models.latent_diffusion import LatentDiffusion
from calotype.training.adapters import LoraObjective
from calotype.training.control import ControlObjective
from calotype.training.control_pictures import with_control
from calotype.training.denoising import until_noise
from calotype.training.dreambooth import WithPrior, class_pictures
from calotype.training.finetune import FineTune
from calotype.training.fit import Plan, Run, settled, training_device
from calotype.training.inversion import InversionObjective, beginnings, captions, learning
from calotype.training.objective import Objective
from calotype.training.sessions import DataSet, Watch, examples_of, picture_size, run_of
from calotype.training.tune_config import (
    ControlTraining,
    DreamBoothTraining,
    FineTuning,
    InversionTraining,
    LoraTraining,
)


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


def prepare_dreambooth(
    config: DreamBoothTraining,
    base: Base,
    data: DataSet,
    plan: Plan,
    *,
    layout: Fashion = "kohya",
    watch: Watch,
) -> Run:
    """A run that teaches one subject; the pictures of its class are drawn first, into `class/` of the run.

    With a rank it ends as a LoRA, without as a whole model.  Captions of the pictures are not read.
    """
    config = settled(config, plan)
    model = base.load()
    subject = worded(data, lambda _: (config.prompt,))
    training, held_out = examples_of(model, subject, config, plan, watch)
    prior = None
    if config.prior_weight:
        for part in model.parts().values():
            part.to(training_device(plan))
        drawn = class_pictures(
            plan.folder / "class", model, config, picture_size(config, model.config), watch
        )
        prior, _ = examples_of(model, _of_class(drawn, config, plan), config, plan, watch)
    if config.rank:
        inner: FineTune = LoraObjective(config, model, training, held_out, layout)
    else:
        inner = FineTune(config, model, training, held_out, single_file=base.single_file)
    objective = inner if prior is None else WithPrior(config, inner, prior)
    return tuning_run(objective, "dreambooth", subject, plan, model)


def _of_class(drawn: Tensor, config: DreamBoothTraining, plan: Plan) -> DataSet:
    content = hashlib.sha256(drawn.numpy().tobytes()).hexdigest()
    records = [Record(plan.folder / "class", (config.class_prompt,)) for _ in drawn]
    return DataSet(drawn, records, drawn[:0], [], content, [])


def prepare_inversion(
    config: InversionTraining,
    base: Base,
    data: DataSet,
    plan: Plan,
    *,
    layout: EmbeddingLayout = "a1111",
    watch: Watch,
) -> Run:
    """A run that learns a new word, which ends as a file of its vectors in `layout`."""
    config = settled(config, plan)
    model = base.load()
    vectors = [nn.Parameter(start) for start in beginnings(model, config)]
    model = model.replace(text_encoder=learning(model.text_encoder, config, vectors))
    told = worded(data, lambda own: captions(own, config))
    training, held_out = examples_of(model, told, config, plan, watch)
    objective = InversionObjective(config, model, training, held_out, vectors, layout)
    return tuning_run(objective, "inversion", told, plan, model)


def prepare_controlnet(
    config: ControlTraining,
    base: Base,
    data: DataSet,
    plan: Plan,
    *,
    folder: Path,
    control: Path | None = None,
    watch: Watch,
) -> Run:
    """A run that trains a ControlNet for a model that stays as it is, which ends as a diffusers folder.

    `control` is a folder with a control picture for each one in `folder`, by the same name; None for edges.
    """
    config = settled(config, plan)
    model = base.load()
    training, held_out = examples_of(model, captioned(data, config), config, plan, watch)
    training, held_out, looked_at = with_control(data, training, held_out, folder, control, watch)
    objective = ControlObjective(config, model, training, held_out)
    return tuning_run(objective, "controlnet", data, plan, model, {"control": looked_at})


def lora_layout(name: str) -> Fashion:
    """InputError for a layout that there is not."""
    if name not in typing.get_args(Fashion):
        raise InputError(f"There is no LoRA layout {name!r}; choose kohya or diffusers.")
    return typing.cast("Fashion", name)


def embedding_layout(name: str) -> EmbeddingLayout:
    """InputError for a layout that there is not."""
    if name not in typing.get_args(EmbeddingLayout):
        raise InputError(f"There is no layout {name!r} of textual inversions; choose a1111 or diffusers.")
    return typing.cast("EmbeddingLayout", name)


def captioned(data: DataSet, config: FineTuning) -> DataSet:
    """The data set with the config's caption where a picture has none."""
    return worded(data, lambda own: own or (config.caption,) * bool(config.caption))


def worded(data: DataSet, words: Callable[[tuple[str, ...]], tuple[str, ...]]) -> DataSet:
    """The data set under the captions that `words` makes of each picture's own."""

    def named(records: list[Record]) -> list[Record]:
        return [dataclasses.replace(record, captions=words(record.captions)) for record in records]

    return dataclasses.replace(
        data, records=named(data.records), held_out_records=named(data.held_out_records)
    )


def tuning_run(
    objective: Objective,
    kind: str,
    data: DataSet,
    plan: Plan,
    model: LatentDiffusion,
    facts: Mapping[str, str] | None = None,
) -> Run:
    """The run, which goes on only as the same kind of training from the same weights, and `facts`."""
    more = {"kind": kind, "weights": model.weights_hash, **(facts or {})}
    return run_of(objective, objective.config, data, plan, model.config, more)
