"""What the front tells replicas while they draw.  Imports nothing: its process should be a small one."""

from __future__ import annotations


class Board:
    """A Ray actor: for each hand, the pictures whose previews somebody would see."""

    def __init__(self) -> None:
        self._wished: dict[int, tuple[int, ...]] = {}

    def wish(self, hand: int, pictures: tuple[int, ...]) -> None:
        self._wished[hand] = pictures

    def wished(self, hand: int) -> tuple[int, ...]:
        return self._wished.get(hand, ())
