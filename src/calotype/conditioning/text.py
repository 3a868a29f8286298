"""Prompts to features: one tokenizer and one or more CLIP text towers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from calotype.conditioning.conditioning import Conditioning
from calotype.conditioning.tokenizer import Tokenizer
from calotype.errors import CheckpointError
from calotype.networks.clip_text import ClipText, ClipTextConfig


@dataclass(frozen=True)
class TextConfig:
    """One CLIP text transformer and which of its layers feeds the U-Net.

    layer       -1 the last layer, -2 the one before (SDXL), and so on
    final_norm  whether the chosen layer passes CLIP's final layer norm
    pooled      whether the tower's pooled vector becomes `Conditioning.vector`
    pad_token   what fills a short prompt; None for CLIP's own habit, the end token
    """

    clip: ClipTextConfig
    layer: int = -1
    final_norm: bool = True
    pooled: bool = False
    pad_token: str | None = None


class TextEncoder(nn.Module):
    """Texts to Conditioning; the empty text is the unconditional one.

    Without towers (and then without a tokenizer) it is the text encoder of a model that takes no text.
    """

    def __init__(self, configs: Sequence[TextConfig], tokenizer: Tokenizer | None) -> None:
        super().__init__()
        if (tokenizer is None) != (not configs):
            raise CheckpointError(
                "The model has a text encoder but no tokenizer, or the reverse; take both from one model."
            )
        for config in configs:
            assert tokenizer is not None
            if config.clip.vocabulary < len(tokenizer) or config.clip.end_token != tokenizer.end:
                raise CheckpointError(
                    f"The tokenizer has {len(tokenizer)} entries and end token {tokenizer.end}, but the text "
                    f"encoder is made for {config.clip.vocabulary} and {config.clip.end_token}; "
                    "take both from one model."
                )
        self.configs = tuple(configs)
        self.tokenizer = tokenizer
        self.towers = nn.ModuleList(ClipText(config.clip) for config in configs)

    def forward(self, texts: Sequence[str]) -> Conditioning:
        """B texts to tokens (B L D), D the towers' widths together, and the pooled vector (B P) or None.

        Every text goes through the towers by itself.  CPU kernels choose their path by the number of rows,
        so that a text in a batch would differ in the last bits from the same text alone.
        """
        return Conditioning.cat([self.encode_tokens(self.tokenize([text])) for text in texts])

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """(T B L) int64: the texts' token numbers for each of the T towers, which differ in their padding."""
        if self.tokenizer is None:
            return torch.zeros(0, len(texts), 0, dtype=torch.long)
        rows = []
        for config in self.configs:
            pad = None if config.pad_token is None else self.tokenizer.vocab[config.pad_token]
            rows.append(self.tokenizer.encode(texts, pad=pad))
        return torch.stack(rows)  # T x (B L) -> (T B L)

    def encode_tokens(self, tokens: Tensor) -> Conditioning:
        """(T B L) token numbers, all rows in one batch, as training wants them."""
        features, vector = [], None
        for config, tower, numbers in zip(self.configs, self.towers, tokens, strict=True):
            assert isinstance(tower, ClipText)
            found = tower(numbers.to(next(tower.parameters()).device))  # (B L) -> (B L D)
            if not config.final_norm:
                features.append(found.hidden[config.layer])
            elif config.layer == -1:
                features.append(found.last)
            else:
                features.append(tower.final_norm(found.hidden[config.layer]))
            if config.pooled:
                vector = found.pooled
        return Conditioning(tokens=torch.cat(features, dim=-1) if features else None, vector=vector)
