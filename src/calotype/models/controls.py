"""ControlNets beside a U-Net: what each of them adds, weighed and summed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from calotype.conditioning.conditioning import Conditioning
from calotype.networks.controlnet import ControlNet


class Controls(nn.Module):
    """Several ControlNets; `Conditioning.control` and `.strength` have a part for each, in their order."""

    def __init__(self, nets: Sequence[ControlNet], fading: Sequence[bool]) -> None:
        """fading: for each, whether it adds less to the finer maps (guess mode)."""
        super().__init__()
        self.nets = nn.ModuleList(nets)
        self.fading = tuple(fading)

    def hinted(self, pictures: Sequence[Tensor]) -> Tensor:
        """Each net's picture (1 3 f*H f*W), values 0 to 1, as `Conditioning.control`: (1 N*C H W)."""
        found = []
        for net, picture in zip(self.nets, pictures, strict=True):
            assert isinstance(net, ControlNet)
            found.append(net.hinted(picture))
        return torch.cat(found, dim=1)  # N times (1 C H W) -> (1 N*C H W)

    def forward(self, x: Tensor, noise_label: Tensor, known: Conditioning) -> list[Tensor] | None:
        """The input of the U-Net, less what is laid beside it (B C H W), and its noise label (B) or (1)
        -> what is added to each of its maps, or None where nothing is.

        A row for which a net's strength is 0 is not computed.
        """
        if known.control is None or known.strength is None:
            return None
        total: list[Tensor] | None = None
        hints = known.control.chunk(len(self.nets), dim=1)  # (B N*C H W) -> N times (B C H W)
        for i, (net, hint) in enumerate(zip(self.nets, hints, strict=True)):
            strength = known.strength[:, i]
            rows = strength.nonzero()[:, 0]
            if not len(rows):
                continue
            some = slice(None) if len(rows) == len(x) else rows
            assert isinstance(net, ControlNet)
            vector = known.vector if net.config.vector_width is not None else None
            added = net(
                x[some],
                hint[some],
                noise_label if len(noise_label) == 1 else noise_label[some],
                None if known.tokens is None else known.tokens[some],
                None if vector is None else vector[some],
                fading=self.fading[i],
            )
            weighed = [_spread(map * strength[some, None, None, None], rows, len(x)) for map in added]
            total = weighed if total is None else [a + b for a, b in zip(total, weighed, strict=True)]
        return total


def _spread(map: Tensor, rows: Tensor, count: int) -> Tensor:
    """Rows of a batch back into their places among `count`, zeros elsewhere: (b C H W) -> (B C H W)."""
    if len(map) == count:
        return map
    return map.new_zeros(count, *map.shape[1:]).index_copy(0, rows, map)
