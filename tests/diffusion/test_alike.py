"""Patches that look alike, denoised together: against the closed form, and where no pattern helps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from calotype.diffusion import alike
from calotype.diffusion.alike import Patches, alike_together

SMALL = Patches(5, 15)


def unit(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def psnr(found: Tensor, true: Tensor) -> float:
    return float(10 * torch.log10(4 / (found - true).square().mean()))


def stripes(height: int, width: int) -> Tensor:
    """(3 H W): a weave that repeats every 6 pixels across and 7 down."""
    down, across = torch.arange(height)[:, None], torch.arange(width)
    weave = 0.6 * torch.sign(torch.sin(2 * torch.pi * across / 6 + 0.3)) * torch.cos(2 * torch.pi * down / 7)
    return torch.stack([weave, 0.5 * weave, -0.3 * weave])


def by_hand(noisy: Tensor, estimate: Tensor, sigma: float, side: int, reach: int) -> Tensor:
    """The paper's step patch by patch in float64, for sides that end with a patch."""
    noisy, estimate = noisy.double(), estimate.double()
    height, width = noisy.shape[-2:]
    total, count = torch.zeros_like(noisy), torch.zeros(height, width)
    places = [(r, c) for r in range(height - side + 1) for c in range(width - side + 1)]

    def patch(of: Tensor, place: tuple[int, int]) -> Tensor:
        return of[:, place[0] : place[0] + side, place[1] : place[1] + side].flatten()

    for r in range(0, height - side + 1, side // 2 + 1):
        for c in range(0, width - side + 1, side // 2 + 1):
            own = patch(estimate, (r, c))
            near = [p for p in places if abs(p[0] - r) <= reach and abs(p[1] - c) <= reach]
            group = sorted(near, key=lambda p: float((patch(estimate, p) - own).square().sum()))
            group = group[: alike.GROUP]
            guess = torch.stack([patch(estimate, p) for p in group])  # (K D)
            mean = guess.mean(0)
            covariance = alike.SPREAD * torch.cov(guess.T)
            gain = covariance @ torch.linalg.inv(covariance + sigma**2 * torch.eye(len(own)))
            for p in group:
                clean = mean + gain @ (patch(noisy, p) - mean)
                total[:, p[0] : p[0] + side, p[1] : p[1] + side] += clean.reshape(-1, side, side)
                count[p[0] : p[0] + side, p[1] : p[1] + side] += 1
    return (total / count).float()


@pytest.mark.parametrize(("side", "size"), [(5, (17, 20)), (7, (19, 23))])
def test_is_the_closed_form_of_each_group(
    side: int, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alike, "GROUP", 12)
    clean = stripes(*size)
    estimate = clean + 0.05 * unit(3, *size, seed=1)
    noisy = clean + 0.3 * unit(3, *size)
    found = alike_together(noisy, estimate, 0.3, Patches(side, 4))
    torch.testing.assert_close(found, by_hand(noisy, estimate, 0.3, side, reach=4), atol=2e-5, rtol=0)


def test_a_pattern_helps_itself() -> None:
    """Where the picture repeats, noise is averaged away over the repetitions: far beyond the estimate."""
    clean = stripes(60, 60)
    noisy = clean + 0.3 * unit(3, 60, 60)
    estimate = clean + 0.1 * unit(3, 60, 60, seed=1)
    assert psnr(alike_together(noisy, estimate, 0.3, SMALL), clean) > psnr(estimate, clean) + 4


def test_blocks_leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    clean = stripes(70, 58)
    noisy, estimate = clean + 0.2 * unit(3, 70, 58), clean + 0.05 * unit(3, 70, 58, seed=1)
    whole = alike_together(noisy, estimate, 0.2, SMALL)
    monkeypatch.setattr(alike, "BLOCK", 4)
    torch.testing.assert_close(alike_together(noisy, estimate, 0.2, SMALL), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (5, 5), (6, 8), (4, 40), (33, 31)])
@pytest.mark.parametrize(("channels", "side"), [(1, 5), (3, 5), (3, 7)])
def test_any_size(size: tuple[int, int], channels: int, side: int) -> None:
    x = unit(channels, *size)
    found = alike_together(x, 0.8 * x, 0.3, Patches(side, 15))
    assert found.shape == x.shape
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("sigma", [1e-3, 20.0])
def test_hardly_any_noise_and_very_much(sigma: float) -> None:
    clean = stripes(24, 24)
    noisy = clean + sigma * unit(3, 24, 24)
    found = alike_together(noisy, clean, sigma, SMALL)
    assert torch.isfinite(found).all()
    assert float((found - clean).abs().max()) < (0.01 if sigma < 1 else 1.5)
