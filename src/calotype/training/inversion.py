"""Textual inversion (Gal et al. 2022, arXiv 2208.01618): a new word learned, all else frozen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calotype.checkpoints import embedding
from calotype.checkpoints.embedding import EmbeddingLayout
from calotype.conditioning.text import TextEncoder
from calotype.errors import InputError
from calotype.models.latent_diffusion import LatentDiffusion
from calotype.networks.clip_text import ClipText
from calotype.networks.lora import sharing
from calotype.training.finetune import FineTune
from calotype.training.prepared import Examples
from calotype.training.tune_config import InversionTraining


class Learned(nn.Module):
    """A table of token embeddings that is frozen, and behind its numbers those that are learned."""

    def __init__(self, table: nn.Embedding, known: int, vectors: nn.Parameter) -> None:
        """`known`: the first of the new numbers; vectors (N D)."""
        super().__init__()
        self.table, self.known, self.vectors = table, known, vectors

    def forward(self, tokens: Tensor) -> Tensor:
        """(B L) -> (B L D)."""
        new = F.embedding((tokens - self.known).clamp(min=0), self.vectors)
        old: Tensor = self.table(tokens.clamp(max=len(self.table.weight) - 1))
        return torch.where(tokens[..., None] < self.known, old, new)


def learning(encoder: TextEncoder, config: InversionTraining, vectors: Sequence[nn.Parameter]) -> TextEncoder:
    """A twin of the encoder, all else shared, that reads the word as these vectors, (N D) for each tower."""
    twin = sharing(encoder)
    assert encoder.tokenizer is not None
    known = max(text.clip.vocabulary for text in encoder.configs)
    numbers = tuple(range(known, known + config.vectors))
    twin.tokenizer = encoder.tokenizer.taught({config.word: numbers})
    for tower, own in zip(twin.towers, vectors, strict=True):
        assert isinstance(tower, ClipText)
        tower.token_embedding = Learned(tower.token_embedding, known, own)  # type: ignore[assignment]
    return twin


def beginnings(model: LatentDiffusion, config: InversionTraining) -> list[Tensor]:
    """The vectors (N D) for each tower that the word begins with: those of `initial`, in turns.

    InputError for a model without text, an initial word without tokens, or more vectors than a text has room
    for.
    """
    encoder = model.text_encoder
    if encoder.tokenizer is None:
        raise InputError(
            f"The model {model.config.name} takes no text, so that no word can be learned for it."
        )
    ids = encoder.tokenizer.ids(config.initial)
    if not ids:
        raise InputError(f"The model knows no token of {config.initial!r}; give another --initial.")
    room = encoder.tokenizer.context_length - 2
    if config.vectors > room:
        raise InputError(
            f"vectors is {config.vectors}, but the model {model.config.name} reads {room} tokens at once; "
            "give fewer."
        )
    rows = torch.tensor([ids[i % len(ids)] for i in range(config.vectors)])
    found = []
    for tower in encoder.towers:
        assert isinstance(tower, ClipText)
        found.append(tower.token_embedding.weight.detach()[rows].float().clone())
    return found


def captions(own: Sequence[str], config: InversionTraining) -> tuple[str, ...]:
    """A picture's captions that hold the word, else the templates with it."""
    held = tuple(text for text in own if config.word.lower() in text.lower())
    return held or tuple(text.replace("{}", config.word) for text in config.templates)


class InversionObjective(FineTune):
    """The denoising loss under texts that hold the new word, whose vectors alone learn."""

    def __init__(
        self,
        config: InversionTraining,
        model: LatentDiffusion,
        training: Examples,
        held_out: Examples | None,
        vectors: Sequence[nn.Parameter],
        layout: EmbeddingLayout = "a1111",
    ) -> None:
        """`model` has the encoder that `learning` made of the vectors, as have the examples' captions."""
        super().__init__(config, model, training, held_out, text_changes=True)
        self.keep_still("denoiser")
        self.vectors = nn.ParameterList(vectors)
        self.vectors.requires_grad_(True)
        self.layout: EmbeddingLayout = layout
        self.product = f"{file_stem(config.word)}.safetensors"

    @torch.no_grad()
    def export(self, path: Path, recipe: Mapping[str, Any]) -> None:
        """The vectors, float32, in the layout asked for."""
        assert isinstance(self.config, InversionTraining)
        found = [value.detach().cpu() for value in self.vectors]
        embedding.write(path, self.config.word, found, self.layout, recipe)


def file_stem(word: str) -> str:
    """What of a word can be a file's name, by which programs know vectors that have no name of their own."""
    kept = "".join(letter for letter in word if letter.isalnum() or letter in "-_")
    return kept or "word"
