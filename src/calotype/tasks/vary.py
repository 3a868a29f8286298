"""Variations: the request of a picture, with its noise turned a little towards others'."""

from __future__ import annotations

from pathlib import Path

from calotype.errors import InputError
from calotype.tasks.picture import Picture, read
from calotype.tasks.request import Request


def variations(
    picture: str | Path | Picture,
    amount: float,
    count: int,
    seed: int | None,
    prompt: str | None,
    model: str | None = None,
) -> Request:
    """The request for `count` variations of a picture; `Studio.vary` says how.

    `model` is used instead of the one the picture names.  Raises InputError for a picture that is itself a
    variation, or that needs a prompt.
    """
    if isinstance(picture, Picture):
        made, name = picture.record.request, "The picture"
    elif prompt is not None:
        return Request(
            prompts=prompt,
            image=picture,
            strength=amount,
            count=count,
            seed=seed,
            **({} if model is None else {"model": model}),
        )
    else:
        try:
            made, name = read(picture)[1].request, str(picture)
        except InputError as error:
            raise InputError(f"{error} To vary any other picture, say with a prompt what it shows.") from None
    if made.vary is not None:
        raise InputError(
            f"{name} is itself a variation; vary the picture of its seed {made.seed}, by generate with "
            "vary and vary_seed."
        )
    fields = {"vary": amount, "vary_seed": seed, "count": count, "model": model or made.model}
    return Request(**{**dict(made), **fields})
