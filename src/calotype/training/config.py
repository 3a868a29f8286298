"""Typed training configurations: plain functions return them, `override` changes single fields."""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from calotype.errors import InputError

Decay = Literal["constant", "linear", "cosine"]
Precision = Literal["auto", "bf16", "float32"]


@dataclass(frozen=True)
class TrainConfig:
    """What every training run has in common.

    `steps` counts optimiser updates of `batch` pictures each, summed over all processes.
    The learning rate rises over `warmup` steps, stays, and falls by `decay` over the last
    `cooldown` fraction of the run.  `ema_length` is the relative width of the power-function
    average of the weights (EDM2, arXiv 2312.02696, eq. 7 ff.); `image_size` None keeps the
    model's own.  `*_every` count steps; 0 switches the thing off.  `precision` is what the networks
    compute in: auto is bf16 where the device has units for it, decided once when a run begins.
    """

    steps: int = 1000
    batch: int = 32
    accumulate: int = 1
    """Parts that a batch is worked off in, one after the other: less memory, the same gradient."""
    recompute: bool = False
    """Keep of every block only what went in, and work it out again going back: less memory, more time."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 1e-3
    warmup: int = 100
    decay: Decay = "cosine"
    cooldown: float = 1.0
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    clip: float = 1.0
    ema_length: float = 0.10
    snapshot_every: int = 0
    """Steps between the averages from which `calotype ema` makes one of any length, afterwards."""
    precision: Precision = "auto"
    seed: int = 0
    image_size: int | None = None
    aspect: float = 1.0
    """How many times as long as the other a side may be: above 1, pictures keep about their own shape, of
    about the same area, and each batch is of one; at 1 the middle square is taken."""
    log_every: int = 10
    sample_every: int = 250
    evaluate_every: int = 250
    checkpoint_every: int = 100
    keep_checkpoints: int = 2
    balance: dict[str, float] = field(default_factory=dict)
    """Relative frequency of the records whose `kind` is the key; kinds not named count 1."""

    def __post_init__(self) -> None:
        positive = ("steps", "batch", "accumulate", "learning_rate", "clip", "keep_checkpoints")
        for name in positive:
            if not getattr(self, name) > 0:
                raise InputError(f"Training option {name} is {getattr(self, name)}; give a value above 0.")
        if self.batch % self.accumulate:
            raise InputError(
                f"Training option accumulate is {self.accumulate}, into which a batch of {self.batch} does "
                "not go evenly; give one of its divisors."
            )
        if not 0 <= self.cooldown <= 1:
            raise InputError(f"Training option cooldown is {self.cooldown}; give a fraction from 0 to 1.")
        if not 1 <= self.aspect <= 4:
            raise InputError(f"Training option aspect is {self.aspect:g}; give 1 to 4.")
        if not 0 < self.ema_length < 0.28:
            raise InputError(
                f"Training option ema_length is {self.ema_length}; give a value above 0, below 0.28."
            )
        if any(not weight >= 0 for weight in self.balance.values()):
            raise InputError("Training option balance needs weights of 0 or more, e.g. balance.emoji=2.")

    def _only_squares(self, what: str) -> None:
        if self.aspect != 1:
            raise InputError(f"Training option aspect is not for {what}; leave it out.")

    def _without_snapshots(self, what: str) -> None:
        if self.snapshot_every:
            raise InputError(
                f"Training option snapshot_every is not for {what}; "
                "choose its ema_length before it is trained."
            )


@dataclass(frozen=True)
class AutoencoderTraining(TrainConfig):
    """Loss = l1_weight * |error| + l2_weight * error² + coarse_weight * |coarse error| + kl_weight * KL.

    Each is a mean over its elements.  The coarse error is averaged over one latent pixel's square:
    without it the colours of areas are learnt late, as edges make most of the error.  Errors are in
    the picture's [-1, 1] range; the KL term is Kingma & Welling's (arXiv 1312.6114) in nats per
    latent element, so its weight does not depend on the picture's size.

    `latent_noise` is the largest deviation of noise put on the latents before they are decoded (each
    picture's is drawn up to it), so that the decoder forgives a diffusion model's small errors.  With
    `train_encoder=false` only the decoder learns: the latents, and what was trained on them, stay valid.

    Two more terms make reconstructions sharp where plain errors leave them soft: `perceptual_weight` times
    their distance to the eyes of a network (`perceptual`: EfficientNet-Lite0, or LPIPS where one has it), and
    from step `adversarial_from` on `adversarial_weight` times what a discriminator of patches, which is
    trained beside, does not believe (hinge losses; VQGAN, arXiv 2012.09841; its learning rate is the run's).
    """

    l1_weight: float = 1.0
    l2_weight: float = 1.0
    coarse_weight: float = 2.0
    kl_weight: float = 1e-4
    latent_noise: float = 0.0
    train_encoder: bool = True
    perceptual_weight: float = 0.0
    perceptual: Literal["effnet", "lpips"] = "effnet"
    adversarial_weight: float = 0.0
    adversarial_from: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._without_snapshots("an autoencoder, whose latents are normalised as it is written")
        if not self.latent_noise >= 0:
            raise InputError(f"Training option latent_noise is {self.latent_noise}; give 0 or more.")
        for name in ("perceptual_weight", "adversarial_weight", "adversarial_from"):
            if not getattr(self, name) >= 0:
                raise InputError(f"Training option {name} is {getattr(self, name)}; give 0 or more.")


@dataclass(frozen=True)
class DiffusionTraining(TrainConfig):
    """`caption_dropout` is the share of pictures trained with an empty prompt (arXiv 2207.12598).

    `noise_shift` multiplies the noise levels that `noise_levels` draws.  What the words decide, they decide
    where little of the picture is seen, and the larger the latents, the higher that lies (arXiv 2301.11093).
    `rewording` is the share of captions put in other words (`data.rewording`).

    `offset_noise` is the deviation of one number more of noise for each whole channel of a picture, so that
    brightness is learnt too (0.05 to 0.1 is usual).  `zero_terminal_snr` lets the noise levels end in noise
    alone, as sampling begins (Lin et al., arXiv 2305.08891): for models of v or x0.

    `epsilon` makes the run private: its weights keep (epsilon, `delta`) differential privacy for every
    training picture (`training.private`); `clip` is then the length of one picture's gradient.
    """

    caption_dropout: float = 0.1
    weighting: Literal["uniform", "min_snr"] = "min_snr"
    gamma: float = 5.0
    noise_levels: Literal["uniform", "logit_normal", "log_normal"] = "uniform"
    noise_shift: float = 1.0
    offset_noise: float = 0.0
    zero_terminal_snr: bool = False
    train_text_encoder: bool = True
    rewording: float = 0.0
    sample_prompts: tuple[str, ...] = ()
    epsilon: float | None = None
    delta: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_shares(self, "caption_dropout", "rewording")
        if self.epsilon is not None and not self.epsilon > 0:
            raise InputError(f"Training option epsilon is {self.epsilon}; give a value above 0, such as 8.")
        if not 0 < self.delta < 1:
            raise InputError(f"Training option delta is {self.delta}; give a chance such as 1e-5.")
        if not self.noise_shift > 0:
            raise InputError(f"Training option noise_shift is {self.noise_shift}; give a value above 0.")
        if not 0 <= self.offset_noise <= 1:
            raise InputError(f"Training option offset_noise is {self.offset_noise}; give 0 to 1.")
        if self.zero_terminal_snr and (self.weighting, self.noise_levels) != ("uniform", "uniform"):
            raise InputError(
                "Training option zero_terminal_snr teaches what to make of noise alone, to which only "
                "weighting=uniform gives weight and only noise_levels=uniform comes; set both."
            )


@dataclass(frozen=True)
class TextTraining(TrainConfig):
    """The text encoder alone, before the diffusion model: what will the picture of this caption look like?

    Its last tokens, which are padding in all but the longest captions, each foretell one cell of the latents
    (`UNetConfig.outline_cells`).  The answer with the least squared error is the mean of all pictures of
    such a caption, which is all that a denoiser can know in pure noise; taught here it costs a tenth of what
    it costs taught through the U-Net, which afterwards sees it beside its input.

    `rewording` is the share of captions put in other words (`data.rewording`), so that what people write is
    understood where no caption says it so.
    """

    caption_dropout: float = 0.05
    rewording: float = 0.0
    sample_prompts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        self._without_snapshots("a text encoder, which is written with a part of the U-Net")
        self._only_squares("a text encoder, which foretells squares")
        _check_shares(self, "caption_dropout", "rewording")


def _check_shares(config: TrainConfig, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise InputError(f"Training option {name} is {getattr(config, name)}; give a share from 0 to 1.")


@dataclass(frozen=True)
class PixelTraining(TrainConfig):
    """A denoiser of pictures, on crops of `crop` pixels a side.

    A share `fine_share` of the crops gets noise drawn evenly from 0 to `fine_sigma` (in [-1, 1]: 75 of 255 is
    0.588), which is what pictures are denoised of; the rest, evenly in its logarithm over all the levels of
    the model, which is what sampling a posterior passes through.  A share `grey_share` is made grey.
    """

    crop: int = 96
    fine_share: float = 0.65
    fine_sigma: float = 0.588
    grey_share: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._only_squares("a denoiser of photographs, which is trained on square crops")
        for name in ("fine_share", "grey_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(
                    f"Training option {name} is {getattr(self, name)}; give a share from 0 to 1."
                )
        if not self.fine_sigma > 0:
            raise InputError(f"Training option fine_sigma is {self.fine_sigma}; give a value above 0.")


Config = TypeVar("Config", bound=TrainConfig)


def override(config: Config, assignments: Sequence[str]) -> Config:
    """Apply `field=value` assignments (`balance.emoji=2` sets one entry of a mapping).

    Raises InputError naming the nearest field when a name is unknown, or the expected type
    when a value does not parse.
    """
    kinds = typing.get_type_hints(type(config))
    changes: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        name, _, entry = name.strip().partition(".")
        if not equals:
            raise InputError(f"Training option {assignment!r} has no value; write it as field=value.")
        if name not in kinds:
            near = difflib.get_close_matches(name, kinds, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; the options are {', '.join(kinds)}."
            raise InputError(f"There is no training option {name!r}{hint}")
        if entry:
            mapping = dict(changes.get(name, getattr(config, name)))
            mapping[entry] = _parse(name, text, float)
            changes[name] = mapping
        else:
            changes[name] = _parse(name, text, kinds[name])
    return dataclasses.replace(config, **changes)


def _parse(name: str, text: str, kind: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        if text not in arguments:
            raise InputError(f"Training option {name} is {text!r}; choose one of {', '.join(arguments)}.")
        return text
    if origin is types.UnionType:
        if text.lower() == "none":
            return None
        kind = next(argument for argument in arguments if argument is not type(None))
    if origin is tuple:
        return tuple(part.strip() for part in text.split(";") if part.strip())
    if kind is bool:
        if text.lower() not in {"true", "false"}:
            raise InputError(f"Training option {name} is {text!r}; give true or false.")
        return text.lower() == "true"
    try:
        return kind(text)
    except (TypeError, ValueError):
        wanted = {int: "a whole number", float: "a number"}.get(kind, "name.key=number")
        raise InputError(f"Training option {name} is {text!r}; give {wanted}.") from None


def to_json(config: TrainConfig) -> str:
    """The configuration as canonical JSON, so that two runs compare field by field."""
    return json.dumps(dataclasses.asdict(config), sort_keys=True)


def differences(config: TrainConfig, stored: str) -> list[str]:
    """Names of the fields in which `config` differs from the JSON of another run.

    Fields that came after that run had their defaults.
    """
    mine = json.loads(to_json(config))
    defaults = {
        entry.name: entry.default if entry.default_factory is dataclasses.MISSING else entry.default_factory()
        for entry in dataclasses.fields(config)
    }
    theirs = json.loads(json.dumps(defaults)) | json.loads(stored)
    return sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))
