"""What keeps a file's tensors from being those of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from calotype.checkpoints.weights import some


@dataclass(frozen=True)
class Misfit:
    """By the file's own names.

    misshapen  name, the shape there is, and the one there should be
    """

    missing: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    misshapen: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()

    @classmethod
    def between(
        cls,
        wanted: Mapping[str, tuple[int, ...]],
        there: Mapping[str, tuple[int, ...]],
        called: Callable[[str], str] = str,
    ) -> Misfit:
        """Shapes by our names; `called` gives the file's.  All sorted."""
        return cls(
            tuple(sorted(called(name) for name in wanted.keys() - there.keys())),
            tuple(sorted(called(name) for name in there.keys() - wanted.keys())),
            tuple(
                (called(name), there[name], wanted[name])
                for name in sorted(wanted.keys() & there.keys())
                if there[name] != wanted[name]
            ),
        )

    def names(self) -> set[str]:
        """Of all tensors that are wrong."""
        return {*self.missing, *self.unknown, *(name for name, _, _ in self.misshapen)}

    def __bool__(self) -> bool:
        return bool(self.missing or self.unknown or self.misshapen)

    def __add__(self, other: Misfit) -> Misfit:
        return Misfit(
            self.missing + other.missing, self.unknown + other.unknown, self.misshapen + other.misshapen
        )

    def __str__(self) -> str:
        """lacks … and has unknown … and has misshapen …"""
        told = (
            ("lacks", self.missing),
            ("has unknown", self.unknown),
            (
                "has misshapen",
                [f"{name} {there} instead of {wanted}" for name, there, wanted in self.misshapen],
            ),
        )
        return " and ".join(f"{verb} {some(names)}" for verb, names in told if names)
