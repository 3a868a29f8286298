"""`calotype.evaluate`: figures with the protocol that made them, in one JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from calotype import durable
from calotype.checkpoints import native
from calotype.data.folder import PictureFolder, Record
from calotype.errors import InputError, OutputError
from calotype.evaluation.content import Draw, stack
from calotype.evaluation.content import content as content_figures
from calotype.evaluation.denoising import denoising_loss
from calotype.evaluation.given import Clip
from calotype.evaluation.protocol import engine, pixels_sha256
from calotype.evaluation.reconstruction import reconstruction
from calotype.evaluation.samples import sample_figures
from calotype.evaluation.teaching import Teaching, check_classes, classes_of
from calotype.networks.autoencoder import Autoencoder

RESIZE = "shorter side by Lanczos, the middle square"


def evaluate(
    model: str | Path,
    dataset: str | Path | PictureFolder,
    *,
    split: str = "test",
    kinds: Sequence[str] = (),
    count: int = 1000,
    strict: bool = False,
    out: str | Path | None = None,
    draw: Draw | None = None,
    content: bool = False,
    samples: int = 0,
    clip: str | Path | None = None,
    labels: bool = False,
    alignment: bool = False,
) -> dict[str, Any]:
    """Measure a Calotype checkpoint on at most `count` pictures of a folder's `split`.

    `kinds` keeps the pictures whose record names one of these kinds.  Gives "protocol" (what was measured
    on what), "reconstruction" (PSNR in dB and SSIM of the autoencoder, where there is one)
    and "denoising" (the loss at low, middle and high noise, where there is a denoiser).
    With `draw`, a function (prompts, seed) -> pictures that uses the same model, also, if `content`, what its
    pictures show (see `evaluation.content`), against the folder's training split; and "samples", figures on
    so many pictures drawn from the measured pictures' captions, against these (see `evaluation.samples`).
    `clip`, a folder of transformers' with a CLIP, adds "clip_score" to these (needs the extra clip).
    Networks that the folder's training split teaches here add two sections on the same pictures: `labels`,
    of a model of classes, "labels" (`evaluation.recognition`), `alignment` "alignment" (`.alignment`).
    `out` writes the same as JSON.  Raises InputError, DataError, CheckpointError or OutputError.
    """
    if count < 1:
        raise InputError(f"count is {count}; measure at least 1 picture.")
    if (content or samples) and draw is None:
        raise InputError("Figures on drawn pictures need `draw`, a function that draws them.")
    if clip is not None and not samples:
        raise InputError("CLIPScore is of drawn pictures; say how many to draw with samples.")
    if (labels or alignment) and not samples:
        raise InputError("Labels and alignment are of drawn pictures; say how many to draw with samples.")
    if (labels or alignment) and split == "train":
        raise InputError(
            "Labels and alignment are judged by networks that the training split teaches; measure on another."
        )
    judge = Clip(Path(clip)) if clip is not None else None
    info = native.describe(model)
    size = info.config.size
    folder = dataset if isinstance(dataset, PictureFolder) else PictureFolder(dataset, size, split, strict)
    if kinds:
        folder.records = of_kinds(folder.records, kinds, folder.path)
    folder.records = thinned(folder.records, count)
    pictures = folder.load_all(size)
    if labels:
        check_classes(info.config, folder)
    captions = captions_of(folder)
    if (
        classes_of(info.config) == folder.classes != ()
    ):  # a caption says "t shirt" where the class is "t-shirt"
        captions = ["" if r.label is None else folder.classes[r.label] for r in folder.records]
    found: dict[str, Any] = {
        "protocol": {
            "model": info.config.name,
            "weights_sha256": info.weights_hash,
            **engine(),
            "data_sha256": folder.content_hash(),
            "reference_sha256": pixels_sha256(pictures),
            "split": split,
            "kinds": list(kinds) or "all",
            "pictures": len(pictures),
            "skipped_files": len(folder.skipped),
            "size": size,
            "resize": RESIZE,
            "seeds": "noise of picture i, and drawn picture i: i",
        }
    }
    if info.parameters.get("denoiser"):
        whole = native.load(model)
        found["denoising"] = denoising_loss(whole, pictures, captions)
        autoencoder = whole.autoencoder
    else:
        autoencoder = native.load_autoencoder(model)
    if isinstance(autoencoder, Autoencoder):
        found["reconstruction"] = reconstruction(autoencoder, pictures)
    if draw is not None and samples:
        rows = spread(samples, len(captions))
        asked = [captions[row] for row in rows]
        drawn = stack(draw(asked, 0))
        found["samples"] = sample_figures(drawn, asked, pictures, captions, judge)
        if labels or alignment:
            training = PictureFolder(folder.path, size, "train")
            if kinds:
                training.records = of_kinds(training.records, kinds, folder.path)
            teaching = Teaching(training, size)
        if labels:
            truth = torch.tensor([record.label for record in folder.records])
            found["labels"] = teaching.labels(drawn, truth[rows], pictures, truth)
        if alignment:
            found["alignment"] = teaching.alignment(drawn, asked, pictures, captions)
    if draw is not None and content:
        training = PictureFolder(folder.path, size, "train")
        found["content"] = content_figures(draw, training, pictures, captions)
    if out is not None:
        write(Path(out), found)
    return found


def thinned(records: Sequence[Record], count: int) -> list[Record]:
    """At most `count` of the records, evenly through their order."""
    return list(records[:: max(1, len(records) // count)][:count])


def spread(count: int, among: int) -> list[int]:
    """`count` rows evenly through `among`, each of them again and again where there are fewer."""
    return [i * among // count if count < among else i % among for i in range(count)]


def of_kinds(records: Sequence[Record], kinds: Sequence[str], folder: Path) -> list[Record]:
    """The records of some kinds; InputError for a kind that none of them has."""
    known = {str(record.meta.get("kind", "")) for record in records} - {""}
    for kind in kinds:
        if kind not in known:
            listed = ", ".join(sorted(known)) or "none at all"
            raise InputError(f"No picture of {folder} is of the kind {kind!r}; this split has {listed}.")
    return [record for record in records if record.meta.get("kind") in kinds]


def captions_of(folder: PictureFolder) -> list[str]:
    """The plainest caption of every record; the empty one where it has none."""
    return [record.captions[0] if record.captions else "" for record in folder.records]


def write(path: Path, found: dict[str, Any]) -> None:
    """Figures as JSON, under a temporary name first; OutputError where they cannot be written."""
    partial = path.with_name(path.name + ".tmp")
    try:
        partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        durable.rename(partial, path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror}); choose another place.") from error
