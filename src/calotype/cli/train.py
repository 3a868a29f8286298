"""`calotype train …`: trainings that begin with a preset."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from calotype.cli.runs import (
    Coder,
    Device,
    Folder,
    Foretell,
    Fsdp,
    Inexact,
    InitFrom,
    Minutes,
    Out,
    Preset,
    Recipe,
    Resume,
    Settings,
    Strict,
    Threads,
    Watch,
    go,
    named,
    named_recipe,
    shipped_or_path,
)

if TYPE_CHECKING:
    from calotype.models.config import ModelConfig
    from calotype.training.config import (
        AutoencoderTraining,
        DiffusionTraining,
        PixelTraining,
        TextTraining,
    )
    from calotype.training.fit import Plan, Run
    from calotype.training.sessions import DataSet

train_app = typer.Typer(help="Train on your own pictures.", no_args_is_help=True)


@train_app.command("autoencoder")
def autoencoder(
    folder: Folder,
    out: Out = Path("runs/autoencoder"),
    model: Preset = "icons",
    recipe: Recipe = None,
    settings: Settings = None,
    resume: Resume = False,
    init_from: InitFrom = None,
    minutes: Minutes = math.inf,
    threads: Threads = None,
    inexact: Inexact = False,
    strict: Strict = False,
    device: Device = None,
    fsdp: Fsdp = False,
    foretell: Foretell = False,
) -> None:
    """Train the KL autoencoder of a model."""
    from calotype.training.config import AutoencoderTraining, override
    from calotype.training.fit import Plan
    from calotype.training.recipes import AUTOENCODER_RECIPES
    from calotype.training.sessions import picture_shapes, picture_size, prepare_autoencoder

    config = override(named_recipe(recipe, model, AUTOENCODER_RECIPES, AutoencoderTraining), settings or ())
    preset = _preset(model)

    def prepare(config: AutoencoderTraining, data: DataSet, plan: Plan, watch: Watch) -> Run:
        del watch
        return prepare_autoencoder(config, preset, data, plan, init_from=init_from)

    plan = Plan(out, resume, minutes, device, threads, inexact, fsdp)
    size, shapes = picture_size(config, preset), picture_shapes(config, preset)
    go(prepare, config, folder, size, plan, strict=strict, foretell=foretell, shapes=shapes)


@train_app.command("text")
def text(
    folder: Folder,
    out: Out = Path("runs/text"),
    model: Preset = "icons",
    autoencoder: Coder = None,
    recipe: Recipe = None,
    settings: Settings = None,
    resume: Resume = False,
    init_from: InitFrom = None,
    minutes: Minutes = math.inf,
    threads: Threads = None,
    inexact: Inexact = False,
    strict: Strict = False,
    device: Device = None,
    fsdp: Fsdp = False,
    foretell: Foretell = False,
) -> None:
    """Teach the text encoder what its captions look like, before the diffusion model."""
    from calotype.training.config import TextTraining, override
    from calotype.training.fit import Plan
    from calotype.training.recipes import TEXT_RECIPES
    from calotype.training.sessions import picture_shapes, picture_size, prepare_text

    config = override(named_recipe(recipe, model, TEXT_RECIPES, TextTraining), settings or ())
    preset = _preset(model)

    def prepare(config: TextTraining, data: DataSet, plan: Plan, watch: Watch) -> Run:
        return prepare_text(
            config, preset, data, plan, autoencoder=autoencoder, init_from=init_from, watch=watch
        )

    plan = Plan(out, resume, minutes, device, threads, inexact, fsdp)
    size, shapes = picture_size(config, preset), picture_shapes(config, preset)
    go(prepare, config, folder, size, plan, strict=strict, foretell=foretell, shapes=shapes)


@train_app.command("diffusion")
def diffusion(
    folder: Folder,
    out: Out = Path("runs/diffusion"),
    model: Preset = "icons",
    autoencoder: Coder = None,
    text_encoder: Annotated[
        Path | None,
        typer.Option(
            parser=shipped_or_path,
            metavar="FILE",
            help="Checkpoint that holds a text encoder trained by `train text`.",
        ),
    ] = None,
    pixels: Annotated[bool, typer.Option("--pixels", help="Denoise pixels, without an autoencoder.")] = False,
    labels: Annotated[
        bool, typer.Option("--labels", help="Learn the names of class folders instead of captions.")
    ] = False,
    dp_epsilon: Annotated[
        float | None,
        typer.Option(help="Differential privacy for every training picture, e.g. 8 (extra: privacy)."),
    ] = None,
    recipe: Recipe = None,
    settings: Settings = None,
    resume: Resume = False,
    init_from: InitFrom = None,
    minutes: Minutes = math.inf,
    threads: Threads = None,
    inexact: Inexact = False,
    strict: Strict = False,
    device: Device = None,
    fsdp: Fsdp = False,
    foretell: Foretell = False,
) -> None:
    """Train the text-conditioned diffusion model, in latents or in pixels."""
    import dataclasses

    from calotype.training.config import DiffusionTraining, override
    from calotype.training.fit import Plan
    from calotype.training.recipes import DIFFUSION_RECIPES
    from calotype.training.sessions import picture_shapes, picture_size, prepare_diffusion

    config = override(named_recipe(recipe, model, DIFFUSION_RECIPES, DiffusionTraining), settings or ())
    if dp_epsilon is not None:
        config = dataclasses.replace(config, epsilon=dp_epsilon)
    preset = _preset(model)
    if pixels:
        unet = dataclasses.replace(preset.unet, in_channels=3, out_channels=3)
        preset = dataclasses.replace(preset, autoencoder=None, unet=unet)
    if labels:
        preset = preset.of_classes(("",))  # their names come from the folder

    def prepare(config: DiffusionTraining, data: DataSet, plan: Plan, watch: Watch) -> Run:
        return prepare_diffusion(
            config,
            preset,
            data,
            plan,
            autoencoder=autoencoder,
            text_encoder=text_encoder,
            init_from=init_from,
            watch=watch,
        )

    plan = Plan(out, resume, minutes, device, threads, inexact, fsdp)
    size, shapes = picture_size(config, preset), picture_shapes(config, preset)
    go(prepare, config, folder, size, plan, strict=strict, foretell=foretell, shapes=shapes)


@train_app.command("pixels")
def pixels(
    folder: Folder,
    out: Out = Path("runs/pixels"),
    model: Preset = "photo",
    recipe: Recipe = None,
    settings: Settings = None,
    resume: Resume = False,
    init_from: InitFrom = None,
    minutes: Minutes = math.inf,
    threads: Threads = None,
    inexact: Inexact = False,
    strict: Strict = False,
    device: Device = None,
    fsdp: Fsdp = False,
    foretell: Foretell = False,
) -> None:
    """Train a denoiser of photographs, which needs no words: for `calotype denoise` and its like."""
    from calotype.models.pixel_diffusion import PIXEL_PRESETS
    from calotype.training.config import PixelTraining, override
    from calotype.training.fit import Plan
    from calotype.training.pixels import prepare_pixels
    from calotype.training.recipes import PIXEL_RECIPES

    config = override(named_recipe(recipe, model, PIXEL_RECIPES, PixelTraining), settings or ())
    preset = named("pixel model preset", model, PIXEL_PRESETS)()

    def prepare(config: PixelTraining, data: DataSet, plan: Plan, watch: Watch) -> Run:
        del watch
        return prepare_pixels(config, preset, data, plan, init_from=init_from)

    plan = Plan(out, resume, minutes, device, threads, inexact, fsdp)
    go(prepare, config, folder, config.image_size or preset.size, plan, strict=strict, foretell=foretell)


def _preset(name: str) -> ModelConfig:
    from calotype.models.presets import PRESETS

    return named("model preset", name, PRESETS)()
