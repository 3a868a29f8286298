"""3x3 convolutions by Winograd's F(4x4, 3x3): 36 products where there were 144 (Lavin & Gray 2016,
arXiv:1509.09308, section 4.3).

PyTorch's CPU kernels multiply and add directly.  In float32, in which 16 bits are multiplied too that a
processor has no units for (narrow.py), the detour through tiles of 6x6 pixels takes about half of the time on
maps that are large beside the weights.  Polynomials are multiplied by their values at 0, ±A, ±B and infinity.
The usual ±1 and ±2 cost a digit; with points near ±c and ±1/c (Alam et al. 2022, ACM Trans. Embedded Comput.
Syst. 21(6)) rounding errors are of the size of the direct kernels'.

A map doubled by repeating its pixels need not be made: with F(2x2, 3x3) a tile of it is a b b c along either
axis, whose transform (eq. 10) is a - b, 2b, 0, b - c: 9 products where there were 36.  Products of 16 bits
hold no such differences; there sums of weights spare some: a pixel of the result sees 2x2 pixels, so it takes
16 where there were 36.
"""

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from calotype.networks.narrow import Conv2d, multiplied

A, B = 5 / 8, 3 / 2
"""Where polynomials are evaluated, besides 0 and infinity, on either side of 0; exact in binary."""
LEAST, LEAST_DOUBLED, LEAST_CORNERS = (1024, 128), (256, 64), (16384, 64)
"""Pixels of the result, and channels in or out, below which changing the weights and moving the tiles cost
more than they save."""
BLOCK_PIXELS = 2048
"""Of the result, at once: few enough that what is made of them stays in the processor's cache."""
KERNEL_BYTES = 64 * 2**20
"""Of changed weights at once: they are four times as large as the weights."""
OF_DOUBLED = [[1, 0, 0], [1, 1, 1], [0, 0, 1]]
"""G of a doubled map; the 2 of 2b is put here."""
AROUND = [[[1, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 1]]]
"""Which taps along an axis see which of the two pixels at a corner: for the pixel of the result before the
corner, and for that after it.
"""


class Conv3x3(Conv2d):
    """Keeps the size of a map, beyond whose edges lies zero: (B C H W) -> (B C' H W)."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if self._pays(x, height * width, *LEAST):
            return self._winograd(x)
        return super().forward(x)

    def of_doubled(self, x: Tensor) -> Tensor:
        """Of the map with every pixel repeated twice along both axes: (B C H W) -> (B C' 2H 2W)."""
        height, width = x.shape[-2:]
        if self._pays(x, 4 * height * width, *LEAST_DOUBLED):
            return self._winograd(x, doubled=True)
        if self.rarely and self._pays(x, 4 * height * width, *LEAST_CORNERS, dtype=torch.bfloat16):
            made = at_corners(x, self.weight, self.bias)
            self.let_go()
            return made
        y: Tensor = self(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return y

    def _winograd(self, x: Tensor, **how: bool) -> Tensor:
        return winograd(x, self.wide(x).float(), None if self.bias is None else self.bias.float(), **how)

    def _pays(
        self, x: Tensor, pixels: int, least: int, least_channels: int, dtype: torch.dtype = torch.float32
    ) -> bool:
        return (
            x.device.type == "cpu"
            and multiplied(x.dtype, x.device) == dtype
            and not torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
            and not torch.is_autocast_enabled("cpu")
            and min(self.in_channels, self.out_channels) >= least_channels
            and pixels >= least
        )


def winograd(x: Tensor, weight: Tensor, bias: Tensor | None, *, doubled: bool = False) -> Tensor:
    """The convolution with `weight` (O C 3 3) and zeros around: (B C H W) -> (B O H W), channels-last; where
    x is to be doubled first, (B O 2H 2W).  In the weight's numbers; only the result is rounded to x's.

    Block by block of rows of tiles, so that beside x and the result little is held; a picture's rows are
    computed alone, so others beside it change nothing.
    """
    batch, channels, height, width = x.shape
    # of x from a tile to the next; of the result a tile has side x side, and their transform taps x taps
    step, side, taps = (1, 2, 3) if doubled else (4, 4, 6)
    rows, columns = -(-height // step), -(-width // step)  # of tiles
    x = x.permute(0, 2, 3, 1)  # (B C H W) -> (B H W C)
    y = x.new_empty(batch, rows, side, columns, side, len(weight))
    many = max(1, BLOCK_PIXELS // (side**2 * columns))
    parts = -(-len(weight) * channels * taps**2 * weight.element_size() // KERNEL_BYTES)
    chunk = -(-len(weight) // parts)
    for out in range(0, len(weight), chunk):
        kernels = _of_weight(weight[out : out + chunk], doubled)
        for i in range(batch):
            for top in range(0, rows, many):
                part = y[i, top : top + many, ..., out : out + chunk]
                first, last = step * top - 1, step * (top + len(part)) + 1  # a pixel more on every side
                seen = x[i, max(0, first) : last]
                above = max(0, -first)
                edges = (0, 0, 1, step * columns + 1 - width, above, last - first - above - len(seen))
                made = part if x.dtype == weight.dtype else torch.empty_like(part, dtype=weight.dtype)
                _block(F.pad(seen.to(weight.dtype), edges), kernels, made)
                if bias is not None:
                    made += bias[out : out + chunk]
                if made is not part:
                    part.copy_(made)
    y = y.flatten(3, 4).flatten(1, 2)  # (B h S w S O) -> (B h S Sw O) -> (B Sh Sw O)
    if not doubled:
        y = y[:, :height, :width].contiguous()  # a copy where the last tiles reach beyond the map
    return y.permute(0, 3, 1, 2)  # -> (B O H W)


def at_corners(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution with `weight` (O C 3 3) of the doubled map, zeros around: (B C H W) -> (B O 2H 2W).

    The 2x2 pixels at a corner of x, beyond whose edge lies zero, give the 2x2 pixels of the result around
    that corner: one convolution of 2x2 pixels to four times the channels, whose maps are then laid together.
    A weight of fp16 is rounded to what x has only when it has been summed.
    """
    batch, _, height, width = x.shape
    around = torch.tensor(AROUND, dtype=torch.promote_types(x.dtype, torch.float32))  # (2, pixel of x, tap)
    sums = torch.einsum("psu,qtv,ocuv->pqocst", around, around, weight.to(around.dtype))  # -> (2 2 O C 2 2)
    kernels = sums.flatten(0, 2).to(x.dtype, memory_format=torch.channels_last)  # (2*2*O C 2 2)
    made = F.conv2d(x, kernels, None if bias is None else bias.repeat(4), padding=1)  # (B 2*2*O H+1 W+1)
    made = made.permute(0, 2, 3, 1).unflatten(3, (2, 2, -1))  # -> (B H+1 W+1 2 2 O)
    y = x.new_empty(batch, height, 2, width, 2, len(weight))
    for down, right in product((0, 1), repeat=2):  # a pixel's second is the first around the corner after it
        y[:, :, down, :, right] = made[:, down : down + height, right : right + width, 1 - down, 1 - right]
    return y.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)  # -> (B 2H 2W O) -> (B O 2H 2W)


def _of_weight(weight: Tensor, doubled: bool) -> Tensor:
    """G w G^T, eq. 7: (O C 3 3) -> (T*T C O), T = 6, or 3 for a doubled map."""
    plain = [[1 / (A**2 * B**2), 0, 0], *_of_point(A, B), *_of_point(B, A), [0, 0, 1]]
    rows = OF_DOUBLED if doubled else plain
    one = torch.tensor(rows, dtype=torch.float64)
    both = torch.kron(one, one).to(weight)  # (T*T 9)
    taps = weight.permute(0, 2, 3, 1).flatten(1, 2)  # (O C 3 3) -> (O 9 C), C inmost in channels-last too
    return (both @ taps).permute(1, 2, 0)  # (O T*T C) -> (T*T C O)


def _of_point(here: float, other: float) -> list[list[float]]:
    """G's rows of the points +here and -here, `here` times too large, which spares a product later."""
    scale = 1 / (2 * here * (here**2 - other**2))
    return [[scale, sign * scale * here, scale * here**2] for sign in (1, -1)]


def _block(x: Tensor, kernels: Tensor, y: Tensor) -> None:
    """Pixels (H W C) and the kernels (T*T C O) into tiles y (h S w S O)."""
    rows, side, columns, _, out = y.shape
    taps, channels = round(len(kernels) ** 0.5), x.shape[-1]
    down = x.new_empty(taps, rows, x.shape[1], channels)
    _to_tiles(x, down)
    tiles = x.new_empty(taps, taps, rows, columns, channels)
    # (T h W C) -> (W T h C), so that what is cut is again the first axis, into (T w T h C)
    _to_tiles(down.permute(2, 0, 1, 3), tiles.permute(1, 3, 0, 2, 4))
    made = torch.bmm(tiles.flatten(2, 3).flatten(0, 1), kernels)  # (T*T h*w C) x (T*T C O) -> (T*T h*w O)
    made = made.unflatten(1, (rows, columns)).unflatten(0, (taps, taps))  # -> (T T h w O)
    up = x.new_empty(side, taps, rows, columns, out)
    _of_tiles(made, up)
    _of_tiles(up.transpose(0, 1), y.permute(3, 1, 0, 2, 4))  # (T S h w O) into (S S h w O)


def _to_tiles(x: Tensor, into: Tensor) -> None:
    """B^T d along the first axis: x (4n+2 …) into (6 n …), or x (n+2 …), to be doubled, into (3 n …)."""
    if len(into) == 3:
        before, middle, after = x[:-2], x[1:-1], x[2:]
        torch.sub(before, middle, out=into[0])
        into[1] = middle
        torch.sub(middle, after, out=into[2])
        return
    count = 4 * into.shape[1]
    pixels = [x[i : i + count : 4] for i in range(6)]  # (n …), of every tile the i-th
    # even and odd powers of x (x² - A²) (x² - B²) without one of its factors
    torch.sub(pixels[4], pixels[2], alpha=A**2 + B**2, out=into[0]).add_(pixels[0], alpha=A**2 * B**2)
    torch.sub(pixels[5], pixels[3], alpha=A**2 + B**2, out=into[5]).add_(pixels[1], alpha=A**2 * B**2)
    for i, here, other in ((1, A, B), (3, B, A)):
        plus, minus = into[i], into[i + 1]
        even = torch.sub(pixels[4], pixels[2], alpha=other**2, out=minus)
        odd = torch.sub(pixels[3], pixels[1], alpha=other**2)
        torch.add(even, odd, alpha=here, out=plus)
        minus.sub_(odd, alpha=here)


def _of_tiles(m: Tensor, into: Tensor) -> None:
    """A^T m along the first axis: (6 …) into (4 …) or, of a doubled map, (3 …) into (2 …)."""
    if len(m) == 3:
        torch.add(m[0], m[1], out=into[0])
        torch.sub(m[1], m[2], out=into[1])
        return
    near, far = m[1] + m[2], m[3] + m[4]
    torch.add(m[0], near, alpha=1 / A, out=into[0]).add_(far, alpha=1 / B)
    torch.mul(near, A, out=into[2]).add_(far, alpha=B)
    torch.sub(m[1], m[2], out=near)
    torch.sub(m[3], m[4], out=far)
    torch.add(near, far, out=into[1])
    torch.add(m[5], near, alpha=A**2, out=into[3]).add_(far, alpha=B**2)
