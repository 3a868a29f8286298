"""What the denoiser is told besides the noisy picture itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """One row per picture in every field that is present; B is the number of pictures.

    tokens    (B L D)      the text, one feature vector per token; None for a model without text
    vector    (B P)        SDXL's pooled text and sizes
    channels  (B K H W)    joined to the noisy picture: inpaint mask and image, low-resolution image
    control   (B N*C H W)  what N ControlNets see of their pictures, one below the other
    strength  (B N)        how much of what each ControlNet adds is taken; with 0 it is not run
    label     (B)          class, or the upscaler's noise level
    guidance  (B G)        LCM's guidance embedding
    """

    tokens: Tensor | None = None
    vector: Tensor | None = None
    channels: Tensor | None = None
    control: Tensor | None = None
    strength: Tensor | None = None
    label: Tensor | None = None
    guidance: Tensor | None = None

    @staticmethod
    def cat(parts: Sequence[Conditioning]) -> Conditioning:
        """Rows of all parts, in order; a field must be present in all of them or in none."""
        joined: dict[str, Tensor] = {}
        for name in _FIELDS:
            values = [value for part in parts if (value := getattr(part, name)) is not None]
            if values and len(values) != len(parts):
                raise ValueError(f"{name} is present in only {len(values)} of {len(parts)} conditionings")
            if values:
                joined[name] = torch.cat(values)
        return Conditioning(**joined)

    def joins(self, other: Conditioning) -> bool:
        """Whether `cat` can put both into one batch: fields of the same sizes, texts of the same length."""
        return self.sizes() == other.sizes()

    def sizes(self) -> tuple[torch.Size | None, ...]:
        """The shape of one row of every field."""
        values = (getattr(self, name) for name in _FIELDS)
        return tuple(None if value is None else value.shape[1:] for value in values)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Conditioning:
        present = {name: value for name in _FIELDS if (value := getattr(self, name)) is not None}
        return Conditioning(**{name: change(value) for name, value in present.items()})

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Conditioning:
        """Moved to `device`; the floating fields cast to `dtype`, whole-number labels left as they are."""
        return self._map(lambda v: v.to(device, dtype if v.is_floating_point() else None))

    def scaled(self, factor: float) -> Conditioning:
        """Every floating field multiplied."""
        return self._map(lambda v: v * factor if v.is_floating_point() else v)

    def mixed(self, other: Conditioning, amount: float) -> Conditioning:
        """Every floating field on the straight line to `other`'s, which has the same sizes; labels stay."""
        fields = {
            name: value + amount * (getattr(other, name) - value) if value.is_floating_point() else value
            for name in _FIELDS
            if (value := getattr(self, name)) is not None
        }
        return Conditioning(**fields)

    def repeat(self, times: int) -> Conditioning:
        """Every row `times` times in a row: 0 0 1 1 2 2."""
        return self._map(lambda v: v.repeat_interleave(times, dim=0))

    def rows(self, index: slice | Sequence[int] | Tensor) -> Conditioning:
        """The chosen rows, in the order asked for."""
        chosen = index if isinstance(index, slice | Tensor) else torch.tensor(list(index), dtype=torch.long)
        return self._map(lambda v: v[chosen])


_FIELDS = tuple(field.name for field in fields(Conditioning))
