"""The training recipes Calotype knows by name: literal functions, nothing computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from calotype.training.config import AutoencoderTraining, DiffusionTraining, PixelTraining, TextTraining
from calotype.training.tune_config import LoraTraining


def photo_pixels() -> PixelTraining:
    """The recipe of `photo`: hours on two cores."""
    return PixelTraining(
        steps=20000,
        batch=16,
        optimizer="muon",
        learning_rate=1e-3,
        warmup=100,
        decay="linear",
        cooldown=0.8,
        ema_length=0.05,
        evaluate_every=500,
        sample_every=1000,
        checkpoint_every=100,
    )


def tiny_pixels() -> PixelTraining:
    """Seconds on a CPU: for tests and first tries."""
    return PixelTraining(
        steps=20,
        batch=4,
        crop=16,
        warmup=2,
        sample_every=0,
        evaluate_every=0,
        checkpoint_every=5,
        log_every=1,
    )


def icons_autoencoder() -> AutoencoderTraining:
    """The recipe of the shipped `icons` autoencoder."""
    return AutoencoderTraining(
        steps=6000,
        batch=8,
        learning_rate=2e-3,
        warmup=100,
        cooldown=0.7,
        balance={"emoji": 1.5, "glyph": 0.4},
        evaluate_every=500,
        sample_every=500,
        checkpoint_every=250,
    )


ICONS_PROMPTS = (
    "a red apple",
    "a cat face",
    "a house with a garden",
    "a yellow star",
    "a bicycle",
    "a green tree",
    "a slice of pizza",
    "a blue car",
    "一只猫",
    "a rocket",
    "a red heart",
    "a smiling face",
    "a purple umbrella",
    "an airplane",
    "红苹果",
    "a snowman",
)


def icons_text() -> TextTraining:
    """What the words of `icons` look like."""
    return TextTraining(
        steps=3500,
        batch=128,
        optimizer="muon",
        learning_rate=2e-3,
        decay="linear",
        cooldown=0.8,
        evaluate_every=250,
        sample_every=500,
        checkpoint_every=250,
        balance={"emoji": 3.0, "colour": 0.3, "glyph": 0.4},
        rewording=0.4,
        sample_prompts=ICONS_PROMPTS,
    )


def icons_coarse_diffusion() -> DiffusionTraining:
    """The first stage of the shipped `icons`: pictures of half the side cost a third of the time each."""
    return DiffusionTraining(
        steps=6000,
        batch=128,
        optimizer="muon",
        learning_rate=1.5e-3,
        decay="linear",
        cooldown=0.2,
        image_size=64,
        evaluate_every=500,
        sample_every=500,
        checkpoint_every=100,
        weighting="uniform",
        train_text_encoder=False,
        balance={"emoji": 3.0, "colour": 0.3, "glyph": 0.35},
        sample_prompts=ICONS_PROMPTS,
    )


def icons_diffusion() -> DiffusionTraining:
    """The second stage: the same at full size, from the first stage's weights."""
    return dataclasses.replace(
        icons_coarse_diffusion(),
        batch=64,
        learning_rate=1.4e-3,
        cooldown=0.8,
        noise_shift=2.5,
        rewording=0.2,
        image_size=None,
    )


def mnist_diffusion() -> DiffusionTraining:
    """Labelled 28x28 pictures, MNIST or Fashion-MNIST."""
    return DiffusionTraining(
        steps=4000,
        batch=64,
        optimizer="muon",
        learning_rate=2e-3,
        decay="linear",
        cooldown=0.8,
        ema_length=0.05,
        precision="float32",
        weighting="uniform",
        evaluate_every=500,
        sample_every=500,
        checkpoint_every=100,
    )


def icons_lora() -> LoraTraining:
    """A style for `icons`: all kinds of layers, less than 2 % of the model."""
    return LoraTraining(
        steps=240,
        batch=12,
        learning_rate=3e-3,
        warmup=10,
        decay="linear",
        cooldown=0.8,
        weight_decay=0.0,
        noise_shift=2.5,
        rank=4,
        targets=("attention", "feed-forward", "projections", "convolutions", "ends"),
        evaluate_every=120,
        sample_every=120,
        checkpoint_every=40,
    )


def tiny_autoencoder() -> AutoencoderTraining:
    """Seconds on a CPU: for tests and first tries."""
    return AutoencoderTraining(
        steps=20, batch=4, warmup=2, sample_every=0, evaluate_every=0, checkpoint_every=5, log_every=1
    )


def tiny_text() -> TextTraining:
    """Seconds on a CPU: for tests and first tries."""
    return TextTraining(
        steps=20,
        batch=4,
        warmup=2,
        sample_every=0,
        evaluate_every=0,
        checkpoint_every=5,
        log_every=1,
        sample_prompts=("a red apple",),
    )


def tiny_diffusion() -> DiffusionTraining:
    """Seconds on a CPU: for tests and first tries."""
    return DiffusionTraining(
        steps=20,
        batch=4,
        warmup=2,
        sample_every=0,
        evaluate_every=0,
        checkpoint_every=5,
        log_every=1,
        sample_prompts=("a red apple",),
    )


AUTOENCODER_RECIPES: dict[str, Callable[[], AutoencoderTraining]] = {
    "icons": icons_autoencoder,
    "tiny": tiny_autoencoder,
}
TEXT_RECIPES: dict[str, Callable[[], TextTraining]] = {"icons": icons_text, "tiny": tiny_text}
PIXEL_RECIPES: dict[str, Callable[[], PixelTraining]] = {"photo": photo_pixels, "tiny-photo": tiny_pixels}
DIFFUSION_RECIPES: dict[str, Callable[[], DiffusionTraining]] = {
    "icons": icons_diffusion,
    "icons-coarse": icons_coarse_diffusion,
    "mnist": mnist_diffusion,
    "tiny": tiny_diffusion,
}
LORA_RECIPES: dict[str, Callable[[], LoraTraining]] = {"icons": icons_lora}
