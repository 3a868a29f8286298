"""What a person asks for: the same `Request` from the command line, from Python and from JSON."""

from __future__ import annotations

import difflib
import math
import secrets
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from calotype.conditioning.config import SYNTAXES
from calotype.conditioning.prompt import Prompt, parse
from calotype.diffusion.grids import GRIDS
from calotype.diffusion.known_noise import NOISES
from calotype.diffusion.samplers import SAMPLERS
from calotype.errors import InputError, is_text
from calotype.models.config import ModelConfig
from calotype.tasks.additions import (
    EmbeddingUse,
    LoraUse,
    located_embeddings,
    located_loras,
    used_loras,
)
from calotype.tasks.editing import LONGEST_SIDE, Editing, key_frame
from calotype.tasks.guiding import Guiding
from calotype.tasks.refining import Refining

LONGEST_PROMPT = 4000  # characters, some 700 English words
MOST_STEPS = 1000
MOST_PICTURES = 10_000
LAST_SEED = 2**64 - 1


class Apg(BaseModel):
    """Adaptive projected guidance (arXiv 2410.02416): the fields of `diffusion.guidance.Apg`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parallel: float = 0.0
    threshold: float | None = None
    momentum: float = -0.5


class Request(Editing, Guiding, Refining):
    """Pictures to make.  Every wrong field is an InputError of one sentence, also from JSON.

    A field that is None is the model's own default, or for the seed a fresh one; `resolved` fills them in,
    and that is what a picture's metadata keeps.

    prompts           one or more texts; one plain text is accepted too
    negative          what to steer away from, for all prompts
    prompt_syntax     how texts are read, a name in `SYNTAXES`
    clip_skip         the text layer to read: 1 the last, 2 the one before …; None the model's own
    model             a shipped name or a path, as `calotype models` lists them
    steps             sampler steps, 1 to 1000
    guidance          classifier-free scale, 0 or more; 1 is none and costs half
    sampler, grid     names in `SAMPLERS` and `GRIDS`
    sampler_options   what that sampler takes besides: eta, s_noise, order
    seed              of the first picture; picture i (prompt by prompt, then count) has seed + i
    noise             whose random numbers: a name in `NOISES`
    count             pictures of each prompt
    width, height     pixels
    rescale           0 to 1, guidance rescaling (arXiv 2305.08891)
    interval          (low, high): guide only at low < sigma <= high (arXiv 2404.07724)
    apg               project the guidance
    loras             files with weights, as "flat.safetensors:0.8"; in a prompt that names one, its weight
    lora_live         LoRAs at work beside the weights instead of added to them: less memory, slower steps
    embeddings        textual inversions, as "easy.pt" or "cat.safetensors:mycat"

    and the fields of `Editing`, `Guiding` and `Refining`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompts: tuple[str, ...]
    negative: str = ""
    prompt_syntax: str | None = None
    clip_skip: int | None = None
    model: str = "icons"
    steps: int | None = None
    guidance: float | None = None
    sampler: str | None = None
    grid: str | None = None
    sampler_options: dict[str, float] = Field(default_factory=dict)
    seed: int | None = None
    noise: str = "calotype"
    count: int = 1
    width: int | None = None
    height: int | None = None
    rescale: float = 0.0
    interval: tuple[float, float] | None = None
    apg: Apg | None = None
    loras: tuple[LoraUse, ...] = ()
    lora_live: bool = False
    embeddings: tuple[EmbeddingUse, ...] = ()

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise InputError(sentence(error, Request.model_fields)) from None

    @classmethod
    def from_json(cls, text: str) -> Request:
        """The inverse of `model_dump_json`; InputError where the text is no request."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise InputError(sentence(error, Request.model_fields)) from None

    @field_validator("prompts", "loras", "embeddings", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check(self) -> Request:
        self._check_texts()
        for name, low, high in (("steps", 1, MOST_STEPS), ("count", 1, MOST_PICTURES)):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InputError(f"{name} is {value}; give a whole number from {low} to {high}.")
        if self.clip_skip is not None and self.clip_skip < 1:
            raise InputError(
                f"clip_skip is {self.clip_skip}; give 1 for the last text layer, 2 for the one before."
            )
        if self.guidance is not None and not 0 <= self.guidance < math.inf:
            raise InputError(
                f"guidance is {self.guidance}; give a number of at least 0 (1 is none, 3 to 8 is usual)."
            )
        if not 0 <= self.rescale <= 1:
            raise InputError(f"rescale is {self.rescale}; give a number from 0 to 1.")
        if self.interval is not None and not 0 <= self.interval[0] < self.interval[1]:
            raise InputError(
                f"interval is {self.interval[0]} to {self.interval[1]}; give two levels, the lower first."
            )
        _known("sampler", self.sampler, SAMPLERS)
        _known("grid", self.grid, GRIDS)
        _known("noise", self.noise, NOISES)
        _known("prompt syntax", self.prompt_syntax, SYNTAXES)
        self._check_options()
        self.check_inversion(self.sampler, self.sampler_options)
        self._check_sequence()
        if self.pictures > MOST_PICTURES:
            raise InputError(
                f"The request is for {self.pictures} pictures; ask for at most {MOST_PICTURES} at once."
            )
        if self.seed is not None and not 0 <= self.seed <= LAST_SEED - self.pictures + 1:
            raise InputError(
                f"seed is {self.seed}; give a whole number from 0 to {LAST_SEED - self.pictures + 1} "
                "(2^64 less the number of pictures)."
            )
        for name in ("width", "height"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= LONGEST_SIDE:
                raise InputError(f"{name} is {value}; give a number of pixels from 1 to {LONGEST_SIDE}.")
        return self

    def _check_sequence(self) -> None:
        if self.frames is None:
            return
        if len(self.prompts) < 2 or self.count != 1:
            raise InputError("frames lead from prompt to prompt; give two prompts or more, and a count of 1.")
        if self.frames < len(self.prompts):
            raise InputError(
                f"frames is {self.frames}; give at least as many as there are prompts, {len(self.prompts)}."
            )

    def _check_texts(self) -> None:
        if not self.prompts:
            raise InputError("There is no prompt; say in words what to draw.")
        for prompt in self.prompts:
            if not prompt.strip():
                raise InputError("The prompt is empty; say in words what to draw.")
        for name, text in (
            *(("prompt", prompt) for prompt in self.prompts),
            ("negative prompt", self.negative),
            ("second prompt (toward)", self.toward or ""),
            ("prompt of the image (was)", self.was or ""),
        ):
            if not is_text(text):
                raise InputError(f"The {name} holds bytes or half a letter that are no text; type it again.")
            if len(text) > LONGEST_PROMPT:
                raise InputError(
                    f"The {name} is {len(text)} characters long ({len(text.split())} words); "
                    f"give at most {LONGEST_PROMPT}."
                )

    def _check_options(self) -> None:
        if not self.sampler_options:
            return
        if self.sampler is None:
            raise InputError("sampler_options need a sampler; name the one they are meant for.")
        allowed = SAMPLERS[self.sampler].options
        for name, value in self.sampler_options.items():
            if name not in allowed:
                takes = f"takes {', '.join(allowed)}" if allowed else "takes none"
                raise InputError(f"The sampler {self.sampler} has no option {name!r}; it {takes}.")
            if not 0 <= value < math.inf:
                raise InputError(f"The sampler option {name} is {value}; give a number of at least 0.")

    @property
    def pictures(self) -> int:
        """How many pictures are asked for in all."""
        return len(self.prompts) * self.count if self.frames is None else self.frames

    def resolved(self, config: ModelConfig) -> ResolvedRequest:
        """The same request with nothing left open, for this model.

        Raises InputError where the model cannot make that size or read that prompt, where a file or a
        picture cannot be had, or where the model or a ControlNet cannot be guided as asked.
        """
        settled = self.settled(config, self.width, self.height)
        settled |= self.guided(config, self.width, self.height) | self.refined(config)
        width = config.size if self.width is None else self.width
        height = config.size if self.height is None else self.height
        for name, side in (("width", width), ("height", height)):
            if side % config.factor and self.image is None:  # an image is filled up, and cut again
                below = max(config.factor, side // config.factor * config.factor)
                near = sorted({below, side // config.factor * config.factor + config.factor})
                raise InputError(
                    f"{name} is {side}, but the model {config.name} needs a multiple of {config.factor}; "
                    f"the nearest {'is' if len(near) == 1 else 'are'} {' and '.join(map(str, near))}."
                )
        own = config.defaults
        fresh = {
            "steps": own.steps,
            "guidance": own.guidance,
            "sampler": own.sampler,
            "grid": own.grid,
            "prompt_syntax": own.prompt_syntax,
            "seed": secrets.randbelow(2**32),
        }
        if self.invert is not None:
            fresh["sampler"] = "euler" if self.invert == "euler" else "ddpm"
        if self.vary is not None:
            fresh["vary_seed"] = secrets.randbelow(2**32)
        given = {name: value for name, value in self if value is not None}
        asked = ResolvedRequest(**{**fresh, **given, "width": width, "height": height, **settled})
        asked.check_reading(config)
        return asked.located()


class ResolvedRequest(Request):
    """A request with nothing left open: what is drawn, and what a picture's metadata keeps."""

    steps: int
    guidance: float
    sampler: str
    grid: str
    seed: int
    width: int
    height: int
    prompt_syntax: str = "plain"  # of pictures made before there was another

    def parsed(self, text: str) -> Prompt | None:
        """A prompt's meaning in the a1111 syntax; None in the plain one, where it means its letters."""
        return parse(text) if self.prompt_syntax == "a1111" else None

    def check_reading(self, config: ModelConfig) -> None:
        """InputError where the model has too few text layers, or a prompt asks for what cannot be done."""
        if config.classes:
            if self.frames is not None or self.toward is not None:
                raise InputError(
                    f"The model {config.name} draws classes, between which there is nothing; leave frames "
                    "and toward out."
                )
            for text in self.texts:
                config.label_of(text)
        for tower in config.text:
            layers = tower.clip.layers
            if -tower.layer_at(self.clip_skip) > layers:
                raise InputError(
                    f"clip_skip is {self.clip_skip}; the model {config.name} has {layers} text layers, "
                    f"give 1 to {layers}."
                )
        named = self.parsed(self.negative)
        if named is not None and named.loras:
            raise InputError(
                f"The negative prompt asks for the LoRA {named.loras[0].name!r}, but a LoRA changes the "
                "whole model; name it in the prompt, with a negative weight if it is to steer away."
            )

    def located(self) -> ResolvedRequest:
        """The same with the files of LoRAs and textual inversions found and hashed.

        Raises InputError where one is not found or is another than that of its hash.
        """
        prompts = [found for text in self.texts[:-1] if (found := self.parsed(text)) is not None]
        loras = located_loras(self.loras, prompts)
        return self.model_copy(update={"loras": loras, "embeddings": located_embeddings(self.embeddings)})

    def loras_of(self, text: str) -> tuple[LoraUse, ...]:
        """The LoRAs of a prompt's pictures, with the weights they have there."""
        return used_loras(self.loras, self.parsed(text))

    @property
    def texts(self) -> tuple[str, ...]:
        """Every text the model reads, the negative one last."""
        others = (text for text in (self.toward, self.was) if text is not None)
        return (*self.prompts, *others, self.negative)

    def seed_of(self, index: int) -> int:
        """The seed of picture `index`; the frames of a sequence and the variations of a seed share one."""
        return self.seed + (index if self.frames is None and self.vary is None else 0)

    def vary_seed_of(self, index: int) -> int | None:
        """The seed towards which the noise of picture `index` is turned."""
        return None if self.vary_seed is None else self.vary_seed + index

    def prompt_of(self, index: int) -> str:
        """The prompt of picture `index`: pictures come prompt by prompt."""
        if self.frames is not None:
            return self.prompts[key_frame(index, self.frames, len(self.prompts))[0]]
        return self.prompts[index // self.count]

    def toward_of(self, index: int) -> tuple[str, float] | None:
        """The second prompt of picture `index`, and how far it is mixed in; None for none."""
        if self.frames is None:
            return None if self.toward is None else (self.toward, self.blend)
        first, blend = key_frame(index, self.frames, len(self.prompts))
        return (self.prompts[first + 1], blend) if blend else None

    def alone(self, index: int) -> ResolvedRequest:
        """The request that makes picture `index` and no other."""
        prompt = self.prompt_of(index)
        toward, blend = self.toward_of(index) or (None, 0.0)
        return self.model_copy(
            update={
                "prompts": (prompt,),
                "count": 1,
                "seed": self.seed_of(index),
                "vary_seed": self.vary_seed_of(index),
                "frames": None,
                "toward": toward,
                "blend": blend,
                "loras": self.loras_of(prompt),
            }
        )


def parse_size(text: str) -> tuple[int, int]:
    """ "128" or "128x96" to (width, height); InputError for anything else."""
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) > 2 or not all(part.strip().isdecimal() for part in parts):
        raise InputError(f"size is {text!r}; give pixels as 128 or as WIDTHxHEIGHT, say 128x96.")
    return int(parts[0]), int(parts[-1])


def _known(kind: str, name: str | None, names: Iterable[str]) -> None:
    known = list(names)
    if name is None or name in known:
        return
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? All of them: " if near else "choose one of "
    raise InputError(f"There is no {kind} {name!r}; {hint}{', '.join(known)}.")


def sentence(error: ValidationError, fields: Iterable[str]) -> str:
    """Pydantic's first complaint about a request with those `fields` as one sentence."""
    first = error.errors()[0]
    where = ".".join(str(place) for place in first["loc"]) or "the request"
    if first["type"] == "missing":
        return f"The request has no {where}; give it one."
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(where, list(fields), n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else "the docstring of Request lists what it has."
        return f"A request has no field {where!r}; {hint}"
    return f"{where} is {first['input']!r:.200}; {first['msg'][0].lower()}{first['msg'][1:]}."
