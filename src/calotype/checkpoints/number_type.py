"""The types of numbers that files hold, known without torch, which takes seconds to load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class NumberType:
    """name  torch's, such as "float16"
    itemsize  bytes of one number
    """

    name: str
    itemsize: int

    def __str__(self) -> str:
        return f"torch.{self.name}"

    @property
    def finite_or_not(self) -> bool:
        """Whether it has NaN and infinities."""
        return self.name.startswith(("float", "bfloat", "complex"))

    @property
    def in_torch(self) -> torch.dtype:
        """torch's own."""
        import torch

        found: torch.dtype = getattr(torch, self.name)
        return found


_BYTES = {
    1: "bool int8 uint8 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz",
    2: "float16 bfloat16 int16 uint16",
    4: "float32 int32 uint32",
    8: "float64 int64 uint64 complex64",
    16: "complex128",
}

TYPES = {name: NumberType(name, size) for size, names in _BYTES.items() for name in names.split()}
"""By name."""
