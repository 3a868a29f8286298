"""The last step of every picture: what its owner's `Safety` makes of it."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from calotype.checkpoints import native, shelf
from calotype.errors import CheckpointError
from calotype.models.latent_diffusion import LatentDiffusion
from calotype.models.pixel_diffusion import PixelDiffusion
from calotype.safety import content, watermark
from calotype.safety.content import Verdict
from calotype.safety.policy import Safety
from calotype.tasks.generate import Event, Notice, generate
from calotype.tasks.photo_file import Photo
from calotype.tasks.picture import Picture
from calotype.tasks.posterior import Restored
from calotype.tasks.request import Request, ResolvedRequest
from calotype.tasks.restoration import RestoredPicture, shown

UNCHECKED = (
    "The content check, which is on for models that do not come with Calotype, is not installed, and the "
    "pictures are not checked; install it with pip install 'calotype[safety]', or turn it off with "
    "--content-check off or CALOTYPE_CONTENT_CHECK=off."
)


def guarded(model: LatentDiffusion, request: Request, safety: Safety) -> Iterator[Event]:
    """The events of `generate`, its pictures finished.

    Raises BlockedPromptError, before any work, where the prompt holds a word that is refused.
    """
    asked = request.resolved(model.config)
    safety.refuse_words(wanted(asked))
    checked = safety.checks(is_shipped(model, asked))
    if checked and safety.content_check == "auto" and not content.installed():
        yield Notice(UNCHECKED)
    for event in generate(model, asked):
        yield finished(event, safety, checked) if isinstance(event, Picture) else event


def finished(picture: Picture, safety: Safety, checked: bool) -> Picture:
    """The picture as it may be shown and kept.  One that is withheld is grey, its latents zero."""
    picture = replace(picture, metadata=safety.metadata, signer=safety.signer)
    if checked:
        verdict = safety.judge(picture.image)
        picture = replace(picture, record=replace(picture.record, content=verdict))
        if verdict.decision == "withheld":
            blank, nothing = content.blank(picture.image), picture.latents.new_zeros(picture.latents.shape)
            return replace(picture, image=blank, latents=nothing)
    return marked(picture) if safety.watermark else picture


def marked(picture: Picture) -> Picture:
    """The picture with the invisible mark, and a record that says so; its latents are as they were."""
    record = replace(picture.record, watermark=watermark.NAME)
    return replace(picture, image=watermark.embed(picture.image), record=record)


def finished_restoration(
    found: Iterable[RestoredPicture], model: PixelDiffusion, safety: Safety
) -> Iterator[RestoredPicture]:
    """The pictures of a restoration as they may be shown and kept.

    Where one is withheld, the map of how the samples differ is grey too: it shows the same outlines.
    """
    checked = safety.checks(model.weights_hash in _shipped())
    worst: Verdict | None = None
    for picture in found:
        picture = replace(picture, metadata=safety.metadata, signer=safety.signer)
        if checked:
            verdict = safety.judge(picture.image) if picture.scale is None else worst
            if worst is None or (verdict is not None and verdict.decision == "withheld"):
                worst = verdict
            picture = replace(picture, content=verdict)
            if verdict is not None and verdict.decision == "withheld":
                yield replace(picture, image=content.blank(picture.image))
                continue
        if safety.watermark:
            record = {**picture.record, "watermark": watermark.NAME}
            picture = replace(picture, image=watermark.embed(picture.image), record=record)
        yield picture


def finished_photo(
    found: Restored, model: PixelDiffusion, safety: Safety
) -> tuple[Restored, tuple[Verdict, ...]]:
    """What a restoration made as its files may hold it, and what was said of the result and each sample.

    Where one is withheld, of how the samples differ nothing is left: it shows the same outlines.
    """
    photos, deviation = [found.photo, *found.samples], found.deviation
    verdicts: tuple[Verdict, ...] = ()
    if safety.checks(model.weights_hash in _shipped()):
        verdicts = tuple(safety.judge(shown(photo)) for photo in photos)
    for place, photo in enumerate(photos):
        if verdicts and verdicts[place].decision == "withheld":
            grey = photo.with_pixels(np.full_like(photo.pixels, 128 / 255))
            photos[place] = replace(grey, alpha=None, exif=None)
            deviation = None if deviation is None else np.zeros_like(deviation)
        elif safety.watermark:
            photos[place] = _marked_photo(photo)
    return replace(found, photo=photos[0], samples=tuple(photos[1:]), deviation=deviation), verdicts


def _marked_photo(photo: Photo) -> Photo:
    """With the mark that it gets in RGB of 8 bits; grey stays grey, and 16 bits keep the lower eight."""
    image = shown(photo)
    change = np.asarray(watermark.embed(image), np.float32) - np.asarray(image, np.float32)  # (H W 3)
    change = change[..., : len(photo.pixels)].transpose(2, 0, 1)  # (H W 3) -> (C H W)
    return photo.with_pixels((photo.pixels + change / 255).clip(0, 1))


def is_shipped(model: LatentDiffusion, request: ResolvedRequest) -> bool:
    """Whether nothing but weights that come with Calotype draws the picture."""
    added = (*request.loras, *request.embeddings, *request.controls)
    weights = {model.weights_hash, request.refiner_hash or model.weights_hash}
    return not added and weights <= _shipped()


def wanted(request: ResolvedRequest) -> list[str]:
    """The texts that say what to draw, as they are written and as they are read.

    The negative prompt, in which words stand that are to be kept out, is one of them only where it pulls:
    below guidance 1, and where a weight in it is below 0.
    """
    *texts, negative = request.texts
    read = request.parsed(negative)
    pulls = read is not None and any(piece.weight < 0 for part in read.sections for piece in part)
    if request.guidance < 1 or pulls:
        texts.append(negative)
    for text in list(texts):
        parsed = request.parsed(text)
        if parsed is not None:
            texts.append("".join(piece.text for part in parsed.sections for piece in part))
    return texts


@functools.cache
def _shipped() -> frozenset[str]:
    hashes = set()
    for path in shelf.shipped().values():
        try:
            hashes.add(native.describe(path).weights_hash)
        except CheckpointError:  # a damaged file draws nothing
            continue
    return frozenset(hashes)
