"""Windows: what they see, and that their answers agree."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import unit
from torch import Tensor

from calotype.diffusion.windows import Windows, mapped, windowed


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
    st.tuples(st.booleans(), st.booleans()),
    st.integers(1, 3),
)
def test_what_is_taken_apart_comes_together(
    size: tuple[int, int], window: tuple[int, int], wrap: tuple[bool, bool], factor: int
) -> None:
    windows = Windows(size, window, wrap)
    x = unit(2, 3, size[0] * factor, size[1] * factor)
    parts = [windows.take(x, i, factor) for i in range(len(windows))]
    for part in parts:
        for side, most, whole, ends_meet in zip(part.shape[-2:], window, size, wrap, strict=True):
            assert side <= most * factor or (ends_meet and whole <= most)
    torch.testing.assert_close(windows.blend(parts, factor), x, rtol=0, atol=1e-12)


def blur(x: Tensor) -> Tensor:
    """A network that knows its border: a 5x5 mean over zeros beyond it."""
    weight = torch.ones(1, 1, 5, 5, dtype=x.dtype) / 25
    return F.conv2d(x, weight, padding=2)


def test_ends_that_meet_agree() -> None:
    windows = Windows((18, 24), (8, 8), (True, True))
    x, sigma = unit(1, 1, 18, 24), torch.ones(1)
    denoiser = windowed(windows, [lambda part, _: blur(part)] * len(windows))
    here = denoiser(x, sigma)
    for down, across in ((6, 0), (0, 6), (12, 18)):  # by whole strides the windows fall on one another
        there = denoiser(x.roll((down, across), (2, 3)), sigma)
        torch.testing.assert_close(there, here.roll((down, across), (2, 3)))
    # seen whole, the border shows
    assert (blur(x.roll(8, 3)) - blur(x).roll(8, 3)).abs().max() > 0.1


@pytest.mark.parametrize("wrap", [True, False])
def test_a_map_of_one_window(wrap: bool) -> None:
    windows = Windows((8, 8), (20, 20), (wrap, wrap))
    assert len(windows) == 1
    assert windows.take(unit(1, 1, 8, 8), 0).shape[-2:] == ((12, 12) if wrap else (8, 8))
    x = unit(1, 1, 8, 8)
    once = mapped(windows, blur, x, 1, 1)
    assert torch.allclose(once, blur(x)) == (not wrap)
    if wrap:
        round_ = F.conv2d(F.pad(x, (2, 2, 2, 2), mode="circular"), torch.ones(1, 1, 5, 5).double() / 25)
        assert (once - round_).abs().max() < 0.5 * (blur(x) - round_).abs().max()


def test_coarse_and_fine_maps() -> None:
    windows = Windows((10, 10), (4, 4), (False, True))
    x = unit(1, 2, 40, 40)
    small = mapped(windows, lambda part: F.avg_pool2d(part, 4), x, 4, 1)
    torch.testing.assert_close(small, F.avg_pool2d(x, 4))
    large = mapped(windows, lambda part: F.interpolate(part, scale_factor=4), small, 1, 4)
    torch.testing.assert_close(large, F.interpolate(small, scale_factor=4))
