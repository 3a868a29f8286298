"""The part of a `Request` that names pictures which guide the drawing: ControlNets', and one to enlarge."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from calotype.checkpoints import controlnet
from calotype.errors import InputError
from calotype.models.config import ModelConfig
from calotype.tasks.source import Source

MOST_CONTROLS = 8
USUAL_LEVEL = 20
"""The noise level of a picture to enlarge where none is given: that of the x4 upscaler's own pipelines."""


class Control(BaseModel):
    """One ControlNet and what it looks at.

    net         its file, or diffusers folder
    picture     what it was trained to look at, edges, depth, a pose …: a path or, in Python, a Pillow picture
    scale       how much of what it says is taken, usually 0 to 1
    start, end  the part of the sampler's steps in which it speaks, 0 to 1
    guess       it speaks to the prompt's half of the guidance only, and more softly to the finer maps
    net_hash    of its weights; None until `settled`
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    net: str
    picture: Source
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0
    guess: bool = False
    net_hash: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Control:
        if not -math.inf < self.scale < math.inf:
            raise InputError(f"The control scale is {self.scale}; give a number, usually from 0 to 1.")
        if not 0 <= self.start < self.end <= 1:
            raise InputError(
                f"The control lasts from {self.start:g} to {self.end:g}; give two parts of the way, 0 to 1, "
                "the lower first."
            )
        return self

    def settled(self, config: ModelConfig) -> Control:
        """The same with its hashes.

        Raises InputError where a file is missing or another than the hash says, CheckpointError where the
        ControlNet does not fit the model.
        """
        found = controlnet.recognise(Path(self.net).expanduser())
        found.check(config)
        its = found.piece.fingerprint()
        if self.net_hash not in (None, its):
            raise InputError(
                f"{self.net} is not the ControlNet this picture was made with: the hash of its weights "
                f"begins with {its[:12]}, not {(self.net_hash or '')[:12]}."
            )
        return self.model_copy(update={"picture": self.picture.resolved(), "net_hash": its})

    def speaks(self, step: int, steps: int) -> bool:
        """Whether it does in step `step`, from 0, of `steps`."""
        return step / steps >= self.start and (step + 1) / steps <= self.end


class Guiding(BaseModel):
    """Fields of every `Request`.

    controls     ControlNets, whose words are summed
    image        the picture that an upscaler enlarges
    noise_level  how much noise that picture is given first, 0 to the most the model knows; more invents more
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    controls: tuple[Control, ...] = ()
    image: Source | None = None
    noise_level: int | None = None

    @model_validator(mode="after")
    def _check_guiding(self) -> Guiding:
        if len(self.controls) > MOST_CONTROLS:
            raise InputError(
                f"There are {len(self.controls)} ControlNets; give at most {MOST_CONTROLS} at once."
            )
        return self

    def guided(self, config: ModelConfig, width: int | None, height: int | None) -> dict[str, Any]:
        """The fields that depend on the model and on files: hashes, the noise level, an upscaler's size.

        width, height: what the person asked for.

        Raises InputError and CheckpointError where the model cannot be so guided.
        """
        fields: dict[str, Any] = {"controls": tuple(control.settled(config) for control in self.controls)}
        if config.low_res is None:
            if self.noise_level is not None:
                raise InputError(
                    f"The model {config.name} does not enlarge pictures, so that it takes no noise level; "
                    "leave it out, or use the x4 upscaler."
                )
            return fields
        if self.image is None:
            raise InputError(
                f"The model {config.name} enlarges a picture and draws none from words alone; name the "
                "picture with --image."
            )
        most = most_noise(config)
        level = min(USUAL_LEVEL, most) if self.noise_level is None else self.noise_level
        if not 0 <= level <= most:
            raise InputError(f"noise_level is {level}; give a whole number from 0 to {most}.")
        picture = self.image.resolved()
        small = picture.size()
        large = (small[0] * config.factor, small[1] * config.factor)
        if (width or large[0], height or large[1]) != large:
            raise InputError(
                f"The model {config.name} makes {large[0]}x{large[1]} pixels of the picture, "
                f"{config.factor} times its {small[0]}x{small[1]}; leave the size out."
            )
        return fields | {"image": picture, "noise_level": level, "width": large[0], "height": large[1]}


def most_noise(config: ModelConfig) -> int:
    """The highest noise level an upscaler knows."""
    assert config.low_res is not None
    assert config.unet.classes is not None
    return min(config.low_res.most, config.unet.classes - 1, config.low_res.schedule.steps - 1)
