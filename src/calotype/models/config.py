"""What a model is, as data: enough to build it, written as JSON into every checkpoint."""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
import typing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from calotype.conditioning.config import Syntax, TextConfig
from calotype.conditioning.sizes import SizeConfig
from calotype.errors import CheckpointError, InputError, is_text, shown
from calotype.networks.config import AutoencoderConfig, UNetConfig

if TYPE_CHECKING:
    from calotype.conditioning.tokenizer import Tokenizer
    from calotype.diffusion.schedule import FlowSchedule, NoiseSchedule

Config = TypeVar("Config")

MOST_LEVELS = 100_000  # noise levels of a schedule; 1000 are usual


@dataclass(frozen=True)
class ScheduleConfig:
    """The noise levels of the training.

    kind   linear, scaled_linear (betas; Stable Diffusion's is scaled_linear), cosine, or flow
    shift  flow only: time shifted towards noise (SD3)
    """

    kind: Literal["linear", "scaled_linear", "cosine", "flow"]
    steps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    zero_terminal_snr: bool = False
    shift: float = 1.0

    def __post_init__(self) -> None:
        if not 2 <= self.steps <= MOST_LEVELS:
            raise InputError(f"ScheduleConfig.steps is {self.steps:.6g}; give 2 to {MOST_LEVELS}.")
        for name in ("beta_start", "beta_end"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(
                    f"ScheduleConfig.{name} is {getattr(self, name):.6g}; give one between 0 and 1."
                )

    def build(self) -> NoiseSchedule | FlowSchedule:
        """The schedule itself; InputError where the numbers make none."""
        from calotype.diffusion.schedule import FlowSchedule, NoiseSchedule

        if self.kind == "flow":
            return FlowSchedule(self.shift, self.steps)
        if self.kind == "cosine":
            schedule = NoiseSchedule.cosine(self.steps)
        elif self.kind == "linear":
            schedule = NoiseSchedule.linear(self.steps, self.beta_start, self.beta_end)
        else:
            schedule = NoiseSchedule.scaled_linear(self.steps, self.beta_start, self.beta_end)
        return schedule.zero_terminal_snr() if self.zero_terminal_snr else schedule


@dataclass(frozen=True)
class Defaults:
    """What a request takes where it names nothing, and what it cannot name.

    prompt_syntax  plain for a model trained on captions as they stand, a1111 for the models whose prompts
                   people write with weights
    offset         added to every step of the leading grid (Stable Diffusion's `steps_offset` is 1)
    ends_at_first  DDIM and PLMS end at the schedule's first level instead of 0 (`set_alpha_to_one` false)
    """

    steps: int = 20
    guidance: float = 5.0
    sampler: str = "dpmpp_2m"
    grid: str = "trailing"
    prompt_syntax: Syntax = "plain"
    offset: int = 0
    ends_at_first: bool = False


@dataclass(frozen=True)
class LowResConfig:
    """An upscaler's second schedule: the noise its small picture is given before it is looked at.

    most  the highest level it was trained with, counted in the schedule's steps
    """

    schedule: ScheduleConfig
    most: int = 350


@dataclass(frozen=True)
class ModelConfig:
    """One model whole.

    about             one line for `calotype models`
    size              pixels a side of the pictures it was trained on
    autoencoder       None for a model that denoises pixels
    text              the text towers; none for a model without text
    parameterization  what the U-Net puts out: eps, x0, v, flow or edm
    sigma_data        edm only: the standard deviation of the data
    sizes             SDXL's numbers about the picture, which join the pooled text in the vector
    zero_negative     no negative prompt is a condition of zeros (SDXL base), not that of the empty text
    low_res           of a model that enlarges a picture (the x4 upscaler): how that picture is noised
    classes           names of the classes that are drawn instead of texts; the U-Net has one label more, for
                      none of them
    """

    name: str
    about: str
    size: int
    autoencoder: AutoencoderConfig | None
    text: tuple[TextConfig, ...]
    unet: UNetConfig
    parameterization: Literal["eps", "x0", "v", "flow", "edm"]
    schedule: ScheduleConfig
    defaults: Defaults = field(default_factory=Defaults)
    sigma_data: float = 0.5
    sizes: SizeConfig | None = None
    zero_negative: bool = False
    low_res: LowResConfig | None = None
    classes: tuple[str, ...] = ()

    def of_classes(self, classes: tuple[str, ...]) -> ModelConfig:
        """The same model drawing classes instead of texts."""
        unet = dataclasses.replace(
            self.unet, context_width=0, vector_width=None, outline_cells=0, classes=len(classes) + 1
        )
        return dataclasses.replace(self, text=(), unet=unet, classes=classes)

    def label_of(self, text: str) -> int:
        """The label of a class by its name or its number; "" is none of them.

        InputError for anything else, with the nearest name.
        """
        name = text.strip().lower()
        names = [known.lower() for known in self.classes]
        if not name:
            return len(names)
        if name in names:
            return names.index(name)
        if name.isdecimal() and int(name) < len(names):
            return int(name)
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}? All of them: " if near else "give one of "
        raise InputError(
            f"The model {self.name} draws classes and knows no {text!r}; {hint}{', '.join(self.classes)}."
        )

    @property
    def factor(self) -> int:
        """Picture pixels per latent pixel along one side: what a picture's sides must be multiples of."""
        return 1 if self.autoencoder is None else self.autoencoder.factor

    def fitted_to(self, tokenizer: Tokenizer) -> ModelConfig:
        """The same model with every text tower's vocabulary, context and end token those of `tokenizer`."""
        towers = tuple(
            dataclasses.replace(
                tower,
                clip=dataclasses.replace(
                    tower.clip,
                    vocabulary=len(tokenizer),
                    context_length=tokenizer.context_length,
                    end_token=tokenizer.end,
                ),
            )
            for tower in self.text
        )
        return dataclasses.replace(self, text=towers)

    def to_json(self) -> str:
        """Every field, nested as the dataclasses are."""
        return written(self)

    @classmethod
    def from_json(cls, text: str) -> ModelConfig:
        """The inverse of `to_json`.

        A field may be absent only if it has a default; CheckpointError names what is missing, unknown or
        of the wrong type.
        """
        return parsed(cls, text)


def written(config: Any) -> str:
    """A config dataclass as a file of ours holds it: JSON of every field, nested as the dataclasses are."""
    return json.dumps(dataclasses.asdict(config), ensure_ascii=False)


def parsed(kind: type[Config], text: str) -> Config:
    """The inverse of `written`; CheckpointError names what is missing, unknown or of the wrong type."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"The model's config is not JSON ({error}); the file is damaged or not Calotype's."
        ) from None
    decoded = decode(kind, value, "config")
    assert isinstance(decoded, kind)
    return decoded


def decode(kind: Any, value: Any, where: str) -> Any:
    """The value as type `kind`: dataclasses from dicts, tuples from lists, everything checked."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return _decode_fields(kind, value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(decode(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is types.UnionType:
        if value is None and types.NoneType in arguments:
            return None
        return decode(next(a for a in arguments if a is not types.NoneType), value, where)
    if origin is Literal and value in arguments:
        return value
    if kind is float and type(value) is int and value.bit_length() < 1024:  # the largest float
        return float(value)
    if isinstance(kind, type) and type(value) is kind and not (kind is str and not is_text(str(value))):
        return value
    expected = f"one of {', '.join(map(repr, arguments))}" if origin is Literal else _name(kind)
    found = repr(value)
    found = found if len(found) <= 80 else f"{found[:77]}..."
    raise CheckpointError(f"{where} is {found}, but should be {expected}; the file needs a newer Calotype.")


def _name(kind: Any) -> str:
    if dataclasses.is_dataclass(kind) or typing.get_origin(kind) is tuple:
        return "an object" if dataclasses.is_dataclass(kind) else "a list"
    return {int: "a whole number", float: "a number", bool: "true or false"}.get(kind, "a text")


def _decode_fields(kind: Any, value: dict[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(kind)
    known = {entry.name: entry for entry in dataclasses.fields(kind)}
    unknown = sorted(value.keys() - known.keys())
    if unknown:
        raise CheckpointError(
            f"{where} has the unknown field {shown(', '.join(unknown))}; the file needs a newer Calotype."
        )
    missing = [
        name
        for name, entry in known.items()
        if name not in value
        and entry.default is dataclasses.MISSING
        and entry.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise CheckpointError(f"{where} lacks the field {', '.join(missing)}; the file is damaged.")
    return kind(**{name: decode(hints[name], item, f"{where}.{name}") for name, item in value.items()})
