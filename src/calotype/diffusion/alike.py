"""Patches that look alike, denoised together: pictures repeat themselves, further than convolutions see.

Non-local Bayes (Lebrun, Buades & Morel 2013, SIAM J. Imaging Sci. 6(3), Algorithm 1, second step).  Patches
that are alike in a first estimate are taken for draws from one Gaussian, whose mean m and covariance C the
estimate's patches give; a Gaussian's denoiser has a closed form, D(y) = m + C (C + sigma² I)^-1 (y - m).
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

GROUP = 40
"""Patches that are restored together."""
SPREAD = 1.2
"""What their covariance is multiplied by: an estimate varies less than the picture does."""
BLOCK = 24
"""Groups in a row of those worked on at once: few enough to stay in a processor's cache."""
FAR = 1e3
"""Lies around the picture, unlike anything in it."""


class Patches(NamedTuple):
    """Which patches are restored together.

    side   of each, in pixels; small ones keep detail, large ones tell patterns from noise
    reach  how far from one those like it are looked for, down and across
    """

    side: int
    reach: int

    @property
    def stride(self) -> int:
        """From a patch that gathers a group to the next; not above `side`, or pixels would be left out."""
        return self.side // 2 + 1


def alike_together(noisy: Tensor, estimate: Tensor, sigma: float, patches: Patches) -> Tensor:
    """The expected clean picture, given a picture with white noise and a first estimate of it.

    Args:
        noisy: (C H W), its clean values in [-1, 1], any size.
        estimate: of its shape.
        sigma: the noise's deviation, above 0.

    Returns:
        (C H W).  Memory beyond it: three pictures.
    """
    height, width = noisy.shape[-2:]
    # patches that gather a group begin every `stride` pixels, the last flush with the edge
    (side, reach), stride = patches, patches.stride
    right, below = (side - n if n < side else (side - n) % stride for n in (width, height))
    pair = F.pad(torch.stack([noisy, estimate]), (0, right, 0, below), mode="replicate")  # (2 C H' W')
    rows, columns = ((n - side) // stride + 1 for n in pair.shape[-2:])
    places = [n - side + 1 for n in pair.shape[-2:]]
    group = min(GROUP, min(reach + 1, places[0]) * min(reach + 1, places[1]))  # a corner sees the fewest
    pair = F.pad(pair, (reach,) * 4, value=FAR)
    total, count = torch.zeros_like(pair[0]), torch.zeros_like(pair[0, :1])
    for down in _windows(rows, patches):
        for across in _windows(columns, patches):
            sums, times = _block(pair[:, :, down, across], sigma, patches, group)
            total[:, down, across] += sums
            count[:, down, across] += times
    inside = slice(reach, reach + height), slice(reach, reach + width)
    clean: Tensor = total[:, *inside] / count[:, *inside]
    return clean


def _windows(groups: int, patches: Patches) -> Iterator[slice]:
    """What each block of groups sees of the picture with its surroundings."""
    for first in range(0, groups, BLOCK):
        last = min(first + BLOCK, groups) - 1
        yield slice(first * patches.stride, last * patches.stride + patches.side + 2 * patches.reach)


def _block(pair: Tensor, sigma: float, patches: Patches, group: int) -> tuple[Tensor, Tensor]:
    """(2 C h w), noisy and estimate -> of each pixel what groups say, their sum (C h w), how many (1 h w)."""
    size, side = pair.shape[-2:], patches.side
    noisy, estimate = F.unfold(pair, side).mT  # (2 C h w) -> (2 C·S² L) -> two (L C·S²)
    members = _alike(pair[1], patches, group)  # (G K)
    own = estimate[members]  # (G K C·S²)
    mean = own.mean(1, keepdim=True)
    spread = (own - mean) * (SPREAD / max(1, group - 1)) ** 0.5  # C = spreadᵀ spread, of a rank below K
    inner = spread @ spread.mT  # (G K K)
    inner.diagonal(dim1=1, dim2=2).add_(sigma**2)
    # C (C + sigma² I)^-1 = spreadᵀ (spread spreadᵀ + sigma² I)^-1 spread: by the smaller matrix
    gain = torch.cholesky_solve(spread, torch.linalg.cholesky(inner))  # (G K C·S²)
    clean = mean + ((noisy[members] - mean) @ spread.mT) @ gain
    sums = torch.zeros_like(noisy).index_add_(0, members.flatten(), clean.flatten(0, 1))
    times = noisy.new_zeros(len(noisy)).index_add_(0, members.flatten(), noisy.new_ones(members.numel()))
    # (L C·S²) -> (C h w), (L) -> (1 h w): overlapping patches add up
    return (
        F.fold(sums.mT[None], size, side)[0],
        F.fold(times.expand(1, side**2, -1), size, side)[0],
    )


def _alike(estimate: Tensor, patches: Patches, group: int) -> Tensor:
    """(C h w) -> for every `stride`-th patch the places (G K) of the `group` patches most like it."""
    (side, reach), stride = patches, patches.stride
    height, width = (n - 2 * reach for n in estimate.shape[-2:])
    middle = estimate[:, reach : reach + height, reach : reach + width]
    apart = []
    for down in range(2 * reach + 1):
        for across in range(2 * reach + 1):
            step = middle - estimate[:, down : down + height, across : across + width]
            apart.append(F.avg_pool2d(step.square_().sum(0, keepdim=True), side, stride))  # (1 G' G")
    distance = torch.cat(apart)  # (O G' G")
    rows, columns = distance.shape[1:]
    nearest = distance.flatten(1).mT.contiguous().topk(group, largest=False, sorted=False).indices  # (G K)
    line = width + 2 * reach - side + 1
    steps = torch.arange(2 * reach + 1, device=estimate.device)
    offsets = (steps[:, None] * line + steps).flatten()  # (O)
    starts = torch.arange(rows, device=estimate.device)[:, None] * stride * line
    starts = (starts + torch.arange(columns, device=estimate.device) * stride).flatten()  # (G' G") -> (G)
    return starts[:, None] + offsets[nearest]
