"""Changes of a network's layers that are kept beside its weights: LoRA and its kin.

    LoRA          Hu et al. 2021, arXiv:2106.09685, section 4.1: dW = (alpha / r) B A
    LoCon, LoHa, LoKr  Yeh et al. 2023, arXiv:2309.14859, section 3: the same for convolutions, Hadamard and
                  Kronecker products
    DoRA          Liu et al. 2024, arXiv:2402.09353, eq. 5: W + dW with the lengths of its rows learned apart

A change says what is added to one layer's weight; an `Adapter` puts changes on a network and takes them off.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from calotype.errors import InputError
from calotype.networks.narrow import convolve, linear, multiplied, pointwise, widened, working_dtype

Layer = nn.Linear | nn.Conv2d


class Change(nn.Module, ABC):
    """What is added to a layer; O and C are its channels out and in, h and w its kernel (none if linear).

    bias  (O), added to the layer's bias; None for nothing
    """

    def __init__(self, bias: Tensor | None = None) -> None:
        super().__init__()
        self.bias = None if bias is None else _kept(bias)

    @abstractmethod
    def weight(self, own: Tensor) -> Tensor:
        """The change of the weight `own`, (O C) or (O C h w), in its shape and dtype."""


class LowRank(Change):
    """LoRA: up (O r) times down (r C) or (r C h w), times `scale` = alpha / r.

    Beside a convolution, `mid` (r r h w) between a `down` and an `up` of single pixels is Tucker's form.
    """

    def __init__(self, down: Tensor, up: Tensor, scale: float, mid: Tensor | None = None) -> None:
        super().__init__()
        self.down = _kept(down)
        self.up = _kept(up)
        self.mid = None if mid is None else _kept(mid)
        self.scale = scale

    def weight(self, own: Tensor) -> Tensor:
        up, down = self.up.to(own), self.down.to(own).flatten(1)  # (O r), (r C h w) -> (r C*h*w)
        if self.mid is None:
            return (self.scale * up @ down).reshape(own.shape)
        whole: Tensor = torch.einsum("op,pqhw,qc->ochw", up, self.mid.to(own), down)
        return whole * self.scale

    def output(self, layer: Layer, x: Tensor) -> Tensor:
        """What it adds to the layer's output, never making the whole weight."""
        if isinstance(layer, nn.Linear):
            return self.scale * linear(linear(x, self.down), self.up)  # (… C) -> (… r) -> (… O)
        if self.mid is None:
            x = convolve(layer, x, self.down)  # (B C H W) -> (B r H' W')
        else:
            x = convolve(layer, pointwise(x, self.down.flatten(1)), self.mid)
        return self.scale * pointwise(x, self.up)  # (B r H' W') -> (B O H' W')


def fresh(layer: Layer, rank: int, alpha: float, generator: torch.Generator) -> LowRank:
    """A LoRA to be trained: down as PyTorch fills a layer, up 0, so that nothing changes yet (4.1).

    The rank is at most what the layer's weight can have; alpha / rank is as asked for.
    """
    out, into = len(layer.weight), layer.weight[0].numel()
    held = min(rank, out, into)
    bound = into**-0.5  # of kaiming_uniform_ with a = sqrt(5)
    down = torch.rand(held, *layer.weight.shape[1:], generator=generator) * 2 * bound - bound
    change = LowRank(down.to(layer.weight), layer.weight.new_zeros(out, held), alpha / rank)
    return change.requires_grad_(True)


class Hadamard(Change):
    """LoHa: the entrywise product of two low-rank matrices, each a pair (O r), (r C*h*w).

    In Tucker's form each is (r O), (r C) around a core (r r h w).
    """

    def __init__(
        self, pairs: tuple[tuple[Tensor, Tensor], ...], scale: float, cores: tuple[Tensor, ...] = ()
    ) -> None:
        super().__init__()
        self.pairs = nn.ParameterList(_kept(value) for pair in pairs for value in pair)
        self.cores = nn.ParameterList(_kept(core) for core in cores)
        self.scale = scale

    def weight(self, own: Tensor) -> Tensor:
        a1, b1, a2, b2 = (value.to(own) for value in self.pairs)
        if not self.cores:
            flat: Tensor = (a1 @ b1) * (a2 @ b2)
            return (self.scale * flat).reshape(own.shape)  # (O C*h*w) -> (O C h w)
        first, second = (
            torch.einsum("pqhw,qc,po->ochw", core.to(own), b, a)
            for core, a, b in zip(self.cores, (a1, a2), (b1, b2), strict=True)
        )
        return self.scale * first * second


class Kronecker(Change):
    """LoKr: the Kronecker product of (a b) and (O/a C/b) or (O/a C/b h w)."""

    def __init__(self, first: Tensor, second: Tensor, scale: float) -> None:
        super().__init__()
        self.first = _kept(first)
        self.second = _kept(second)
        self.scale = scale

    def weight(self, own: Tensor) -> Tensor:
        second = self.second.to(own)
        first = self.first.to(own).reshape(*self.first.shape, *[1] * (second.ndim - 2))  # (a b) -> (a b 1 1)
        whole = torch.kron(first, second.contiguous())  # which it views, and does not check
        return (self.scale * whole).reshape(own.shape)


class Difference(Change):
    """The change itself: (O C) or (O C h w), and of the bias (O)."""

    def __init__(self, difference: Tensor, bias: Tensor | None = None) -> None:
        super().__init__(bias)
        self.difference = _kept(difference)

    def weight(self, own: Tensor) -> Tensor:
        return self.difference.to(own).reshape(own.shape)


class Decomposed(Change):
    """DoRA: the sum of the weight and a change, brought to learned lengths along one axis.

    axis       0 for a length of each channel out (PEFT), 1 of each channel in (the paper, older LyCORIS)
    magnitude  the lengths: (O 1 …) or (1 C …)
    """

    def __init__(self, change: Change, magnitude: Tensor, axis: int) -> None:
        super().__init__()
        self.change = change
        self.magnitude = _kept(magnitude)
        self.axis = axis

    def weight(self, own: Tensor) -> Tensor:
        whole = own + self.change.weight(own)
        rest = [axis for axis in range(own.ndim) if axis != self.axis]
        length = torch.linalg.vector_norm(whole, dim=rest, keepdim=True)
        changed: Tensor = whole * (self.magnitude.to(own) / length.clamp_min(torch.finfo(own.dtype).tiny))
        return changed - own


class Beside(nn.Module):
    """A layer and changes at work beside it, each with its strength; `weight` and `bias` are the layer's."""

    def __init__(self, layer: Layer, changes: Sequence[tuple[Change, float]]) -> None:
        super().__init__()
        self.layer = layer
        self.changes = nn.ModuleList(change for change, _ in changes)
        self.strengths = tuple(strength for _, strength in changes)

    @property
    def weight(self) -> Tensor:
        return self.layer.weight

    @property
    def bias(self) -> Tensor | None:
        return self.layer.bias

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        for change, strength in zip(self.changes, self.strengths, strict=True):
            assert isinstance(change, Change)
            y = y + strength * _output(change, self.layer, x)
        return y


class Adapter:
    """Changes on the layers of one network; its own weights stay as they are and come back to the bit."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._own: list[tuple[nn.Module, str, nn.Module | nn.Parameter]] = []

    @torch.no_grad()
    def apply(self, loras: Sequence[tuple[Mapping[str, Change], float]], *, live: bool = False) -> None:
        """Sets of changes by the path of their layer, and how strongly each set; earlier ones are removed.

        All changes of a layer are made from its own weight and added.  Live, they are computed beside the
        layers: no second copy of the weights, and every call takes longer.  Else they are added to the
        weights, in float32 at least.
        Raises InputError for a path that is no linear layer or convolution.
        """
        self.remove()
        dtype = working_dtype(self.network)
        by_path: dict[str, list[tuple[Change, float]]] = {}
        for changes, strength in loras:
            for path, change in changes.items():
                by_path.setdefault(path, []).append((change, strength))
        layers = {path: self._layer(path) for path in by_path}
        for path, found in by_path.items():
            layer = layers[path]
            if live:
                moved = [(_moved(change, layer.weight.device, dtype), part) for change, part in found]
                self._beside(path, layer, moved)
            else:
                self._merge(layer, found, dtype)

    def attach(self, changes: Mapping[str, Change]) -> None:
        """The changes themselves, no copies, at work beside their layers at full strength: to be trained.

        Earlier ones are removed.  Raises InputError as `apply`.
        """
        self.remove()
        layers = {path: self._layer(path) for path in changes}
        for path, change in changes.items():
            self._beside(path, layers[path], [(change, 1.0)])

    def remove(self) -> None:
        """The network as it was."""
        while self._own:
            owner, name, value = self._own.pop()
            setattr(owner, name, value)

    def _layer(self, path: str) -> Layer:
        layer = self.network.get_submodule(path)
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            raise InputError(f"{path} is a {type(layer).__name__}, which a LoRA cannot change.")
        return layer

    def _beside(self, path: str, layer: Layer, changes: Sequence[tuple[Change, float]]) -> None:
        parent, _, name = path.rpartition(".")
        self._put(self.network.get_submodule(parent), name, Beside(layer, changes))

    def _put(self, owner: nn.Module, name: str, value: nn.Module | nn.Parameter) -> None:
        self._own.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    def _merge(self, layer: Layer, changes: Sequence[tuple[Change, float]], dtype: torch.dtype) -> None:
        own = _wide(widened(layer.weight, multiplied(dtype, layer.weight.device)))
        weight = own.clone()
        bias = None if layer.bias is None else _wide(layer.bias).clone()
        for change, strength in changes:
            weight += strength * change.weight(own)
            if change.bias is not None and bias is not None:
                bias += strength * change.bias.to(bias)
        grad = layer.weight.requires_grad
        self._put(layer, "weight", nn.Parameter(weight.to(dtype), grad))
        if bias is not None and any(change.bias is not None for change, _ in changes):
            self._put(layer, "bias", nn.Parameter(bias.to(dtype), grad))


N = TypeVar("N", bound=nn.Module)


def sharing(network: N) -> N:
    """A twin with modules of its own and the same tensors: changed, it leaves the network as it is."""
    twin = copy.copy(network)
    twin._parameters, twin._buffers = dict(network._parameters), dict(network._buffers)
    twin._modules = {
        name: None if child is None else sharing(child) for name, child in network._modules.items()
    }
    return twin


def _kept(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value, requires_grad=False)


def _wide(value: Tensor) -> Tensor:
    return value.detach().to(torch.promote_types(value.dtype, torch.float32))


def _moved(change: Change, device: torch.device, dtype: torch.dtype) -> Change:
    """A copy on the device; factors that multiply the input also in what the network computes in."""
    return copy.deepcopy(change).to(device, dtype if isinstance(change, LowRank) else None)


def _output(change: Change, layer: Layer, x: Tensor) -> Tensor:
    if isinstance(change, LowRank):
        return change.output(layer, x)
    dtype = multiplied(x.dtype, x.device)
    weight = change.weight(_wide(widened(layer.weight, dtype))).to(dtype)
    bias = None if change.bias is None else change.bias.to(dtype)
    return linear(x, weight, bias) if isinstance(layer, nn.Linear) else convolve(layer, x, weight, bias)
