"""`calotype.tune`: the trainings that begin with a finished model, as one Python call."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from calotype.data.folder import PictureFolder
from calotype.errors import InputError
from calotype.training.api import Trained, complete, silent
from calotype.training.fit import Plan, Run
from calotype.training.recipes import LORA_RECIPES
from calotype.training.sessions import picture_shapes, picture_size, read_data
from calotype.training.tune_config import (
    ControlTraining,
    DreamBoothTraining,
    FineTuning,
    InversionTraining,
    LoraTraining,
)
from calotype.training.tuning import (
    Base,
    embedding_layout,
    lora_layout,
    prepare_controlnet,
    prepare_dreambooth,
    prepare_finetune,
    prepare_inversion,
    prepare_lora,
)

Kind = Literal["finetune", "lora", "dreambooth", "inversion", "controlnet"]


def tune(
    kind: Kind,
    model: str,
    dataset: str | Path | PictureFolder,
    *,
    out: str | Path | None = None,
    layout: str | None = None,
    control: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    **options: Any,
) -> Trained:
    """Go on from `model` (a shipped name, a file, a folder, a name on the shelf) on a folder of pictures.

    out      the run's folder, runs/KIND unless given
    layout   of a LoRA's file, "kohya" or "diffusers", or of a word's, "a1111" or "diffusers"
    control  a ControlNet's folder of control pictures, by their pictures' names; without it, their edges
    options  fields of the kind's configuration in `training.tune_config`: rank=8, steps=500 …

    `calotype.load(model).generate(…, loras=[str(tuned.path)])` draws with a LoRA; a fine-tuned model is
    itself what `calotype.load` takes.  Raises InputError, DataError, TrainingError or CheckpointError.
    """
    config, prepare = _prepared(kind, model, layout, options)
    base = Base.of(model)
    folder = dataset.path if isinstance(dataset, PictureFolder) else Path(dataset)
    if kind == "controlnet":
        prepare = partial(prepare, folder=folder, control=None if control is None else Path(control))
    elif control is not None:
        raise InputError(f"Control pictures are for kind 'controlnet', not {kind!r}; leave control out.")
    strict = isinstance(dataset, PictureFolder) and dataset.strict
    size, shapes = picture_size(config, base.config), picture_shapes(config, base.config)
    data = read_data(folder, size, strict=strict, watch=silent, shapes=shapes)
    plan = Plan(Path(f"runs/{kind}") if out is None else Path(out), resume=resume)
    run = prepare(config, base, data, plan, watch=silent)
    report = complete(run, progress=progress)
    return Trained(plan.folder / run.objective.product, {kind: report})


def _prepared(
    kind: str, model: str, layout: str | None, options: Mapping[str, Any]
) -> tuple[FineTuning, Callable[..., Run]]:
    """The configuration, and what makes a run of it."""
    if kind == "finetune":
        return FineTuning(**_known(FineTuning, options)), prepare_finetune
    if kind == "lora":
        recipe = LORA_RECIPES.get(model, LoraTraining)()
        config = dataclasses.replace(recipe, **_known(LoraTraining, options))
        return config, partial(prepare_lora, layout=lora_layout(layout or "kohya"))
    if kind == "dreambooth":
        dreambooth = DreamBoothTraining(**_known(DreamBoothTraining, options))
        return dreambooth, partial(prepare_dreambooth, layout=lora_layout(layout or "kohya"))
    if kind == "inversion":
        inversion = InversionTraining(**_known(InversionTraining, options))
        return inversion, partial(prepare_inversion, layout=embedding_layout(layout or "a1111"))
    if kind == "controlnet":
        return ControlTraining(**_known(ControlTraining, options)), prepare_controlnet
    raise InputError(f"There is no kind of tuning {kind!r}; choose one of {', '.join(get_args(Kind))}.")


def _known(kind: type[FineTuning], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, lists as tuples; InputError for one that there is not."""
    fields = {entry.name: entry for entry in dataclasses.fields(kind)}
    found = {}
    for name, value in options.items():
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the options are {', '.join(fields)}."
            raise InputError(f"There is no training option {name!r}; {hint}")
        several = isinstance(fields[name].default, tuple)
        found[name] = ((value,) if isinstance(value, str) else tuple(value)) if several else value
    return found
