"""`calotype train finetune, lora …`: trainings that begin with a finished model."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from calotype.cli.runs import (
    Device,
    Folder,
    Foretell,
    Fsdp,
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
    fsdp: Fsdp = False,
    foretell: Foretell = False,
) -> None:
    """Go on training a whole model, by its own schedule, on your pictures."""
    from calotype.training.config import override
    from calotype.training.fit import Plan
    from calotype.training.tune_config import FineTuning
    from calotype.training.tuning import prepare_finetune

    config = override(FineTuning(caption=caption), settings or ())

    _tune(
        folder,
        model,
        strict,
        config,
        Plan(out, resume, minutes, device, threads, inexact, fsdp),
        prepare_finetune,
        foretell,
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
    fsdp: Fsdp = False,
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

    _tune(
        folder,
        model,
        strict,
        config,
        Plan(out, resume, minutes, device, threads, inexact, fsdp),
        functools.partial(prepare_lora, layout=fashion),
        foretell,
    )


def dreambooth(
    folder: Folder,
    prompt: Annotated[str, typer.Option(help="Names the subject by a rare word: 'a photo of sks dog'.")],
    class_prompt: Annotated[str, typer.Option(help="Names what it is one of: 'a photo of a dog'.")] = "",
    prior_weight: Annotated[
        float, typer.Option(help="Weight of the class's pictures, which the model draws itself; 0 for none.")
    ] = 1.0,
    class_pictures: Annotated[int, typer.Option(help="How many of them.")] = 100,
    out: Out = Path("runs/dreambooth"),
    model: Begin = "icons",
    rank: Annotated[int, typer.Option(help="Rank of a LoRA; 0 trains the whole U-Net.")] = 0,
    layout: Layout = "kohya",
    settings: Settings = None,
    resume: Resume = False,
    minutes: Minutes = math.inf,
    threads: Threads = None,
    inexact: Inexact = False,
    strict: Strict = False,
    device: Device = None,
    fsdp: Fsdp = False,
    foretell: Foretell = False,
) -> None:
    """Teach a model one subject from a few pictures, its class kept what it was (DreamBooth)."""
    from calotype.training.config import override
    from calotype.training.fit import Plan
    from calotype.training.tune_config import DreamBoothTraining
    from calotype.training.tuning import lora_layout, prepare_dreambooth

    fashion = lora_layout(layout)
    begun = DreamBoothTraining(
        prompt=prompt,
        class_prompt=class_prompt,
        prior_weight=prior_weight,
        class_pictures=class_pictures,
        rank=rank,
        sample_prompts=(prompt,),
    )
    config = override(begun, settings or ())

    _tune(
        folder,
        model,
        strict,
        config,
        Plan(out, resume, minutes, device, threads, inexact, fsdp),
        functools.partial(prepare_dreambooth, layout=fashion),
        foretell,
    )


def inversion(
    folder: Folder,
    word: Annotated[str, typer.Option(help="The new word: '<my-cat>'.")],
    initial: Annotated[str, typer.Option(help="A word the model knows that comes near: cat.")],
    vectors: Annotated[int, typer.Option(help="Token embeddings that the word stands for.")] = 1,
    out: Out = Path("runs/inversion"),
    model: Begin = "icons",
    layout: Annotated[str, typer.Option(help="Layout of the word's file: a1111 or diffusers.")] = "a1111",
    settings: Settings = None,
    resume: Resume = False,
    minutes: Minutes = math.inf,
    threads: Threads = None,
    inexact: Inexact = False,
    strict: Strict = False,
    device: Device = None,
    fsdp: Fsdp = False,
    foretell: Foretell = False,
) -> None:
    """Learn a new word for what your pictures show (textual inversion)."""
    from calotype.training.config import override
    from calotype.training.fit import Plan
    from calotype.training.tune_config import InversionTraining
    from calotype.training.tuning import embedding_layout, prepare_inversion

    fashion = embedding_layout(layout)
    config = override(InversionTraining(word=word, initial=initial, vectors=vectors), settings or ())

    _tune(
        folder,
        model,
        strict,
        config,
        Plan(out, resume, minutes, device, threads, inexact, fsdp),
        functools.partial(prepare_inversion, layout=fashion),
        foretell,
    )


def controlnet(
    folder: Folder,
    control: Annotated[
        Path | None,
        typer.Option(help="Folder of control pictures, by their pictures' names; without it, their edges."),
    ] = None,
    out: Out = Path("runs/controlnet"),
    model: Begin = "icons",
    caption: Caption = "",
    settings: Settings = None,
    resume: Resume = False,
    minutes: Minutes = math.inf,
    threads: Threads = None,
    inexact: Inexact = False,
    strict: Strict = False,
    device: Device = None,
    fsdp: Fsdp = False,
    foretell: Foretell = False,
) -> None:
    """Train a ControlNet: a model that stays as it is learns to keep to a second picture."""
    from calotype.training.config import override
    from calotype.training.fit import Plan
    from calotype.training.tune_config import ControlTraining
    from calotype.training.tuning import prepare_controlnet

    config = override(ControlTraining(caption=caption), settings or ())

    _tune(
        folder,
        model,
        strict,
        config,
        Plan(out, resume, minutes, device, threads, inexact, fsdp),
        functools.partial(prepare_controlnet, folder=folder, control=control),
        foretell,
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

    def begin(config: TrainConfig, data: DataSet, plan: Plan, watch: Watch) -> Run:
        return prepare(config, base, data, plan, watch=watch)

    go(begin, config, folder, size, plan, strict=strict, foretell=foretell, shapes=shapes)
