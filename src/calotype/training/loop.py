"""The training loop: a generator of step reports, so that stopping and watching are plain iteration."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from calotype.errors import TrainingError
from calotype.models.precision import DTYPES
from calotype.training.config import TrainConfig
from calotype.training.muon import Muon
from calotype.training.private import Private
from calotype.training.sharding import sharded, whole
from calotype.training.state import TrainState

Batch = Mapping[str, Tensor]

MOMENTUM = 0.95
"""Of Muon."""


@dataclass(frozen=True)
class StepReport:
    """One optimiser update: `step` counts from 1, `parts` are the objective's scalars, `loss` among them."""

    step: int
    parts: dict[str, float]
    learning_rate: float
    gradient_norm: float


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of update `step` (from 0): linear warm-up, plateau, fall over the last `cooldown`."""
    rise = min(1.0, (step + 1) / max(1, config.warmup))
    span = config.cooldown * config.steps
    if config.decay == "constant" or span == 0:
        return config.learning_rate * rise
    left = min(1.0, (config.steps - step) / span)
    fall = left if config.decay == "linear" else 0.5 - 0.5 * math.cos(math.pi * left)
    return config.learning_rate * rise * fall


def new_optimizer(config: TrainConfig, module: torch.nn.Module) -> torch.optim.Optimizer:
    """AdamW (arXiv 1711.05101), decaying matrices and kernels only, not gains and biases; or Muon.

    Muon is for what maps features to features: tables of embeddings, and the kernels that `module` names
    in `not_for_muon` (those at its outer ends), stay with AdamW.
    """
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    hidden: list[torch.nn.Parameter] = []
    if config.optimizer == "muon":
        tables = {id(m.weight) for m in module.modules() if isinstance(m, torch.nn.Embedding)}
        ends = tuple(getattr(module, "not_for_muon", ()))
        hidden = [
            p
            for name, p in trained.items()
            if p.ndim > 1 and id(p) not in tables and not name.startswith(ends)
        ]
    taken = {id(p) for p in hidden}
    rest = [p for p in trained.values() if id(p) not in taken]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), eps=1e-8, fused=True
    )
    if not hidden:
        return adamw
    return Muon(hidden, adamw, momentum=MOMENTUM, weight_decay=config.weight_decay, dtype=inside(config))


def autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    """bf16 inside the networks where the configuration says so; nothing otherwise."""
    return torch.autocast(device.type, torch.bfloat16, enabled=inside(config) == torch.bfloat16)


def inside(config: TrainConfig) -> torch.dtype:
    """What the networks compute in; TrainingError where that is not `settled` yet."""
    if config.precision == "auto":
        raise TrainingError("precision is still auto; a run begins with `settled` configurations.")
    return DTYPES[config.precision]


class NotFiniteError(TrainingError):
    """A loss or gradient that is no number, of batch `step`."""

    def __init__(self, step: int, message: str) -> None:
        super().__init__(message)
        self.step = step


def _accumulated(
    config: TrainConfig, module: torch.nn.Module, batch: Batch, accelerator: Any
) -> dict[str, Tensor]:
    """Leave the gradient of the batch in the parameters; its scalars, averaged over the parts it is worked
    off in.  Processes exchange gradients once, with the last part.
    """
    pieces = [value.chunk(config.accumulate) for value in batch.values()]
    sums: dict[str, Tensor] = {}
    for number, piece in enumerate(zip(*pieces, strict=True), 1):
        waits = number < config.accumulate and not sharded(module)  # whose gradients are added up in parts
        apart = accelerator.no_sync(module) if waits else nullcontext()
        with apart:
            with autocast(config, accelerator.device):
                parts: dict[str, Tensor] = module(**dict(zip(batch, piece, strict=True)))
            accelerator.backward(parts["loss"] / config.accumulate)
        for name, part in parts.items():
            sums[name] = sums.get(name, 0) + part.detach().float() / config.accumulate
    return sums


def train(
    config: TrainConfig,
    state: TrainState,
    batches: Callable[[int], Batch],
    accelerator: Any,
    private: Private | None = None,
) -> Iterator[StepReport]:
    """Go from `state.step` to `config.steps`, yielding after each update.

    `batches(step)` gives this process's part of batch `step` as keyword arguments of the
    module, which returns scalars, `loss` among them; `private` makes their gradients private.
    Raises TrainingError, leaving the parameters as they were, when the loss or its gradient is
    not finite.
    """
    wrapped = state.module if sharded(state.module) else accelerator.prepare_model(state.module)
    parameters = [p for p in state.module.parameters() if p.requires_grad]
    while state.step < config.steps:
        step = state.step
        rate = learning_rate(config, step)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        state.module.train()
        if private is None:
            parts = _accumulated(config, wrapped, batches(step), accelerator)
            norm = whole(torch.nn.utils.clip_grad_norm_(parameters, config.clip))
        else:  # every picture's own gradient was clipped
            parts = private.gradient(wrapped, batches(step), step, autocast(config, accelerator.device))
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        loss = float(parts["loss"])
        # the gradient is what all processes share, so that they stop together
        if not bool(torch.isfinite(norm)) or not math.isfinite(loss):
            raise NotFiniteError(
                step,
                f"The loss of batch {step} is not finite (loss {loss}, "
                f"gradient norm {float(norm)}); "
                "the last checkpoint is intact: lower learning_rate or set precision=float32, then resume.",
            )
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        for ema in (state.ema, *state.averages):
            ema.update(state.step)
        means = accelerator.reduce(torch.stack(list(parts.values())), "mean")
        yield StepReport(state.step, dict(zip(parts, means.tolist(), strict=True)), rate, float(norm))
