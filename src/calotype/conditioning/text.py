"""Prompts to features: one tokenizer and one or more CLIP text towers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from calotype.conditioning.conditioning import Conditioning
from calotype.conditioning.config import TextConfig
from calotype.conditioning.prompt import Prompt, chunks
from calotype.conditioning.tokenizer import Tokenizer
from calotype.errors import CheckpointError
from calotype.networks.clip_text import ClipText
from calotype.networks.lora import sharing


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
            highest = max(tokenizer.vocab.values())
            if config.clip.vocabulary <= highest or config.clip.end_token != tokenizer.end:
                raise CheckpointError(
                    f"The tokenizer has {highest + 1} entries and end token {tokenizer.end}, but the text "
                    f"encoder is made for {config.clip.vocabulary} and {config.clip.end_token}; "
                    "take both from one model."
                )
            if config.pad_token is not None and config.pad_token not in tokenizer.vocab:
                raise CheckpointError(
                    f"The tokenizer has no token {config.pad_token[:80]!r}, by which short prompts are to be "
                    "filled up; take both from one model."
                )
            if not -config.clip.layers <= config.layer <= -1:
                raise CheckpointError(
                    f"The text encoder is to be read at layer {config.layer}, but has {config.clip.layers}; "
                    "the model's config is damaged."
                )
        self.configs = tuple(configs)
        self.tokenizer = tokenizer
        self.towers = nn.ModuleList(ClipText(config.clip) for config in configs)

    def forward(self, texts: Sequence[str], clip_skip: int | None = None) -> Conditioning:
        """B texts to tokens (B L D), D the towers' widths together, and the pooled vector (B P) or None.

        Every text goes through the towers by itself.  CPU kernels choose their path by the number of rows,
        so that a text in a batch would differ in the last bits from the same text alone.
        """
        found = [self.encode_tokens(self.tokenize([text]), clip_skip=clip_skip) for text in texts]
        return Conditioning.cat(found)

    def encode_prompt(self, prompt: Prompt, clip_skip: int | None = None) -> Conditioning:
        """A prompt of N chunks to tokens (1 N*L D), chunk after chunk, and the first chunk's pooled vector.

        Weights multiply a token's features; then the chunk is scaled back to the mean it had, tower by tower
        ("Original" emphasis in AUTOMATIC1111's web UI).  The pooled vector knows nothing of them.
        """
        if self.tokenizer is None:
            return Conditioning()
        parts = []
        for chunk in chunks(prompt, self.tokenizer):
            rows = [[self.tokenizer.row(chunk.ids, pad)] for pad in self._pads()]  # T x (1 L)
            rest = self.tokenizer.context_length - 1 - len(chunk.weights)
            weights = torch.tensor([[1.0, *chunk.weights, *[1.0] * rest]], dtype=torch.float64)  # (1 L)
            parts.append(self.encode_tokens(torch.tensor(rows), weights, clip_skip))
        features = [part.tokens for part in parts if part.tokens is not None]
        return Conditioning(tokens=torch.cat(features, dim=1), vector=parts[0].vector)  # N x (1 L D)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """(T B L) int64: the texts' token numbers for each of the T towers, which differ in their padding."""
        if self.tokenizer is None:
            return torch.zeros(0, len(texts), 0, dtype=torch.long)
        return torch.stack([self.tokenizer.encode(texts, pad) for pad in self._pads()])  # T x (B L)

    def encode_tokens(
        self, tokens: Tensor, weights: Tensor | None = None, clip_skip: int | None = None
    ) -> Conditioning:
        """(T B L) token numbers and, unless all are 1, their weights (B L).

        All rows go in one batch, as training wants them.
        """
        features, vector = [], None
        for config, tower, numbers in zip(self.configs, self.towers, tokens, strict=True):
            assert isinstance(tower, ClipText)
            found = tower(numbers.to(next(tower.parameters()).device))  # (B L) -> (B L D)
            layer = config.layer_at(clip_skip)
            if not config.final_norm:
                chosen = found.hidden[layer]
            elif layer == -1:
                chosen = found.last
            else:
                chosen = tower.final_norm(found.hidden[layer])
            features.append(chosen if weights is None else _emphasised(chosen, weights))
            if config.pooled:
                vector = found.pooled
        return Conditioning(tokens=torch.cat(features, dim=-1) if features else None, vector=vector)

    @torch.no_grad()
    def taught(self, words: Mapping[str, Sequence[Tensor]]) -> TextEncoder:
        """The same encoder, its tensors shared, for which each word stands for N vectors, (N D) per tower."""
        if self.tokenizer is None or not words:
            return self
        twin = sharing(self)
        known = max(text.clip.vocabulary for text in self.configs)
        numbers, end = {}, known
        for word, vectors in words.items():
            numbers[word] = tuple(range(end, end + len(vectors[0])))
            end += len(vectors[0])
        twin.tokenizer = self.tokenizer.taught(numbers)
        for i, tower in enumerate(twin.towers):
            assert isinstance(tower, ClipText)
            own = tower.token_embedding.weight
            gap = own.new_zeros(known - len(own), own.shape[1])  # of a tower with fewer words than another
            new = [vectors[i].to(own) for vectors in words.values()]
            tower.token_embedding = nn.Embedding.from_pretrained(torch.cat([own, gap, *new]))
        return twin

    def _pads(self) -> list[int | None]:
        assert self.tokenizer is not None
        vocab = self.tokenizer.vocab
        return [None if config.pad_token is None else vocab[config.pad_token] for config in self.configs]


def _emphasised(features: Tensor, weights: Tensor) -> Tensor:
    """(B L D) times (B L), every row of the batch scaled back to its mean; in float32 at least."""
    if bool((weights == 1).all()):
        return features
    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    weighted = wide * weights.to(wide)[:, :, None]
    restored = weighted * (wide.mean(dim=(1, 2), keepdim=True) / weighted.mean(dim=(1, 2), keepdim=True))
    return restored.to(features.dtype)
