"""Layers that take their weights as a file of 16 bits holds them, and widen them when they work.

So nothing is converted before the first step, and what never works never is.  A layer widens its weight once,
for good, or, where memory is short, each time anew: no second copy of the weights then, and steps that take a
tenth longer (docs/measured.md).  Where networks compute in bf16, a weight of fp16 becomes bf16 likewise.

Where a processor has no units for the 16 bits that were asked for, a layer multiplies in float32 and rounds
the result: the sums that such units would give, which PyTorch's emulation takes ten times as long to find.
It does so some rows at once, so that little is ever held in float32.  Weights that lie in their file stay in
its 16 bits; if those are fp16's, and the network computes in bf16, they are not rounded to it, and its error
is a seventh less.
"""

from collections.abc import Callable
from mmap import ACCESS_COPY, mmap
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calotype.networks import processor

Widen = Literal["now", "once", "always"]
"""When 16-bit weights of large layers become float32, or bf16, to draw on a CPU: as they are loaded; by the
layer that needs them first, for good; by every call again, and never kept.  What is widened only to be
multiplied, while the network computes in 16 bits, is never kept.
"""


ROWS, NUMBERS = 1024, 2**21
"""Rows at once where 16 bits are multiplied in float32, and numbers in and out, whichever allows more rows:
they stay in the processor's cache, and weights are read seldom."""


class Narrow:
    """Beside nn.Linear or nn.Conv2d: the layer's weight may be of fewer bits than what it is given, or of as
    many and another kind.

    rarely          whether it works once for a picture, and not at every step
    keeps           whether it widens its weight for good; else anew each time
    after_widening  lets go of where the narrow weight lies
    """

    weight: Tensor
    rarely = False
    keeps = False
    after_widening: Callable[[], None] | None = None

    def wide(self, x: Tensor) -> Tensor:
        """The weight in the numbers in which x is multiplied."""
        weight, dtype = self.weight, multiplied(x.dtype, x.device)
        # autocast is asked about last, as it does not know every device
        if not is_narrow(weight, dtype) or torch.is_autocast_enabled(x.device.type):
            return weight
        if self.keeps and dtype != x.dtype:  # kept are the 16 bits, where they lie
            return widened(weight, dtype)
        if self.keeps:
            made = weight.data = _apart(weight.detach(), dtype)  # the parameter's, which twins share
        else:
            made = widened(weight, dtype)
        self.let_go()
        return made

    def let_go(self) -> None:
        """Of where the narrow weight lies, once it has been read."""
        if self.after_widening is not None:
            self.after_widening()


class Linear(Narrow, nn.Linear):
    """(… C) -> (… O)."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.wide(x), self.bias)


class Conv2d(Narrow, nn.Conv2d):
    """(B C H W) -> (B O H' W')."""

    def forward(self, x: Tensor) -> Tensor:
        return convolve(self, x, self.wide(x), self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(… C), (O C), (O) -> (… O)."""
    if _has_units(x) or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return _in_units(F.linear, x, weight, bias)
    rows = x.reshape(-1, x.shape[-1])  # (… C) -> (N C)
    y = x.new_empty(len(rows), len(weight))
    weight, bias = weight.float(), None if bias is None else bias.float()
    many = max(ROWS, NUMBERS // sum(weight.shape))
    for some, into in zip(rows.split(many), y.split(many), strict=True):
        into.copy_(F.linear(some.float(), weight, bias))
    return y.reshape(*x.shape[:-1], len(weight))  # (N O) -> (… O)


def convolve(layer: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As the layer goes over the picture: (B C H W), (O C h w), (O) -> (B O H' W')."""
    pixels = weight.shape[2:] == (1, 1) and layer.stride == (1, 1) and layer.padding == (0, 0)
    if pixels and layer.groups == 1 and not _has_units(x):
        return pointwise(x, weight.flatten(1), bias)  # (O C 1 1) -> (O C)
    return _in_units(layer._conv_forward, x, weight, bias)


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Each pixel by itself: (B C H W), (O C), (O) -> (B O H W)."""
    if _has_units(x):
        return F.conv2d(x, weight[:, :, None, None], bias)
    return linear(x.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)  # by (B H W C)


def multiplied(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The numbers in which a layer multiplies `dtype`: float32 for 16 bits that a CPU would emulate."""
    if device.type != "cpu" or processor.multiplies(dtype) or torch.is_autocast_enabled("cpu"):
        return dtype
    return torch.float32


def _has_units(x: Tensor) -> bool:
    """Whether a layer multiplies x in its own numbers."""
    return multiplied(x.dtype, x.device) == x.dtype


def _in_units(function: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A product in the numbers that the processor multiplies, rounded to those of x."""
    if _has_units(x):
        return function(x, weight, bias)
    return function(x.float(), weight.float(), None if bias is None else bias.float()).to(x.dtype)


def is_narrow(weight: Tensor, dtype: torch.dtype) -> bool:
    """Whether a layer has to widen the weight to compute in `dtype`."""
    return weight.dtype != dtype and weight.dtype.itemsize <= dtype.itemsize


def widened(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight as a layer multiplies it that computes in `dtype`."""
    return weight.to(dtype, memory_format=form(weight)) if is_narrow(weight, dtype) else weight


def form(weight: Tensor) -> torch.memory_format:
    """How a copy of a weight is to lie in memory."""
    return torch.channels_last if weight.ndim == 4 else torch.preserve_format


def narrow_layers(network: nn.Module) -> dict[str, Narrow]:
    """The layers whose weights may be of fewer bits than what the network computes in, by their paths."""
    return {path: layer for path, layer in network.named_modules() if isinstance(layer, Narrow)}


def work_rarely(network: nn.Module) -> None:
    """Says of its layers that they work once for a picture."""
    for layer in narrow_layers(network).values():
        layer.rarely = True


def working_dtype(network: nn.Module, default: torch.dtype = torch.float32) -> torch.dtype:
    """What a network computes in: the number type of its parameters but the narrow ones, `default` where it
    has no others.
    """
    for layer in network.modules():
        for name, value in layer.named_parameters(recurse=False):
            if not (isinstance(layer, Narrow) and name == "weight"):
                return value.dtype
    return default


def _apart(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy in pages of its own: among the maps that come and go it would keep the heap from closing up."""
    made = torch.empty_like(weight, dtype=dtype, device="meta", memory_format=form(weight))
    pages = torch.frombuffer(mmap(-1, made.numel() * dtype.itemsize, access=ACCESS_COPY), dtype=dtype)
    return pages.as_strided(made.shape, made.stride()).copy_(weight)
