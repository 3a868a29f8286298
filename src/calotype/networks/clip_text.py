"""CLIP's text transformer (Radford et al. 2021, arXiv:2103.00020), OpenAI's and OpenCLIP's."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from calotype.errors import InputError
from calotype.networks.attention import Attention
from calotype.networks.config import ClipTextConfig
from calotype.networks.layers import initialise_weights
from calotype.networks.narrow import Linear, work_rarely


@dataclass(frozen=True)
class TextFeatures:
    """What a text transformer knows about B texts.

    hidden: (B L D) before the first layer and after each one, without the final norm.
    last: (B L D), the last of them through the final norm. pooled: (B P), `last` at the end token,
    projected where there is a projection.
    """

    hidden: tuple[Tensor, ...]
    last: Tensor
    pooled: Tensor


class TextLayer(nn.Module):
    """Causal self-attention and feed-forward, each normalised and beside a skip: (B L D) -> (B L D)."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.quick = config.activation == "quick_gelu"
        self.norm1 = nn.LayerNorm(config.width)
        self.attention = Attention(config.width, config.heads, projection_bias=True, causal=True)
        self.norm2 = nn.LayerNorm(config.width)
        self.up = Linear(config.width, config.mlp_width)
        self.down = Linear(config.mlp_width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        h: Tensor = self.up(self.norm2(x))
        # GELU's first approximation (Hendrycks & Gimpel 2016, arXiv:1606.08415), which OpenAI trained with.
        h = h * torch.sigmoid(1.702 * h) if self.quick else F.gelu(h)
        y: Tensor = x + self.down(h)
        return y


class ClipText(nn.Module):
    """Token numbers to features of every layer."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocabulary, config.width)
        self.position_embedding = nn.Embedding(config.context_length, config.width)
        self.layers = nn.ModuleList(TextLayer(config) for _ in range(config.layers))
        self.final_norm = nn.LayerNorm(config.width)
        self.projection = (
            None
            if config.projection_width is None
            else Linear(config.width, config.projection_width, bias=False)
        )
        work_rarely(self)
        self.initialise()

    def initialise(self, generator: Generator | None = None) -> None:
        """Fresh weights for training; branches are scaled down by their number, as CLIP's were."""
        initialise_weights(self, generator)
        scale = (2 * self.config.layers) ** -0.5
        with torch.no_grad():
            for layer in self.layers:
                assert isinstance(layer, TextLayer)
                layer.attention.out.weight *= scale
                layer.down.weight *= scale

    def forward(self, tokens: Tensor) -> TextFeatures:
        """(B L) int64, L at most `context_length`, each row with an end token -> TextFeatures."""
        length = tokens.shape[1]
        if length > self.config.context_length:
            raise InputError(
                f"A text of {length} tokens is longer than this text encoder's "
                f"{self.config.context_length}; shorten it."
            )
        x: Tensor = self.token_embedding(tokens) + self.position_embedding.weight[:length]  # (B L D)
        hidden = [x]
        for layer in self.layers:
            hidden.append(layer(hidden[-1]))
        last: Tensor = self.final_norm(hidden[-1])
        end = (tokens == self.config.end_token).int().argmax(dim=1)  # (B L) -> (B), the first one
        pooled = last[torch.arange(len(tokens), device=tokens.device), end]  # (B L D) -> (B D)
        if self.projection is not None:
            pooled = self.projection(pooled)  # (B D) -> (B P)
        return TextFeatures(tuple(hidden), last, pooled)
