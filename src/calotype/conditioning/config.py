"""How a model reads its prompts, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from calotype.networks.config import ClipTextConfig

Syntax = Literal["plain", "a1111"]
SYNTAXES: tuple[str, ...] = get_args(Syntax)
"""plain: a text is its letters, and what does not fit the model is cut.  a1111: see `prompt`."""


@dataclass(frozen=True)
class TextConfig:
    """One CLIP text transformer and which of its layers feeds the U-Net.

    layer       -1 the last layer, -2 the one before (SDXL), and so on; clip skip moves only -1
    final_norm  whether the chosen layer passes CLIP's final layer norm
    pooled      whether the tower's pooled vector becomes `Conditioning.vector`
    pad_token   what fills a short prompt; None for CLIP's own habit, the end token
    """

    clip: ClipTextConfig
    layer: int = -1
    final_norm: bool = True
    pooled: bool = False
    pad_token: str | None = None

    def layer_at(self, clip_skip: int | None) -> int:
        """The layer under a clip skip of 1 (the last), 2 (the one before) ….

        A tower that feeds the U-Net from another layer than its last keeps to it, as SDXL's do in
        AUTOMATIC1111's web UI.
        """
        return self.layer if clip_skip is None or self.layer != -1 else -clip_skip
