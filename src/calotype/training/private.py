"""Training with differential privacy: DP-SGD (Abadi et al. 2016, arXiv 1607.00133), by opacus.

Every picture's gradient is cut to the length `clip` and noise is added to the sum, so that the weights tell
little of whether any one picture was there: (epsilon, delta), for sets that differ in one picture.  What they
promise holds while two things stay secret: which pictures a step saw, and the noise.  Both come from a key
that lies in the run's folder, for resuming, and goes into nothing else.
"""

from __future__ import annotations

import functools
import secrets
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calotype import durable
from calotype.errors import InputError, TrainingError
from calotype.networks.convolution import Conv3x3
from calotype.networks.narrow import Conv2d, Linear
from calotype.networks.norm import GroupNorm
from calotype.training.config import DiffusionTraining
from calotype.training.objective import Objective
from calotype.training.order import BatchOrder, step_generator

KEY = "privacy-key"
"""The file in the run's folder that must not leave it."""


class PoissonOrder(BatchOrder):
    """Each picture is in a step's batch with the same chance, whoever else is, as the accounting assumes."""

    def __init__(self, count: int, batch: int, key: str) -> None:
        super().__init__(count, batch, 0)
        self._key = key

    def indices(self, step: int) -> Tensor:
        """The pictures of step `step`: (n) int64, n being `batch` on average."""
        chances = torch.rand(self.count, generator=step_generator(0, step, f"private order {self._key}"))
        return (chances < self.batch / self.count).nonzero()[:, 0]  # (n 1) -> (n)


class Private:
    """Private gradients for one run of `count` pictures: `gradient` leaves them in the parameters.

    Raises InputError where the configuration cannot be kept private, TrainingError without opacus or where
    the key of a run that goes on is lost.
    """

    def __init__(self, config: DiffusionTraining, count: int, folder: Path, *, resume: bool) -> None:
        assert config.epsilon is not None
        if config.delta * count >= 1:
            raise InputError(
                f"Training option delta is {config.delta:g}, which leaves one of {count} pictures bare; "
                f"give less than 1 in as many: {0.1 / count:.1g}."
            )
        if config.batch > count:
            raise InputError(f"batch is {config.batch}, but there are {count} pictures; give fewer.")
        if config.recompute:
            raise InputError(
                "A private run keeps every picture's gradient apart, which recompute undoes; use accumulate."
            )
        if config.aspect != 1:
            raise InputError("A private run's batches are of one shape; leave aspect out.")
        if config.balance:
            raise InputError("A private run draws every picture with the same chance; leave balance out.")
        self.config, self.count, self.path = config, count, folder / KEY
        self.key = _kept(self.path) if resume else secrets.token_hex(32)
        self.order = PoissonOrder(count, config.batch, self.key)
        self.noise = _least_noise(config.epsilon, config.delta, config.batch / count, config.steps)
        self._optimizer: Any = None

    def attach(self, objective: Objective, optimizer: torch.optim.Optimizer) -> None:
        """Watch the module's layers, so that a backward pass leaves every picture's gradient."""
        library = _opacus("grad_sample")
        known = library.GradSampleHooks.GRAD_SAMPLERS
        # opacus takes its patches by the strides of (B C H W), which channels-last pictures do not have
        known |= {GroupNorm: _of_norm, Conv3x3: _of_convolution, Conv2d: _of_convolution}
        known[Linear] = known[nn.Linear]  # which it looks up by the very class
        library.GradSampleHooks(objective)
        self._optimizer = _opacus("optimizers").DPOptimizer(
            optimizer,
            noise_multiplier=self.noise,
            max_grad_norm=self.config.clip,
            expected_batch_size=self.config.batch,
        )

    def gradient(
        self, module: nn.Module, batch: Mapping[str, Tensor], step: int, inside: Any = None
    ) -> dict[str, Tensor]:
        """Leave the private gradient of batch `step` in the parameters; the batch's scalars, which are not
        private.  `inside` is a context for the forward pass.
        """
        parameters: list[nn.Parameter] = self._optimizer.params
        device, rows = parameters[0].device, len(next(iter(batch.values())))
        sums: dict[str, Tensor] = {"loss": torch.zeros((), device=device)}  # of a batch that came out empty
        for parameter in parameters:
            parameter.summed_grad = torch.zeros_like(parameter)  # type: ignore[attr-defined]
        pieces = [value.chunk(self.config.accumulate) for value in batch.values()] if rows else []
        for piece in zip(*pieces, strict=True):
            with inside or nullcontext():
                parts = module(**dict(zip(batch, piece, strict=True)))
            with warnings.catch_warnings():
                # opacus watches the first layers too, whose inputs are data and have no gradient
                warnings.filterwarnings("ignore", "Full backward hook is firing")
                parts["loss"].backward()
            self._optimizer.clip_and_accumulate()
            for parameter in parameters:
                parameter.grad_sample = parameter.grad = None  # type: ignore[attr-defined]
            for name, part in parts.items():
                sums[name] = sums.get(name, 0) + part.detach().float() * len(piece[0]) / rows
        seed = step_generator(0, step, f"private noise {self.key}").initial_seed()
        self._optimizer.generator = torch.Generator(device).manual_seed(seed)
        self._optimizer.add_noise()
        for parameter in parameters:
            assert parameter.grad is not None
            parameter.grad /= self.config.batch  # the number expected, as the batch's own would tell
            parameter.summed_grad = None  # type: ignore[attr-defined]
        return sums

    def spent(self, steps: int) -> dict[str, Any]:
        """What the weights after so many updates are known to keep, as the report states it."""
        accountant = _opacus("accountants").RDPAccountant()
        accountant.history = [(self.noise, self.config.batch / self.count, steps)]
        return {
            "epsilon": round(float(accountant.get_epsilon(self.config.delta)), 4) if steps else 0.0,
            "delta": self.config.delta,
            "noise_multiplier": self.noise,
            "clip": self.config.clip,
            "sampling_rate": self.config.batch / self.count,
            "updates": steps,
            "accountant": "RDP, Poisson sampling, one picture added or removed",
        }

    def keep_key(self) -> None:
        """Write the key into the run's folder, for its owner's eyes."""
        partial = self.path.with_suffix(".tmp")
        partial.touch(mode=0o600)
        partial.write_text(self.key, encoding="ascii")
        durable.rename(partial, self.path)


@functools.lru_cache
def _least_noise(epsilon: float, delta: float, rate: float, steps: int) -> float:
    """The deviation of the noise, in lengths of a clipped gradient, that keeps to the budget over the run."""
    find = _opacus("accountants.utils").get_noise_multiplier
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the search tries noise too small to account for, and goes on
        found = find(
            target_epsilon=epsilon, target_delta=delta, sample_rate=rate, steps=steps, accountant="rdp"
        )
    return float(found)


def _kept(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError as error:
        raise TrainingError(
            f"{path}, which a private run needs to go on, cannot be read ({error.strerror}); begin a new run."
        ) from error


def _of_norm(layer: GroupNorm, activations: list[Tensor], backprops: Tensor) -> dict[nn.Parameter, Tensor]:
    """Every picture's gradient of a GroupNorm's weight and bias, its SiLU included."""
    normal = F.group_norm(activations[0], layer.num_groups, eps=layer.eps)  # (B C H W)
    if layer.silu:
        shape = (1, -1, *[1] * (normal.ndim - 2))
        inner = normal * layer.weight.view(shape) + layer.bias.view(shape)
        backprops = torch.ops.aten.silu_backward(backprops, inner)
    return {
        layer.weight: (normal * backprops).flatten(2).sum(2),  # (B C H W) -> (B C)
        layer.bias: backprops.flatten(2).sum(2),
    }


def _of_convolution(layer: nn.Conv2d, activations: list[Tensor], backprops: Tensor) -> dict[Tensor, Tensor]:
    """Every picture's gradient of a convolution's weight and bias; k is the kernel's area."""
    assert layer.groups == 1
    assert not isinstance(layer.padding, str)
    patches = F.unfold(activations[0], layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    # (B I H W) -> (B I*k h*w), then (B O h*w) x (B h*w I*k) -> (B O I*k)
    found = backprops.flatten(2) @ patches.mT
    own = {layer.weight: found.view(len(found), *layer.weight.shape)}  # -> (B O I kh kw)
    return own if layer.bias is None else own | {layer.bias: backprops.flatten(2).sum(2)}


def _opacus(part: str) -> Any:
    from importlib import import_module

    try:
        return import_module(f"opacus.{part}")
    except ImportError:
        raise TrainingError("Training with privacy needs opacus: pip install 'calotype[privacy]'.") from None
