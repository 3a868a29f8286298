"""Do drawn pictures fit their words?  By a dual encoder of pictures and captions, taught here.

Contrastive, as CLIP (Radford et al. 2021, arXiv 2103.00020), but small, and on the data set's own captions:
what it says is read beside its own retrieval of unseen real pictures, which is the ceiling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calotype.conditioning.config import TextConfig
from calotype.conditioning.text import TextEncoder
from calotype.conditioning.tokenizer import Tokenizer
from calotype.errors import DataError
from calotype.evaluation.concepts import share
from calotype.evaluation.intervals import measured
from calotype.networks.config import ClipTextConfig

WIDTH = 128
VOCABULARY = 4096
CONTEXT = 24
STEPS = 1500
BATCH = 128
RATE = 1e-3
DEPTHS = (1, 5)
"""How many of the nearest captions are looked through."""
FEWEST = 10
"""Fewer distinct captions than this make no retrieval."""


class DualEncoder(nn.Module):
    """Features of pictures (B F) and captions to unit vectors (B 128) of one space."""

    def __init__(self, features: int, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.see = nn.Sequential(
            nn.LayerNorm(features), nn.Linear(features, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)
        )
        text = ClipTextConfig(
            vocabulary=len(tokenizer),
            width=WIDTH,
            layers=2,
            heads=4,
            context_length=tokenizer.context_length,
            mlp_width=4 * WIDTH,
            activation="gelu",
            projection_width=WIDTH,
            end_token=tokenizer.end,
        )
        self.read = TextEncoder((TextConfig(text, pooled=True),), tokenizer)
        self.log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    def pictures(self, features: Tensor) -> Tensor:
        """(B F) -> (B 128), of length 1."""
        return F.normalize(self.see(features), dim=1)

    def texts(self, tokens: Tensor) -> Tensor:
        """Token numbers (1 B L) -> (B 128), of length 1."""
        pooled = self.read.encode_tokens(tokens).vector
        assert pooled is not None  # the tower is told to pool
        return F.normalize(pooled, dim=1)


def taught(
    features: Tensor, captions: Sequence[Sequence[str]], *, steps: int = STEPS, seed: int = 0
) -> DualEncoder:
    """A dual encoder of pictures' features (N F) and their captions, one of which is drawn at every step.

    Pictures of one batch that have the same caption all count as its own.  DataError where the captions
    are too few to tell pictures apart.
    """
    distinct = sorted({text for several in captions for text in several})
    if len(distinct) < FEWEST:
        raise DataError(
            f"Alignment needs {FEWEST} distinct captions or more in the training split; "
            f"there are {len(distinct)}."
        )
    rows = {text: row for row, text in enumerate(distinct)}
    owned = [(i, [rows[text] for text in several]) for i, several in enumerate(captions) if several]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = DualEncoder(features.shape[1], Tokenizer.train(distinct, VOCABULARY, CONTEXT))
    tokens = model.read.tokenize(distinct)  # (1 N L)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps + 1, pct_start=0.1)
    for _ in range(steps):
        drawn = torch.randint(len(owned), (min(BATCH, len(owned)),), generator=generator).tolist()
        chosen = torch.rand(len(drawn), generator=generator).tolist()
        pairs = [
            (owned[i][0], owned[i][1][int(u * len(owned[i][1]))]) for i, u in zip(drawn, chosen, strict=True)
        ]
        pictures, texts = torch.tensor(pairs).T  # (B 2) -> two of (B)
        same = (texts[:, None] == texts[None]) | (pictures[:, None] == pictures[None])  # (B B)
        target = same.float() / same.sum(1, keepdim=True)
        scale = model.log_scale.exp().clamp(max=100)
        logits = scale * model.pictures(features[pictures]) @ model.texts(tokens[:, texts]).T
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def alignment_figures(
    model: DualEncoder, drawn: Tensor, asked: Sequence[str], real: Tensor, captions: Sequence[str]
) -> dict[str, Any]:
    """Figures of features of drawn pictures (N F), `asked` for by N prompts, and of real ones (M F).

    retrieval_at_1, _5   the share whose own prompt is the nearest, or among the five nearest, of all the
                         distinct captions measured; "chance_at_1" and "_5" are a blind model's
    cosine               mean cosine of picture and prompt

    "real" has the same of the real pictures under their own captions: the ceiling.
    """
    pool = sorted(set(captions) | set(asked))
    if len(pool) < FEWEST:
        raise DataError(
            f"Alignment needs {FEWEST} distinct captions or more to choose from; there are {len(pool)}."
        )
    texts = model.texts(model.read.tokenize(pool))

    def of(features: Tensor, own: Sequence[str]) -> dict[str, Any]:
        cosines = model.pictures(features) @ texts.T  # (N D) x (D P) -> (N P)
        rows = torch.tensor([pool.index(text) for text in own])
        mine = cosines.gather(1, rows[:, None])  # (N 1)
        before = (cosines >= mine).sum(1) - 1  # an equal one counts against the picture
        found: dict[str, Any] = {
            f"retrieval_at_{depth}": share((before < depth).tolist()) for depth in DEPTHS
        }
        return found | {"cosine": measured("cosine", mine[:, 0])}

    chance = {f"chance_at_{depth}": depth / len(pool) for depth in DEPTHS}
    return of(drawn, asked) | chance | {"real": of(real, captions)}
