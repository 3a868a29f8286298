"""Attention and the transformer that sits inside a U-Net (Rombach et al. 2022, arXiv:2112.10752).

Queries, keys and values are three separate layers, as in every published checkpoint and every LoRA
made for one: loading stays a renaming, and whoever wants them fused concatenates them afterwards.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calotype.networks import processor
from calotype.networks.narrow import Conv2d, Linear, multiplied
from calotype.networks.norm import GroupNorm

MANY = 1024
"""Keys from which on plain products are quicker than PyTorch's kernel, where that makes little of a CPU."""
SCORES = 2**20
"""Scores at once, for each thread: they stay in the processor's cache."""
SOME = 3
"""One key of so many tells about how large a query's scores are; keys of neighbours are alike."""
COLUMNS = 8
"""What is put beside queries and keys, of which one is used: rows begin at multiples of 16 bytes."""


def attend(query: Tensor, key: Tensor, value: Tensor, *, causal: bool = False) -> Tensor:
    """Vaswani et al. 2017, arXiv:1706.03762, eq. 1: (B heads N C), 2 x (B heads L C) -> (B heads N C).

    With `causal` place n sees the places up to n. PyTorch's fused kernel, except where a CPU is to
    give gradients: there its backward pass takes ten times as long as plain products, which serve
    as long as the table of all pairs stays small; and in bf16 where that kernel makes little of the
    processor (`by_products`).
    """
    tokens, seen = query.shape[-2], key.shape[-2]
    if not causal and seen >= MANY and _products_pay(query):
        return by_products(query, key, value)
    if query.device.type != "cpu" or not torch.is_grad_enabled() or tokens * seen > 1024 * 1024:
        dtype = multiplied(query.dtype, query.device)
        asked = query.to(dtype), key.to(dtype), value.to(dtype)
        return F.scaled_dot_product_attention(*asked, is_causal=causal).to(query.dtype)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)  # (B heads N L)
    if causal:
        hidden = torch.ones(tokens, seen, dtype=torch.bool, device=query.device).triu(1)
        scores = scores.masked_fill(hidden, -torch.inf)
    mixed: Tensor = scores.softmax(-1) @ value  # (B heads N L) @ (B heads L C) -> (B heads N C)
    return mixed


def _products_pay(query: Tensor) -> bool:
    return (
        query.device.type == "cpu"
        and query.dtype == torch.bfloat16
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and processor.multiplies_bf16_in_vectors()
    )


def by_products(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention by matrix products of 16 bits, head by head, some rows at once: (B heads N C), 2 x
    (B heads L C) -> (B heads N C).

    On processors with vectors of bf16 and no tiles PyTorch's kernel widens all numbers for its products: 135
    of 850 GFLOP/s were measured at C = 40, and plain products take half of the time.  They round the scores
    to bf16, though.  The softmax does not change when a number is taken from all scores of a query: with
    about the largest, found among some of the keys, what weighs is small and its rounding too.  It is one
    more product, of a column beside the queries and one of ones beside the keys.
    """
    heads, tokens, width = query.shape[1:]
    seen = key.shape[-2]
    rows = min(tokens, max(1, SCORES // seen) * torch.get_num_threads())
    y = query.new_empty(len(query), tokens, heads, width)  # as the layer after it wants it
    scores = query.new_empty(rows, seen)
    for i in range(len(query)):
        for head in range(heads):
            k, v = key[i, head], value[i, head].contiguous()
            beside = k.new_ones(seen, 1)
            keys = F.pad(torch.cat([k, beside], dim=1), (0, COLUMNS - 1)).T  # (C+COLUMNS L)
            some = k[::SOME].T  # (C L/SOME)
            for top in range(0, tokens, rows):
                q = query[i, head, top : top + rows]
                level = (q @ some).amax(-1, keepdim=True)  # (n C) x (C L/SOME) -> (n 1)
                queries = F.pad(torch.cat([q, -level], dim=1), (0, COLUMNS - 1))  # (n C+COLUMNS)
                said = scores[: len(q)]
                torch.addmm(said, queries, keys, beta=0, alpha=width**-0.5, out=said)  # (n L)
                y[i, top : top + rows, head] = said.softmax(-1) @ v  # (n L) x (L C) -> (n C)
    return y.transpose(1, 2)  # (B N heads C) -> (B heads N C)


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2.2): (B N C) -> (B N C).

    Keys and values come from `context` (B L D), or from the input itself where it is None; with
    `causal` a token sees itself and those before it.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        context_width: int | None = None,
        projection_bias: bool = False,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        source = width if context_width is None else context_width
        self.query = Linear(width, width, bias=projection_bias)
        self.key = Linear(source, width, bias=projection_bias)
        self.value = Linear(source, width, bias=projection_bias)
        self.out = Linear(width, width)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        source = x if context is None else context
        # (B N C) -> (B heads N C/heads)
        query = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key = self.key(source).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        value = self.value(source).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        mixed = attend(query, key, value, causal=self.causal)
        y: Tensor = self.out(mixed.transpose(1, 2).flatten(2))  # (B heads N C/heads) -> (B N C)
        return y


class MapAttention(nn.Module):
    """The autoencoder's attention: one head over all pixels of a map, (B C H W) -> (B C H W)."""

    def __init__(self, channels: int, *, groups: int) -> None:
        super().__init__()
        self.norm = GroupNorm(groups, channels, 1e-6)
        self.attention = Attention(channels, 1, projection_bias=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).permute(0, 2, 3, 1).flatten(1, 2)  # (B C H W) -> (B H*W C)
        mixed = self.attention(tokens).unflatten(1, x.shape[-2:])  # (B H*W C) -> (B H W C)
        y: Tensor = x + mixed.permute(0, 3, 1, 2)  # (B H W C) -> (B C H W)
        return y


class GatedGelu(nn.Module):
    """Feed-forward layer gated by GELU (Shazeer 2020, arXiv:2002.05202, eq. 6): (B N C) -> (B N C)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = Linear(width, 8 * width)
        self.down = Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.up(x).chunk(2, dim=-1)  # (B N 8C) -> 2 x (B N 4C)
        y: Tensor = self.down(value * F.gelu(gate))
        return y


class TransformerBlock(nn.Module):
    """Self-attention, attention to the context, feed-forward, each beside a skip: (B N C) -> (B N C).

    Without a `context_width` the middle third is left out; with `context_only` the first third
    attends to the context too.
    """

    def __init__(self, width: int, heads: int, *, context_width: int, context_only: bool = False) -> None:
        super().__init__()
        self.context_only = context_only
        self.norm_self = nn.LayerNorm(width)
        self.attend_self = Attention(width, heads, context_width=context_width if context_only else None)
        self.norm_context = nn.LayerNorm(width) if context_width else None
        self.attend_context = Attention(width, heads, context_width=context_width) if context_width else None
        self.norm_feed = nn.LayerNorm(width)
        self.feed = GatedGelu(width)

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        x = x + self.attend_self(self.norm_self(x), context if self.context_only else None)
        if self.norm_context is not None and self.attend_context is not None:
            x = x + self.attend_context(self.norm_context(x), context)
        y: Tensor = x + self.feed(self.norm_feed(x))
        return y


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of a map, beside a skip: (B C H W) -> (B C H W).

    SD 1.x enters and leaves through 1x1 convolutions, later models through linear layers: the same
    function with weights of another shape, kept apart so that each loads as it is stored.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        depth: int,
        *,
        context_width: int,
        groups: int,
        linear: bool,
        context_only: bool = False,
    ) -> None:
        super().__init__()
        self.linear = linear
        self.norm = GroupNorm(groups, channels, 1e-6)
        self.enter: nn.Module = Linear(channels, channels) if linear else Conv2d(channels, channels, 1)
        self.blocks = nn.ModuleList(
            TransformerBlock(channels, heads, context_width=context_width, context_only=context_only)
            for _ in range(depth)
        )
        self.leave: Linear | Conv2d = Linear(channels, channels) if linear else Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        h = self.norm(x)
        if not self.linear:
            h = self.enter(h)
        h = h.permute(0, 2, 3, 1).flatten(1, 2)  # (B C H W) -> (B H*W C), free when channels-last
        if self.linear:
            h = self.enter(h)
        for block in self.blocks:
            h = block(h, context)
        if self.linear:
            h = self.leave(h)
        h = h.unflatten(1, x.shape[-2:]).permute(0, 3, 1, 2)  # (B H*W C) -> (B C H W)
        if not self.linear:
            h = self.leave(h)
        y: Tensor = x + h
        return y
