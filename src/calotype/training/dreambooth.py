"""DreamBooth (Ruiz et al. 2022, arXiv 2208.12242): a subject under a name, its class kept what it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from calotype import durable
from calotype.errors import OutputError, TrainingError
from calotype.models.latent_diffusion import LatentDiffusion
from calotype.training.finetune import FineTune, pictures
from calotype.training.folder import write_text
from calotype.training.objective import Objective
from calotype.training.order import step_generator
from calotype.training.prepared import Examples
from calotype.training.tune_config import DreamBoothTraining

AT_ONCE = 4
"""Class pictures drawn in one batch."""
CLASS = "class_"
"""Before the names of what forward is told of the class's pictures."""


class WithPrior(Objective):
    """Another objective's loss of the subject, and `prior_weight` times that of pictures of its class."""

    def __init__(self, config: DreamBoothTraining, inner: FineTune, prior: Examples) -> None:
        super().__init__()
        self.config = config
        self.inner = inner
        self.product = inner.product
        self._prior = prior
        inner.remember(prior)

    def still(self) -> Sequence[nn.Module]:
        return self.inner.still()

    def forward(self, **told: Tensor) -> dict[str, Tensor]:
        """Both sets of arguments of `FineTune.losses`, the class's with `class_` before their names."""
        config = self.config
        assert isinstance(config, DreamBoothTraining)
        own = {name: value for name, value in told.items() if not name.startswith(CLASS)}
        other = {name.removeprefix(CLASS): value for name, value in told.items() if name not in own}
        subject = self.inner.losses(**own).mean()
        if not other:  # held-out pictures of the subject
            return {"loss": subject}
        prior = self.inner.losses(**other).mean()
        parts = {"subject": subject.detach(), "prior": prior.detach()}
        return {"loss": subject + config.prior_weight * prior} | parts

    def batch(self, indices: Tensor, step: int, share: slice) -> dict[str, Tensor]:
        """The subject's pictures, and as many of the class under noise of their own."""
        random = step_generator(self.config.seed, step, "prior")
        drawn = torch.randint(len(self._prior.latents), (len(indices),), generator=random)
        own = self.inner.batch(indices, step, share)
        other = self.inner.arguments(self._prior, drawn, -2 - step, share)
        return own | {CLASS + name: value for name, value in other.items()}

    def validation(self) -> list[dict[str, Tensor]]:
        return self.inner.validation()

    def samples(self) -> Tensor | None:
        return self.inner.samples()

    def kept(self) -> tuple[int, int]:
        return self.inner.kept()

    def export(self, path: Path, recipe: Mapping[str, Any]) -> None:
        self.inner.export(path, recipe)


def class_pictures(
    folder: Path,
    model: LatentDiffusion,
    config: DreamBoothTraining,
    size: int,
    watch: Callable[[str, int, int], None],
) -> Tensor:
    """What the model itself draws for `class_prompt`, seeds from 0: uint8 (N 3 size size).

    Kept in `folder`, so that a run that goes on sees the same pictures, and draws only those that are not
    there.  Raises TrainingError where it holds those of another prompt, model or size, OutputError where it
    cannot be written.
    """
    about = {"prompt": config.class_prompt, "weights": model.weights_hash, "size": size}
    note = folder / "class.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        known = json.loads(note.read_text(encoding="utf-8")) if note.exists() else about
    except (OSError, ValueError) as error:
        raise OutputError(
            f"{folder} cannot hold the class's pictures ({error}); choose another --out."
        ) from None
    if known != about:
        raise TrainingError(
            f"{folder} holds pictures of the class by another prompt, model or size; remove it, or choose "
            "another --out."
        )
    write_text(note, json.dumps(about))
    paths = [folder / f"{number:05d}.png" for number in range(config.class_pictures)]
    todo = [number for number, path in enumerate(paths) if not path.exists()]
    channels, side = model.config.unet.out_channels, size // model.config.factor
    for start in range(0, len(todo), AT_ONCE):
        seeds = todo[start : start + AT_ONCE]
        drawn = pictures(model, [config.class_prompt] * len(seeds), (channels, side, side), seeds)
        for seed, picture in zip(seeds, drawn, strict=True):
            _save(paths[seed], picture)
        watch("drawing the class", min(start + AT_ONCE, len(todo)), len(todo))
    arrays = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()  # (N H W 3) -> (N 3 H W)


def _save(path: Path, picture: Tensor) -> None:
    """(3 H W) in [-1, 1] as a PNG, whole or not at all."""
    pixels = ((picture.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0)  # -> (H W 3)
    partial = path.with_suffix(".tmp")
    try:
        Image.fromarray(pixels.cpu().numpy()).save(partial, "PNG")
        durable.rename(partial, path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror}); free some space.") from error
