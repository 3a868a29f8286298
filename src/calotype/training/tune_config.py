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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epsilon is not None:
            raise InputError(
                "Training option epsilon is for `calotype train diffusion`, which can keep a run private; "
                "leave it out."
            )


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


@dataclass(frozen=True)
class ControlTraining(FineTuning):
    """A ControlNet beside a model that stays as it is (arXiv 2302.05543).

    Half of the captions are left out, as in the paper (section 3.3), so that the net learns to read the
    control picture itself.
    """

    caption_dropout: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("train_text_encoder", "zero_terminal_snr"):
            if getattr(self, name):
                raise InputError(
                    f"Training option {name} changes the model, which a ControlNet cannot carry; leave it "
                    "out, or fine-tune the model first."
                )


@dataclass(frozen=True)
class DreamBoothTraining(LoraTraining):
    """One subject under a rare name (DreamBooth, arXiv 2208.12242).

    `prompt` names the subject, `class_prompt` its kind.  Beside every batch come as many of the
    `class_pictures` that the model itself drew of the class before; their loss, times `prior_weight`, keeps
    the class from becoming the subject.  Rank 0 trains the whole U-Net, as the paper does.
    """

    learning_rate: float = 5e-6
    steps: int = 800
    batch: int = 1
    caption_dropout: float = 0.0
    rank: int = 0
    prompt: str = ""
    class_prompt: str = ""
    class_pictures: int = 100
    prior_weight: float = 1.0

    fewest = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.prompt.strip():
            raise InputError(
                "DreamBooth needs a prompt that names the subject: --prompt 'a photo of sks dog'."
            )
        if self.prior_weight and not self.class_prompt.strip():
            raise InputError(
                "DreamBooth needs a prompt for the subject's class, --class-prompt 'a photo of a dog', "
                "or --prior-weight 0 to do without pictures of it."
            )
        if not self.prior_weight >= 0:
            raise InputError(f"Training option prior_weight is {self.prior_weight}; give 0 or more.")
        if self.prior_weight and self.class_pictures < 1:
            raise InputError(f"Training option class_pictures is {self.class_pictures}; give 1 or more.")


@dataclass(frozen=True)
class InversionTraining(FineTuning):
    """A new word for what the pictures show: `vectors` token embeddings (arXiv 2208.01618), all else frozen.

    They begin as those of `initial`'s tokens, in turns.  Captions that hold the word are used as they are;
    all others give way to the `templates`, with the word at their {}.
    """

    learning_rate: float = 5e-3
    weight_decay: float = 0.0
    caption_dropout: float = 0.0
    word: str = ""
    initial: str = ""
    vectors: int = 1
    templates: tuple[str, ...] = ("a photo of {}", "a picture of {}", "a close-up photo of {}", "one {}")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.word.strip() or set("()[]\\:|") & set(self.word):
            raise InputError(
                f"The word to learn is {self.word!r}; give one without ( ) [ ] \\ : |, e.g. '<my-cat>'."
            )
        if not self.initial.strip():
            raise InputError("A new word needs one to begin with that is near it: --initial cat.")
        if self.vectors < 1:
            raise InputError(f"Training option vectors is {self.vectors}; give 1 or more.")
        if not self.templates or any("{}" not in text for text in self.templates):
            raise InputError("Every template needs a {} where the word goes, e.g. 'a photo of {}'.")
