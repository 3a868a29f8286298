"""`calotype train finetune, lora …`: trainings that begin with a finished model."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from calotype.cli.train import (
    Device,
    Folder,
    Foretell,
    Inexact,
    Minutes,
    Out,
    Recipe,
    Resume,
    Settings,
    Strict,
    Threads,
    go,
    named_recipe,
)

if TYPE_CHECKING:
    from calotype.training.config import TrainConfig
    from calotype.training.fit import Plan, Run
    from calotype.training.sessions import DataSet, Watch
    from calotype.training.tune_config import FineTuning, LoraTraining
    from calotype.training.tuning import Base

Begin = Annotated[
    str, typer.Option("--model", help="What to go on from: a shipped name, a file, a folder, owner/name.")
]
Caption = Annotated[str, typer.Option(help="What pictures without words are called.")]
Rank = Annotated[int | None, typer.Option(help="Rank of the LoRA.")]
Layout = Annotated[str, typer.Option(help="Layout of the LoRA's file: kohya or diffusers.")]


def finetune(
    folder: Folder,
    out: Out = Path("runs/finetune"),
    model: Begin = "icons",
    caption: Caption = "",
    settings: Settings = None,
    resume: Resume = False,
    minutes: Minutes = math.inf,
    threads: Threads = None,
    inexact: Inexact = False,
    strict: Strict = False,
    device: Device = None,
    foretell: Foretell = False,
) -> None:
    """Go on training a whole model, by its own schedule, on your pictures."""
    from calotype.training.config import override
    from calotype.training.fit import Plan
    from calotype.training.tune_config import FineTuning
    from calotype.training.tuning import prepare_finetune

    config = override(FineTuning(caption=caption), settings or ())

    def prepare(base: Base, config: FineTuning, data: DataSet, plan: Plan, watch: Watch) -> Run:
        return prepare_finetune(config, base, data, plan, watch=watch)

    _tune(
        folder, model, strict, config, Plan(out, resume, minutes, device, threads, inexact), prepare, foretell
    )


def lora(
    folder: Folder,
    out: Out = Path("runs/lora"),
    model: Begin = "icons",
    rank: Rank = None,
    targets: Annotated[
        str | None,
        typer.Option(help="Layers, separated by commas: attention, convolutions, text …, or patterns."),
    ] = None,
    layout: Layout = "kohya",
    caption: Caption = "",
    recipe: Recipe = None,
    settings: Settings = None,
    resume: Resume = False,
    minutes: Minutes = math.inf,
    threads: Threads = None,
    inexact: Inexact = False,
    strict: Strict = False,
    device: Device = None,
    foretell: Foretell = False,
) -> None:
    """Train a LoRA: small changes beside the layers of a model that stays as it is."""
    from calotype.training.config import override
    from calotype.training.fit import Plan
    from calotype.training.recipes import LORA_RECIPES
    from calotype.training.tune_config import LoraTraining
    from calotype.training.tuning import lora_layout, prepare_lora

    fashion = lora_layout(layout)
    given = [f"rank={rank}"] if rank is not None else []
    given += [f"targets={targets.replace(',', ';')}"] if targets is not None else []
    given += [f"caption={caption}"] if caption else []
    config = override(named_recipe(recipe, model, LORA_RECIPES, LoraTraining), [*given, *(settings or ())])

    def prepare(base: Base, config: LoraTraining, data: DataSet, plan: Plan, watch: Watch) -> Run:
        return prepare_lora(config, base, data, plan, layout=fashion, watch=watch)

    _tune(
        folder, model, strict, config, Plan(out, resume, minutes, device, threads, inexact), prepare, foretell
    )


def _tune(
    folder: Path,
    model: str,
    strict: bool,
    config: TrainConfig,
    plan: Plan,
    prepare: Callable[..., Run],
    foretell: bool,
) -> None:
    """From the model's name and the folder to the end of the run."""
    from calotype.training.sessions import picture_shapes, picture_size
    from calotype.training.tuning import Base

    base = Base.of(model, fetch=True)
    size, shapes = picture_size(config, base.config), picture_shapes(config, base.config)
    begin = functools.partial(prepare, base)
    go(begin, config, folder, size, plan, strict=strict, foretell=foretell, shapes=shapes)
