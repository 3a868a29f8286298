"""One network at a time on the device: for GPUs, and memories, smaller than the model.

The networks lie in their file.  The one that is to work is read from there onto the device, in place of the
one before it, which need not be written back: weights do not change while pictures are drawn.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from calotype.models.allocation import give_back

Fill = Callable[[], Callable[[], None]]
"""Gives a network that has shapes but no numbers its weights; the answer lets go of their file's pages, once
the network rests.
"""


class Offload:
    """device, dtype: where the networks work, and in what."""

    def __init__(self, device: torch.device | str, dtype: torch.dtype, beside: Offload | None = None) -> None:
        """`beside`: the networks of another model, of which none stays when one of these comes."""
        self.device, self.dtype = torch.device(device), dtype
        self._networks: dict[str, tuple[nn.Module, Fill]] = {}
        self._working: list[tuple[nn.Module, Callable[[], None]]]
        self._working = [] if beside is None else beside._working

    def keep(self, name: str, network: nn.Module, fill: Fill) -> None:
        """A network without numbers, which `fill` gives it."""
        self._networks[name] = network, fill

    def bring(self, name: str) -> None:
        """The network can work now, and no other can."""
        network, fill = self._networks[name]
        if self._working and self._working[0][0] is network:
            return
        self.rest()
        self._working.append((network, fill()))

    def rest(self) -> None:
        """No network holds memory."""
        while self._working:
            network, forget = self._working.pop()
            network.to("meta")
            forget()
            if self.device.type == "cpu":
                give_back()
