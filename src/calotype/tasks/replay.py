"""Making a picture again from what its file says, and comparing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image

from calotype.errors import InputError
from calotype.models.latent_diffusion import LatentDiffusion
from calotype.safety import watermark
from calotype.tasks.finish import marked
from calotype.tasks.generate import Event, generate
from calotype.tasks.picture import Picture, Record


@dataclass(frozen=True)
class Comparison:
    """Differences of the pixels' values (0 to 255) between a picture and its replay."""

    again: Picture
    largest: int
    mean: float

    @property
    def identical(self) -> bool:
        return self.largest == 0


def replay(
    model: LatentDiffusion, path: str | Path, image: PIL.Image.Image, record: Record
) -> Iterator[Event | Comparison]:
    """The events of making it again, then the comparison.

    Raises InputError where the model's weights are not those of the picture, the file has another size than
    its request, or the content check withheld it.
    """
    if record.content is not None and record.content.decision == "withheld":
        raise InputError(
            f"{path} is grey because the content check withheld what was drawn; draw it anew from its record "
            "(`calotype inspect`) if you mean to see it."
        )
    if record.watermark not in (None, watermark.NAME):
        raise InputError(f"{path} has a mark, {record.watermark}, that this version of Calotype cannot make.")
    if model.weights_hash != record.weights_hash:
        raise InputError(
            f"{path} was made with other weights ({record.model_name}, {record.weights_hash[:12]}) than "
            f"these ({model.config.name}, {model.weights_hash[:12]}); give the right file with --model."
        )
    if image.size != (record.request.width, record.request.height):
        raise InputError(
            f"{path} has been resized since it was made; replay needs the file as it was written."
        )
    for event in generate(model, record.request):
        yield event
        if isinstance(event, Picture):
            again = event if record.watermark is None else marked(event)
            difference = np.abs(np.asarray(again.image).astype(int) - np.asarray(image).astype(int))
            yield Comparison(again, int(difference.max()), float(difference.mean()))
