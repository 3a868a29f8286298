"""3x3 convolutions by Winograd's F(2x2, 3x3): 16 products where there were 36 (Lavin & Gray 2016,
arXiv:1509.09308, section 4.1).

PyTorch's CPU kernels multiply and add directly.  In float32, on maps that are large beside the weights, the
detour through tiles of 4x4 pixels takes about 0.6 of the time; its rounding errors are of the same size.

Of a map doubled by repeating its pixels a tile is a b b c along either axis, whose transform (eq. 10) is
a - b, 2b, 0, b - c: 9 products are left, and the doubled map need not be made.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST_TILES = 256
"""Tiles of a picture below which changing the weights costs more than it saves; a quarter if doubled."""
LEAST_CHANNELS = 64
"""Channels in or out below which moving the tiles costs more than it saves."""
BLOCK_TILES = 512
"""Tiles at once: few enough that what is made of them stays in the processor's cache."""


class Conv3x3(nn.Conv2d):
    """Keeps the size of a map, beyond whose edges lies zero: (B C H W) -> (B C' H W)."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if self._pays(x, height * width // 4, LEAST_TILES):
            return winograd(x, self.weight, self.bias)
        return super().forward(x)

    def of_doubled(self, x: Tensor) -> Tensor:
        """Of the map with every pixel repeated twice along both axes: (B C H W) -> (B C' 2H 2W)."""
        height, width = x.shape[-2:]
        if self._pays(x, height * width, LEAST_TILES // 4):
            return winograd(x, self.weight, self.bias, doubled=True)
        y: Tensor = self(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return y

    def _pays(self, x: Tensor, tiles: int, least: int) -> bool:
        return (
            x.device.type == "cpu"
            and x.dtype == torch.float32
            and self.weight.dtype == torch.float32
            and not torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
            and not torch.is_autocast_enabled("cpu")
            and min(self.in_channels, self.out_channels) >= LEAST_CHANNELS
            and tiles >= least
        )


def winograd(x: Tensor, weight: Tensor, bias: Tensor | None, *, doubled: bool = False) -> Tensor:
    """The convolution with `weight` (O C 3 3) and zeros around: (B C H W) -> (B O H W), channels-last; where
    x is to be doubled first, (B O 2H 2W).

    Block by block of rows of tiles, so that beside x and the result little is held; a picture's rows are
    computed alone, so others beside it change nothing.
    """
    batch, _, height, width = x.shape
    step = 1 if doubled else 2  # pixels of x from a tile to the next
    rows, columns = -(-height // step), -(-width // step)  # of tiles, of 2x2 pixels that come out of 4x4
    kernels = _of_weight(weight, doubled)
    x = x.permute(0, 2, 3, 1)  # (B C H W) -> (B H W C)
    y = x.new_empty(batch, rows, 2, columns, 2, len(weight))
    many = max(1, BLOCK_TILES // columns)
    for i in range(batch):
        for top in range(0, rows, many):
            part = y[i, top : top + many]
            first, last = step * top - 1, step * (top + len(part)) + 1  # a pixel more on every side
            seen = x[i, max(0, first) : last]
            above = max(0, -first)
            edges = (0, 0, 1, step * columns + 1 - width, above, last - first - above - len(seen))
            _block(F.pad(seen, edges), kernels, bias, part)
    y = y.flatten(3, 4).flatten(1, 2)  # (B h 2 w 2 O) -> (B h 2 2w O) -> (B 2h 2w O)
    if not doubled:
        y = y[:, :height, :width]
    return y.permute(0, 3, 1, 2)  # -> (B O H W)


def _of_weight(weight: Tensor, doubled: bool) -> Tensor:
    """G w G^T, eq. 7: (O C 3 3) -> (T*T O C), T = 4, or 3 for a doubled map."""
    taps = weight.permute(2, 3, 0, 1)  # (O C 3 3) -> (3 3 O C), C inmost where it lies channels-last
    down = torch.stack(_of_taps(*taps, doubled=doubled))  # (3 3 O C) -> (T 3 O C)
    return torch.stack(_of_taps(*down.unbind(1), doubled=doubled), 1).flatten(0, 1)  # -> (T T O C) -> …


def _of_taps(first: Tensor, second: Tensor, third: Tensor, *, doubled: bool) -> tuple[Tensor, ...]:
    outer = first + third
    if doubled:  # the 2 of 2b is put here
        return first, outer + second, third
    return first, (outer + second) / 2, (outer - second) / 2, third


def _block(x: Tensor, kernels: Tensor, bias: Tensor | None, y: Tensor) -> None:
    """Pixels (H W C) and the kernels (T*T O C) into tiles y (h 2 w 2 O)."""
    rows, _, columns, _, out = y.shape
    taps, channels = round(len(kernels) ** 0.5), x.shape[-1]
    down = x.new_empty(taps, rows, x.shape[1], channels)
    _to_tiles(x, down)
    tiles = x.new_empty(taps, taps, rows, columns, channels)
    # (T h W C) -> (W T h C), so that what is cut is again the first axis, into (T w T h C)
    _to_tiles(down.permute(2, 0, 1, 3), tiles.permute(1, 3, 0, 2, 4))
    made = torch.bmm(tiles.flatten(2, 3).flatten(0, 1), kernels.mT)  # (T*T h*w C) x (T*T C O) -> (T*T h*w O)
    if bias is not None:
        made[taps + 1] += bias  # which A^T … A brings to all four pixels of a tile
    made = made.unflatten(1, (rows, columns)).unflatten(0, (taps, taps))  # -> (T T h w O)
    up = x.new_empty(2, taps, rows, columns, out)
    _of_tiles(made, up)
    _of_tiles(up.transpose(0, 1), y.permute(3, 1, 0, 2, 4))  # (T 2 h w O) into (2 2 h w O)


def _to_tiles(x: Tensor, into: Tensor) -> None:
    """B^T d along the first axis: x (2n+2 …) into (4 n …), or x (n+2 …), to be doubled, into (3 n …)."""
    if len(into) == 3:
        before, here, after = x[:-2], x[1:-1], x[2:]
        torch.sub(before, here, out=into[0])
        into[1] = here
        torch.sub(here, after, out=into[2])
        return
    even, odd = x[::2], x[1::2]  # (n+1 …)
    torch.sub(even[:-1], even[1:], out=into[0])
    torch.add(odd[:-1], even[1:], out=into[1])
    torch.sub(even[1:], odd[:-1], out=into[2])
    torch.sub(odd[:-1], odd[1:], out=into[3])


def _of_tiles(m: Tensor, into: Tensor) -> None:
    """A^T m along the first axis: (4 …) or, of a doubled map, (3 …) into (2 …)."""
    if len(m) == 3:
        torch.add(m[0], m[1], out=into[0])
        torch.sub(m[1], m[2], out=into[1])
        return
    torch.add(m[1], m[2], out=into[0])
    into[0] += m[0]
    torch.sub(m[1], m[2], out=into[1])
    into[1] -= m[3]
