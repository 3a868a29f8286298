"""Options of the trainings that begin with a finished model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from calotype.errors import InputError
from calotype.training.config import Decay, DiffusionTraining


@dataclass(frozen=True)
class FineTuning(DiffusionTraining):
    """A whole model goes on learning, with the parameterization, schedule and text encoders that it has.

    `caption` is what pictures without words are called.
    """

    steps: int = 2000
    batch: int = 4
    learning_rate: float = 1e-5
    decay: Decay = "constant"
    weighting: Literal["uniform", "min_snr"] = "uniform"
    train_text_encoder: bool = False
    ema_length: float = 0.05
    caption: str = ""


@dataclass(frozen=True)
class LoraTraining(FineTuning):
    """Low-rank changes beside frozen layers (LoRA, arXiv 2106.09685).

    A change is `alpha` / `rank` times up times down; alpha None is the rank.  `targets` are names of
    `adapters.TARGETS` or patterns of layers in diffusers' names, such as `unet.*.attn2.to_k`.
    """

    learning_rate: float = 1e-4
    rank: int = 8
    alpha: float | None = None
    targets: tuple[str, ...] = ("attention",)

    fewest = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank < self.fewest:
            raise InputError(
                f"Training option rank is {self.rank}; give {self.fewest} or more, usually 4 to 64."
            )
        if self.alpha is not None and not self.alpha > 0:
            raise InputError(
                f"Training option alpha is {self.alpha}; give a value above 0, usually the rank."
            )
        if self.zero_terminal_snr and self.rank:
            raise InputError(
                "zero_terminal_snr changes the model's schedule, which a LoRA cannot carry; leave it out, or "
                "fine-tune the whole model."
            )
        if not self.targets:
            raise InputError("Training option targets is empty; name layers, e.g. targets=attention.")

    @property
    def scaling(self) -> float:
        """alpha, the rank where none is given."""
        return float(self.rank) if self.alpha is None else self.alpha
