"""Group normalisation that is quick on channels-last maps.

On a CPU PyTorch's own kernels walk such maps group by group in strided steps, forwards (on maps of
less than 1024 pixels) and backwards: with 32 groups over 32 channels of 128x128 in bf16 the backward
pass alone took half of a training step.  The ways round it here give the same numbers.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """Group normalisation (Wu & He 2018, arXiv:1803.08494, eq. 7), then SiLU if asked for.

    (B C H W) -> (B C H W), or (B C N) -> (B C N).
    """

    def __init__(self, groups: int, channels: int, eps: float, *, silu: bool = False) -> None:
        super().__init__(groups, channels, eps)
        self.silu = silu

    def forward(self, x: Tensor) -> Tensor:
        if (
            x.device.type == "cpu"
            and not torch.compiler.is_compiling()
            and x.is_contiguous(memory_format=torch.channels_last)
        ):
            return channels_last_norm(x, self.weight, self.bias, self.num_groups, self.eps, self.silu)
        y = super().forward(x)
        return F.silu(y) if self.silu else y


def channels_last_norm(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool
) -> Tensor:
    """Group normalisation, and SiLU if asked for, of a map (B C H W) that lies channels-last."""
    if len(x) == 1:  # whose stride from row to row may be any, by which PyTorch's kernel would misjudge it
        channels, height, width = x.shape[1:]
        x = x.as_strided(x.shape, (channels * height * width, 1, width * channels, channels))
    if not torch.is_grad_enabled():
        y = _normed(x, weight, bias, groups, eps)[0]
        return F.silu(y, inplace=True) if silu else y  # in place: a decoder's maps are hundreds of MB
    made: Tensor = _ChannelsLastNorm.apply(x, weight, bias, groups, eps, silu)  # type: ignore[no-untyped-call]
    return made


def _normed(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised (B C H W), channels-last; mean and 1/deviation (B groups)."""
    batch, channels, height, width = x.shape
    pixels = height * width
    detour = pixels < 1024 and channels // groups < 16  # where the channels-last kernel is slowest
    y, mean, rstd = torch.native_group_norm(
        x.contiguous() if detour else x, weight, bias, batch, channels, pixels, groups, eps
    )
    return y.contiguous(memory_format=torch.channels_last), mean, rstd


class _ChannelsLastNorm(torch.autograd.Function):
    """The same function, differentiated by sums per picture and channel, then one affine map."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool
    ) -> Tensor:
        y, mean, rstd = _normed(x, weight, bias, groups, eps)
        ctx.save_for_backward(x, weight, mean, rstd, *([y] if silu else []))
        ctx.silu = silu
        return F.silu(y) if silu else y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # once: where blocks are recomputed, they cannot be unpacked again
        x, weight, mean, rstd = saved[:4]
        grad = grad.contiguous(memory_format=torch.channels_last)
        if ctx.silu:
            grad = torch.ops.aten.silu_backward(grad, saved[4])
        channels, height, width = x.shape[1:]
        exact = torch.promote_types(x.dtype, torch.float32)  # for everything smaller than a map
        repeats = channels // mean.shape[1]
        mean = mean.to(exact).repeat_interleave(repeats, 1)  # (B groups) -> (B C)
        rstd = rstd.to(exact).repeat_interleave(repeats, 1)  # (B groups) -> (B C)
        weight = weight.to(exact)

        def channel_sum(values: Tensor) -> Tensor:
            # Rows are summed in x's own type, which is the fast kernel, and the row sums exactly.
            rows = values.permute(0, 2, 3, 1).sum(2)  # (B C H W) -> (B H W C) -> (B H C)
            return rows.sum(1, dtype=exact)  # (B H C) -> (B C)

        grad_sum, grad_x_sum = channel_sum(grad), channel_sum(grad * x)
        grad_hat_sum = (grad_x_sum - mean * grad_sum) * rstd  # against the normalised x, (B C)

        def group_mean(sums: Tensor) -> Tensor:
            means: Tensor = (sums * weight).unflatten(1, (-1, repeats)).sum(2) / (repeats * height * width)
            return means.repeat_interleave(repeats, 1)  # (B C) -> (B groups) -> (B C)

        # With x^ = (x - mean) rstd, the gradient is rstd (weight grad - <weight grad> - x^ <weight grad x^>),
        # means over each group: an affine map of x and grad per picture and channel.
        slope = -rstd.square() * group_mean(grad_hat_sum)
        offset = -rstd * group_mean(grad_sum) - mean * slope

        def as_map(values: Tensor) -> Tensor:
            return values.to(x.dtype)[:, :, None, None]  # (B C) -> (B C 1 1)

        grad_x = torch.addcmul(as_map(offset), x, as_map(slope)).addcmul_(grad, as_map(rstd * weight))
        return grad_x, grad_hat_sum.sum(0), grad_sum.sum(0), None, None, None
