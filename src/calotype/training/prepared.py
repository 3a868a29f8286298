"""What is computed once before training: latents of all pictures, tokens of all captions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from calotype.checkpoints import native
from calotype.checkpoints.cache import cached
from calotype.conditioning.text import TextEncoder
from calotype.networks.autoencoder import Autoencoder
from calotype.training.shapes import Grouped, Rows


class ControlPictures(Protocol):
    """(N 3 H W) uint8, which need not lie in memory."""

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Rows (B), of one shape: (B 3 H W)."""
        ...


class Latents:
    """Mean and standard deviation (N C h w, float16) of every picture's latents."""

    def __init__(self, mean: Rows, std: Rows) -> None:
        self.mean, self.std = mean, std

    def __len__(self) -> int:
        return len(self.mean)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C h w) of one picture's latents, of several shapes the squarest."""
        return shape_of(self.mean)

    def draw(self, indices: Tensor, noise: Tensor) -> Tensor:
        """Samples (B C h w) float32 of the pictures' posteriors, from standard normal `noise`."""
        return self.mean[indices].float() + self.std[indices].float() * noise

    @property
    def rows(self) -> Rows:
        """What is drawn from, picture by picture."""
        return self.mean


class Pixels:
    """Pictures themselves (N 3 H W, uint8) in the place of latents, for models that denoise pixels."""

    def __init__(self, pictures: Rows) -> None:
        self._pictures = pictures

    def __len__(self) -> int:
        return len(self._pictures)

    @property
    def shape(self) -> tuple[int, ...]:
        """(3 H W) of one picture, of several shapes the squarest."""
        return shape_of(self._pictures)

    def draw(self, indices: Tensor, noise: Tensor) -> Tensor:  # noqa: ARG002 - a picture has no spread
        """The pictures (B 3 H W) float32 in [-1, 1]."""
        return to_signed(self._pictures[indices])

    @property
    def rows(self) -> Rows:
        """What is drawn from, picture by picture."""
        return self._pictures


def shape_of(rows: Rows, chosen: Tensor | None = None) -> tuple[int, ...]:
    """Of one of the rows `chosen`, which are alike; without them, of the first group's."""
    if isinstance(rows, Grouped):
        return tuple(rows.groups[0 if chosen is None else int(rows.group[chosen[0]])].shape[1:])
    return tuple(rows.shape[1:])


def to_signed(pictures: Tensor) -> Tensor:
    """uint8 0..255 to float32 in [-1, 1], same shape."""
    return pictures.float() / 127.5 - 1


@torch.no_grad()
def encode_all(
    autoencoder: Autoencoder,
    pictures: Rows,
    key: str,
    watch: Callable[[int, int], None],
    dtype: torch.dtype = torch.float32,
) -> Latents:
    """Latents of uint8 pictures (N 3 H W), or of several shapes, computed in `dtype`; `key` is their content
    hash, `watch` gets (done, total).
    """
    if isinstance(pictures, Grouped):
        key = f"{key} {[tuple(group.shape[1:]) for group in pictures.groups]}"
        several = [encode_all(autoencoder, group, key, watch, dtype) for group in pictures.groups]
        return Latents(
            pictures.with_groups([one.mean for one in several]),
            pictures.with_groups([one.std for one in several]),
        )
    device = next(autoencoder.parameters()).device
    # only what makes latents: another decoder leaves them as they are
    encoding = ("encoder.", "quant_conv.")
    state = {name: value for name, value in autoencoder.state_dict().items() if name.startswith(encoding)}
    weights = native.weights_sha256(state)

    def compute() -> dict[str, Tensor]:
        means, stds = [], []
        for part in pictures.split(64):
            images = to_signed(part).to(device, memory_format=torch.channels_last)
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                posterior = autoencoder.encode(images)
            means.append(posterior.mean.float().half().cpu())
            stds.append(((0.5 * posterior.logvar.float()).exp() * posterior.scale).half().cpu())
            watch(sum(map(len, means)), len(pictures))
        return {"mean": torch.cat(means).contiguous(), "std": torch.cat(stds).contiguous()}

    found = cached(f"latents {key} {weights} {tuple(pictures.shape)} {dtype}", compute)
    return Latents(found["mean"], found["std"])


class Captions:
    """Tokens of every caption of every picture, each distinct caption tokenised once."""

    def __init__(self, captions: Sequence[Sequence[str]], encoder: TextEncoder) -> None:
        """`captions[i]` are picture i's; a picture without any is trained with the empty prompt."""
        distinct: dict[str, int] = {"": 0}
        picked: list[int] = []
        starts = [0]
        for texts in captions:
            picked += [distinct.setdefault(text, len(distinct)) for text in texts or ("",)]
            starts.append(len(picked))
        self.texts = tuple(distinct)
        self.tokens = encoder.tokenize(self.texts)  # (T N L)
        self._picked = torch.tensor(picked)
        self._starts = torch.tensor(starts)

    def choose(self, indices: Tensor, chosen: Tensor, dropped: Tensor) -> Tensor:
        """(B) rows among the distinct captions: of picture i the one at fraction `chosen` (0..1), or row 0,
        the empty prompt, where `dropped`.
        """
        first, past = self._starts[indices], self._starts[indices + 1]
        which = first + (chosen * (past - first)).long()
        return torch.where(dropped, 0, self._picked[which])

    @torch.no_grad()
    def features(self, encoder: TextEncoder) -> dict[str, Tensor]:
        """`context` (N L D) and, where the model has one, `vector` (N P), float16, of every distinct caption
        by a text encoder that does not train; from the cache.
        """
        weights = native.weights_sha256(encoder.state_dict())
        tokens = hashlib.sha256(self.tokens.numpy().tobytes()).hexdigest()

        def compute() -> dict[str, Tensor]:
            parts = [encoder.encode_tokens(part) for part in self.tokens.split(256, dim=1)]
            found = {
                "context": [part.tokens for part in parts if part.tokens is not None],
                "vector": [part.vector for part in parts if part.vector is not None],
            }
            return {name: torch.cat(several).half().cpu() for name, several in found.items() if several}

        return cached(f"text and vector {tokens} {weights}", compute)


@dataclass(frozen=True)
class Examples:
    """Pictures, as latents or pixels, captions and, where there are classes, labels (N), row for row; of a
    ControlNet's training what it looks at.
    """

    latents: Latents | Pixels
    captions: Captions
    labels: Tensor | None = None
    control: ControlPictures | None = None

    @property
    def kept(self) -> tuple[int, int]:
        """Bytes held of the pictures beside themselves, and of the captions."""
        made = self.latents
        own = made.mean.nbytes + made.std.nbytes if isinstance(made, Latents) else 0
        return own, self.captions.tokens.nbytes
