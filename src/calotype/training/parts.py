"""Parts of a model exchanged for trained ones, before a training begins."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from calotype.checkpoints import native
from calotype.conditioning.tokenizer import Tokenizer
from calotype.errors import InputError
from calotype.models.config import ModelConfig
from calotype.models.latent_diffusion import LatentDiffusion, build
from calotype.networks.autoencoder import Autoencoder


def on_text_encoder(config: ModelConfig, path: Path, seed: int) -> LatentDiffusion:
    """Fresh networks on a trained text encoder, the U-Net as wide at the ears, its outline already read."""
    encoder, outline = native.load_text_encoder(path)
    context = sum(part.clip.width for part in encoder.configs)
    pooled = sum(part.clip.projection_width or part.clip.width for part in encoder.configs if part.pooled)
    unet = dataclasses.replace(config.unet, context_width=context, vector_width=pooled or None)
    config = dataclasses.replace(config, text=encoder.configs, unet=unet)
    model = build(config, encoder.tokenizer, seed=seed)
    if model.denoiser.network.outline is not None and outline:
        model.denoiser.network.outline.load_state_dict(outline)
    return model.replace(text_encoder=encoder)


def with_text_encoder(model: LatentDiffusion, path: Path, seed: int) -> LatentDiffusion:
    """Another text encoder: what of the U-Net hears it, and has another width now, begins anew."""
    fresh = on_text_encoder(model.config, path, seed)
    wanted = fresh.denoiser.state_dict()
    kept = {
        name: value
        for name, value in model.denoiser.state_dict().items()
        if value.shape == wanted[name].shape and not name.startswith("network.outline.")
    }
    fresh.denoiser.load_state_dict(wanted | kept)
    return fresh.replace(autoencoder=model.autoencoder)


def with_autoencoder(model: LatentDiffusion, autoencoder: Autoencoder, path: Path) -> LatentDiffusion:
    """Another autoencoder, from `path`; InputError where its latents are not the model's."""
    own, other = model.config.autoencoder, autoencoder.config
    if own is None or (own.latent_channels, own.factor) != (other.latent_channels, other.factor):
        raise InputError(
            f"The autoencoder in {path} makes {other.latent_channels} channels at factor {other.factor}, "
            f"which the model {model.config.name} was not trained on; give the one it began with."
        )
    return model.replace(config=dataclasses.replace(model.config, autoencoder=other), autoencoder=autoencoder)


def tokenizer_of(config: ModelConfig, texts: Sequence[Sequence[str]]) -> Tokenizer | None:
    """A tokenizer learnt from captions, for a model that takes any."""
    if not config.text:
        return None
    clip = config.text[0].clip
    captions = sorted({caption for several in texts for caption in several})
    return Tokenizer.train(captions, clip.vocabulary, clip.context_length)
