"""Operators: adjoints, own solvers, and agreement with Pillow."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from calotype.diffusion.measurement import LinearOperator, conjugate_gradients
from calotype.errors import InputError
from calotype.tasks.operators import (
    Blur,
    Mask,
    Separable,
    downscaling,
    filled,
    gaussian,
    gaussian_blur,
    resampling,
)


def unit(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


KERNEL = torch.tensor([[0.0, 0.1, 0.2], [0.0, 0.5, 0.1], [0.1, 0.0, 0.0]])


def operators() -> list[LinearOperator]:
    known = (unit(1, 1, 12, 16, seed=1) > 0).float()
    return [Mask(known), downscaling(12, 16, 4), gaussian_blur(12, 16, 1.3), Blur(KERNEL)]


@pytest.mark.parametrize("which", range(4))
def test_adjoints(which: int) -> None:
    operator = operators()[which]
    x = unit(2, 3, 12, 16, seed=2)
    y = operator.forward(unit(2, 3, 12, 16, seed=3))
    left, right = (operator.forward(x) * y).sum(), (x * operator.adjoint(y)).sum()
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("which", range(3))
def test_own_solvers_agree_with_conjugate_gradients(which: int) -> None:
    operator = operators()[which]
    assert isinstance(operator, Mask | Separable)
    right = operator.forward(unit(2, 3, 12, 16, seed=4))

    def product(u: Tensor) -> Tensor:
        return 0.3 * operator.forward(operator.adjoint(u)) + 0.02 * u

    found = operator.solve(right, 0.3, 0.02)
    torch.testing.assert_close(found, conjugate_gradients(product, right), rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_downscaling_is_pillows(scale: int) -> None:
    height, width = 24, 36
    x = unit(1, 1, height, width, seed=5)
    small = (width // scale, height // scale)
    expected = np.asarray(Image.fromarray(x[0, 0].numpy()).resize(small, Image.Resampling.BICUBIC))
    found = downscaling(height, width, scale).forward(x)[0, 0].numpy()
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_downscaling_keeps_what_is_flat_and_refuses_remainders() -> None:
    np.testing.assert_allclose(resampling(30, 10).sum(1), 1)
    np.testing.assert_allclose(gaussian(30, 2.0).sum(1), 1)
    with pytest.raises(InputError, match="whole multiples"):
        downscaling(30, 31, 3)


def test_a_blur_convolves() -> None:
    """A single point becomes the kernel itself, not its mirror image."""
    x = torch.zeros(1, 1, 7, 7)
    x[..., 3, 3] = 1
    torch.testing.assert_close(Blur(KERNEL).forward(x)[0, 0, 2:5, 2:5], KERNEL)


def test_a_mask_solves_without_noise() -> None:
    known = torch.tensor([[1.0, 0.0]])[None, None]
    found = Mask(known).solve(torch.tensor([[3.0, 0.0]])[None, None], 0.5, 0.0)
    torch.testing.assert_close(found, torch.tensor([[6.0, 0.0]])[None, None])


@pytest.mark.parametrize("size", [(33, 50), (1, 40), (64, 64)])
def test_holes_are_filled_smoothly(size: tuple[int, int]) -> None:
    """What is flat stays flat; a ramp, which solves Laplace's equation, comes back inside the picture."""
    height, width = size
    ramp = torch.linspace(-1, 1, width).expand(1, 3, height, width).clone()
    known = torch.ones(1, 1, height, width)
    known[..., height // 4 : height // 2 + 1, 10:25] = 0
    torch.testing.assert_close(filled(known * 0.3, known), torch.full_like(known, 0.3))
    found = filled(ramp * known, known)
    torch.testing.assert_close(found * known, ramp * known)
    if height > 1:
        assert float((found - ramp).abs().max()) < 0.1
