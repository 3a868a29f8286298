"""3x3 convolutions by Winograd's F(2x2, 3x3): 16 products where there were 36 (Lavin & Gray 2016,
arXiv:1509.09308, section 4.1).

PyTorch's CPU kernels multiply and add directly.  In float32, on maps that are large beside the weights, the
detour through tiles of 4x4 pixels takes about 0.6 of the time; its rounding errors are of the same size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST_TILES = 256
"""Tiles of a picture below which changing the weights costs more than it saves."""
LEAST_CHANNELS = 64
"""Channels in or out below which moving the tiles costs more than it saves."""
BLOCK_TILES = 512
"""Tiles at once: few enough that what is made of them stays in the processor's cache."""


class Conv3x3(nn.Conv2d):
    """Keeps the size of a map, beyond whose edges lies zero: (B C H W) -> (B C' H W)."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return winograd(x, self.weight, self.bias) if self._pays(x) else super().forward(x)

    def _pays(self, x: Tensor) -> bool:
        height, width = x.shape[-2:]
        return (
            x.device.type == "cpu"
            and x.dtype == torch.float32
            and self.weight.dtype == torch.float32
            and not torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
            and not torch.is_autocast_enabled("cpu")
            and min(self.in_channels, self.out_channels) >= LEAST_CHANNELS
            and height * width >= 4 * LEAST_TILES
        )


def winograd(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution with `weight` (O C 3 3) and zeros around: (B C H W) -> (B O H W), channels-last.

    Block by block of rows of tiles; a picture's rows are computed alone, so others beside it change nothing.
    """
    batch, _, height, width = x.shape
    rows, columns = -(-height // 2), -(-width // 2)  # of tiles, of 2x2 pixels that come out of 4x4
    kernels = _of_weight(weight)
    # (B C H W) -> (B 2h+2 2w+2 C), free of a copy's reordering where x lies channels-last
    x = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1 + 2 * columns - width, 1, 1 + 2 * rows - height))
    y = x.new_empty(batch, rows, 2, columns, 2, len(weight))
    many = max(1, BLOCK_TILES // columns)
    for i in range(batch):
        for top in range(0, rows, many):
            part = y[i, top : top + many]
            _block(x[i, 2 * top : 2 * (top + len(part)) + 2], kernels, bias, part)
    y = y.flatten(3, 4).flatten(1, 2)  # (B h 2 w 2 O) -> (B h 2 2w O) -> (B 2h 2w O)
    return y[:, :height, :width].permute(0, 3, 1, 2)  # -> (B O H W)


def _of_weight(weight: Tensor) -> Tensor:
    """G w G^T, eq. 7: (O C 3 3) -> (16 O C)."""
    taps = weight.permute(2, 3, 0, 1)  # (O C 3 3) -> (3 3 O C), C inmost where it lies channels-last
    down = torch.stack(_three_to_four(*taps))  # (3 3 O C) -> (4 3 O C)
    return torch.stack(_three_to_four(*down.unbind(1)), 1).flatten(0, 1)  # -> (4 4 O C) -> (16 O C)


def _three_to_four(first: Tensor, second: Tensor, third: Tensor) -> tuple[Tensor, ...]:
    outer = first + third
    return first, (outer + second) / 2, (outer - second) / 2, third


def _block(x: Tensor, kernels: Tensor, bias: Tensor | None, y: Tensor) -> None:
    """Pixels (2h+2 2w+2 C) and the kernels (16 O C) into tiles y (h 2 w 2 O)."""
    rows, _, columns, _, out = y.shape
    channels = x.shape[-1]
    down = x.new_empty(4, rows, x.shape[1], channels)
    _four_to_four(x.unflatten(0, (-1, 2)).transpose(0, 1), down)  # (2h+2 …) -> (2 h+1 …)
    tiles = x.new_empty(4, 4, rows, columns, channels)
    # (4 h 2w+2 C) -> (4 h w+1 2 C) -> (2 4 h w+1 C), so that what is cut is again the first two axes
    halves = down.unflatten(2, (-1, 2)).permute(3, 2, 0, 1, 4)  # (2 w+1 4 h C)
    _four_to_four(halves, tiles.permute(1, 3, 0, 2, 4))  # into (4 w 4 h C)
    made = torch.bmm(tiles.flatten(2, 3).flatten(0, 1), kernels.mT)  # (16 h*w C) x (16 C O) -> (16 h*w O)
    if bias is not None:
        made[5] += bias  # which A^T … A brings to all four pixels of a tile
    made = made.unflatten(1, (rows, columns)).unflatten(0, (4, 4))  # -> (4 4 h w O)
    up = x.new_empty(2, 4, rows, columns, out)
    _four_to_two(made, up)
    _four_to_two(up.transpose(0, 1), y.permute(3, 1, 0, 2, 4))  # (4 2 h w O) into (2 2 h w O)


def _four_to_four(x: Tensor, into: Tensor) -> None:
    """B^T d along an axis whose even and odd places are x (2 n+1 …), into (4 n …)."""
    even, odd = x
    torch.sub(even[:-1], even[1:], out=into[0])
    torch.add(odd[:-1], even[1:], out=into[1])
    torch.sub(even[1:], odd[:-1], out=into[2])
    torch.sub(odd[:-1], odd[1:], out=into[3])


def _four_to_two(m: Tensor, into: Tensor) -> None:
    """A^T m along the first axis: (4 …) into (2 …)."""
    torch.add(m[1], m[2], out=into[0])
    into[0] += m[0]
    torch.sub(m[1], m[2], out=into[1])
    into[1] -= m[3]
