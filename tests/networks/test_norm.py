"""The quick backward pass of GroupNorm on channels-last maps, beside PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F
from tests.networks.reference import randomise, relative_error
from torch import Tensor

from calotype.networks.norm import GroupNorm, channels_last_norm


def maps(dtype: torch.dtype, size: tuple[int, int] = (6, 5)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = (
        torch.randn(3, 8, *size, generator=generator, dtype=torch.float64) + 2
    )  # off centre, where sums cancel
    grad = torch.randn(3, 8, *size, generator=generator, dtype=torch.float64)
    return (
        x.to(dtype).contiguous(memory_format=torch.channels_last),
        grad.to(dtype).contiguous(memory_format=torch.channels_last),
    )


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.03)]
)
@pytest.mark.parametrize(("groups", "size"), [(1, (6, 5)), (4, (6, 5)), (8, (6, 5)), (4, (32, 33))])
def test_equals_pytorch(
    silu: bool, dtype: torch.dtype, tolerance: float, groups: int, size: tuple[int, int]
) -> None:
    norm = GroupNorm(groups, 8, 1e-6, silu=silu).double()
    randomise(norm)
    x, grad = maps(dtype, size)
    exact = x.detach().double().contiguous().requires_grad_()
    y = F.group_norm(exact, groups, norm.weight, norm.bias, 1e-6)
    y = F.silu(y) if silu else y
    wanted = [y, *torch.autograd.grad(y, (exact, norm.weight, norm.bias), grad.double())]

    norm = norm.to(dtype if dtype != torch.bfloat16 else torch.float32)  # as under autocast
    x.requires_grad_()
    y = norm(x)
    found = [y, *torch.autograd.grad(y, (x, norm.weight, norm.bias), grad)]
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert y.dtype == dtype
    for a, b in zip(found, wanted, strict=True):
        assert relative_error(a.double(), b) <= tolerance


def test_gradients_by_differences() -> None:
    x = maps(torch.float64)[0][:1].requires_grad_()
    weight, bias = torch.randn(2, 8, dtype=torch.float64, requires_grad=True).unbind()
    assert torch.autograd.gradcheck(lambda *args: channels_last_norm(*args, 4, 1e-6, True), (x, weight, bias))


@torch.no_grad()
def test_the_same_without_gradients_and_in_either_memory_format() -> None:
    norm = GroupNorm(4, 8, 1e-6, silu=True).double()
    randomise(norm)
    x = maps(torch.float64)[0]
    with torch.enable_grad():
        wanted = norm(x)
    assert relative_error(norm(x), wanted) <= 1e-14
    assert relative_error(norm(x.contiguous()), wanted) <= 1e-14


def test_one_picture_may_have_any_stride() -> None:
    norm = GroupNorm(1, 16, 1e-5)  # so many channels a group that the map goes to PyTorch as it lies
    x = torch.randn(2, 16, 5, 5).contiguous(memory_format=torch.channels_last)[:1]
    odd = x.as_strided(x.shape, (1, *x.stride()[1:]))
    assert torch.equal(norm(odd), norm(x))
