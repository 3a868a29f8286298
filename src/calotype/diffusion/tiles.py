"""Denoising in overlapping tiles at bounded memory."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from calotype.diffusion.denoiser import Denoiser
from calotype.errors import InputError


def tiled(denoiser: Denoiser, tile: int, overlap: int, step: int = 8) -> Denoiser:
    """The same denoiser, tile by tile, for a network of bounded reach.

    Each tile is a window of `tile` pixels a side of which the outer `overlap` are only looked at; the
    windows' inner parts are set side by side.  Gradients flow, each tile computed again on the way back.

    Args:
        step: windows start at its multiples, where a network that halves its maps needs that to agree.

    Raises:
        InputError: the overlap leaves nothing of a tile.
    """
    if overlap < 0 or tile - 2 * overlap < step:
        raise InputError(
            f"Tiles of {tile} pixels with {overlap} of overlap leave nothing; take larger tiles."
        )

    def whole(x: Tensor, sigma: Tensor, /) -> Tensor:
        height, width = x.shape[-2:]
        if height <= tile and width <= tile:
            return denoiser(x, sigma)
        rows = []
        for top, bottom, first, last in _windows(height, tile, overlap, step):
            row = []
            for left, right, begin, end in _windows(width, tile, overlap, step):
                window = x[..., top:bottom, left:right]
                if torch.is_grad_enabled() and x.requires_grad:
                    seen = checkpoint(denoiser, window, sigma, use_reentrant=False)
                else:
                    seen = denoiser(window, sigma)
                row.append(seen[..., first - top : last - top, begin - left : end - left])
            rows.append(torch.cat(row, dim=-1))  # (B C h w)s -> (B C h W)
        return torch.cat(rows, dim=-2)  # (B C h W)s -> (B C H W)

    return whole


def _windows(length: int, tile: int, overlap: int, step: int) -> Iterator[tuple[int, int, int, int]]:
    """(window's start, its end, the kept part's start, its end): the kept parts follow one another."""
    inner = (tile - 2 * overlap) // step * step
    margin = -(-overlap // step) * step
    for first in range(0, length, inner):
        last = min(first + inner, length)
        yield max(0, first - margin), min(length, last + margin), first, last
