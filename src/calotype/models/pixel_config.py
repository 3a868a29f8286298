"""What a model of pictures themselves is, as data."""

from __future__ import annotations

from dataclasses import dataclass

from calotype.models.config import parsed, written
from calotype.networks.config import PixelNetConfig


@dataclass(frozen=True)
class PixelConfig:
    """One pixel model whole.

    about       one line for `calotype models`
    size        pixels a side of the pictures it was trained on crops of
    sigma_data  EDM's standard deviation of the data, in [-1, 1]
    sigma_min   the least noise it was trained on, in [-1, 1] as everywhere: twice what it is in [0, 1]
    sigma_max   the most
    """

    name: str
    about: str
    size: int
    network: PixelNetConfig
    sigma_data: float = 0.5
    sigma_min: float = 0.004
    sigma_max: float = 20.0

    def to_json(self) -> str:
        """Every field, nested as the dataclasses are."""
        return written(self)

    @classmethod
    def from_json(cls, text: str) -> PixelConfig:
        """The inverse of `to_json`; CheckpointError names what is missing, unknown or of the wrong type."""
        return parsed(cls, text)
