"""What is computed once before training: latents of all pictures, tokens of all captions."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import safetensors.torch
import torch
from torch import Tensor

from calotype.errors import OutputError


class Encoder(Protocol):
    """An autoencoder, as far as caching needs it."""

    def encode(self, images: Tensor) -> "Posterior": ...


class Posterior(Protocol):
    mean: Tensor
    logvar: Tensor


def cache_folder() -> Path:
    """Where caches live: $CALOTYPE_CACHE, or calotype/ in the user's cache folder."""
    named = os.environ.get("CALOTYPE_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "calotype"


class Latents:
    """Mean and standard deviation (N C h w, float16) of every picture's latents."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self.mean, self.std = mean, std

    def __len__(self) -> int:
        return len(self.mean)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C h w) of one picture's latents."""
        return tuple(self.mean.shape[1:])

    def draw(self, indices: Tensor, noise: Tensor) -> Tensor:
        """Samples (B C h w) float32 of the pictures' posteriors, from standard normal `noise`."""
        return self.mean[indices].float() + self.std[indices].float() * noise


@torch.no_grad()
def encode_all(
    autoencoder: Encoder, pictures: Tensor, key: str, device: torch.device, watch: Callable[[int], None]
) -> Latents:
    """Latents of uint8 pictures (N 3 H W), from the cache when `key` (a content hash) is known there.

    `watch` is told the number of pictures done.
    """
    path = cache_folder() / f"latents-{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"
    if path.is_file():
        stored = safetensors.torch.load_file(path)
        watch(len(pictures))
        return Latents(stored["mean"], stored["std"])
    means, stds = [], []
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cpu"):
        for part in pictures.split(64):
            images = (part.float() / 127.5 - 1).to(device, memory_format=torch.channels_last)
            posterior = autoencoder.encode(images)
            means.append(posterior.mean.float().half().cpu())
            stds.append((0.5 * posterior.logvar.float()).exp().half().cpu())
            watch(len(part))
    latents = Latents(torch.cat(means).contiguous(), torch.cat(stds).contiguous())
    partial = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file({"mean": latents.mean, "std": latents.std}, partial)
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(
            f"The latents could not be cached in {path.parent} ({error.strerror}); free some space there "
            "or name another folder in CALOTYPE_CACHE."
        ) from error
    return latents


class Captions:
    """Tokens of every caption of every picture, each distinct caption tokenised once."""

    def __init__(self, captions: Sequence[Sequence[str]], tokenize: Callable[[Sequence[str]], Tensor]) -> None:
        """`captions[i]` are picture i's (none means the empty prompt); `tokenize` gives (T N L)."""
        distinct: dict[str, int] = {"": 0}
        picked: list[int] = []
        starts = [0]
        for texts in captions:
            picked += [distinct.setdefault(text, len(distinct)) for text in texts or ("",)]
            starts.append(len(picked))
        self.tokens = tokenize(list(distinct))
        self._picked = torch.tensor(picked)
        self._starts = torch.tensor(starts)

    def choose(self, indices: Tensor, chosen: Tensor, dropped: Tensor) -> Tensor:
        """(T B L) tokens: of picture i the caption at fraction `chosen` (0..1), or the empty one if dropped."""
        first, past = self._starts[indices], self._starts[indices + 1]
        which = first + (chosen * (past - first)).long()
        rows = torch.where(dropped, 0, self._picked[which])
        return self.tokens[:, rows]
