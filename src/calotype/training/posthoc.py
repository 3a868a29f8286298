"""Averages of the weights of any length, after the training (EDM2, arXiv 2312.02696, section 3.2).

While a run trains, two power-function averages are kept as snapshots.  The profile of a third, of any
length, is nearly a sum of theirs; the sum's coefficients come from least squares.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from calotype import durable
from calotype.errors import InputError, OutputError, TrainingError
from calotype.training.ema import Ema, exponent_of
from calotype.training.sharding import whole

LENGTHS = (0.05, 0.10)
"""Of the averages that are kept (the paper's choice)."""
FOLDER = "averages"
"""Of a run's folder, where its snapshots lie: step-NNNNNNNN-LENGTH.safetensors."""


def inner(
    steps: NDArray[np.float64],
    exponents: NDArray[np.float64],
    others: NDArray[np.float64],
    other_exponents: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Inner products (A B) of profiles (gamma + 1) tau^gamma / t^(gamma + 1) on 0 < tau <= t: those of
    `steps` t and `exponents` gamma (A) with the others (B).
    """
    ta, ga = steps[:, None], exponents[:, None]
    tb, gb = others[None], other_exponents[None]
    ratio = (ta / tb) ** np.where(ta < tb, gb, -ga)
    found: NDArray[np.float64] = (ga + 1) * (gb + 1) * ratio / ((ga + gb + 1) * np.maximum(ta, tb))
    return found


def coefficients(
    steps: NDArray[np.float64], lengths: NDArray[np.float64], step: float, length: float
) -> tuple[NDArray[np.float64], float]:
    """What to multiply snapshots by, taken at `steps` with `lengths` (A), so that they sum to the average of
    `length` at `step`; and what of that average's profile they miss, in parts of it.
    """
    exponents = np.array([exponent_of(value) for value in lengths])
    wanted = np.array([step]), np.array([exponent_of(length)])
    gram, right = inner(steps, exponents, steps, exponents), inner(steps, exponents, *wanted)[:, 0]
    found = np.asarray(np.linalg.lstsq(gram, right, rcond=1e-13)[0], np.float64)
    whole = float(inner(*wanted, *wanted)[0, 0])
    missed = whole - 2 * float(right @ found) + float(found @ gram @ found)
    return found, max(0.0, missed / whole) ** 0.5


@dataclass(frozen=True)
class Snapshot:
    """A file with the trained parameters' average of `length` after `step` updates, in float32."""

    path: Path
    step: int
    length: float


def write_snapshots(folder: Path, step: int, averages: tuple[Ema, ...], main: bool = True) -> None:
    """The averages as they are now, each a file; OutputError where the disk does not take them.

    Of several processes the `main` one writes.
    """
    for length, ema in zip(LENGTHS, averages, strict=True):
        path = folder / FOLDER / f"step-{step:08d}-{length:.2f}.safetensors"
        partial = path.with_suffix(".tmp")
        held = {name: whole(value.detach()).float().contiguous() for name, value in ema.average.items()}
        if not main:
            continue
        try:
            path.parent.mkdir(exist_ok=True)
            safetensors.torch.save_file(held, partial)
            durable.rename(partial, path)
        except (OSError, SafetensorError) as error:
            partial.unlink(missing_ok=True)
            raise OutputError(
                f"{path} could not be written ({error}); free some space and go on with --resume."
            ) from error


def snapshots(run: Path, until: int | None = None) -> list[Snapshot]:
    """Those of a run, up to the step `until`; TrainingError where there are none."""
    found = []
    for path in sorted((run / FOLDER).glob("step-*.safetensors")):
        _, step, length = path.stem.split("-")
        if until is None or int(step) <= until:
            found.append(Snapshot(path, int(step), float(length)))
    if not found:
        before = "" if until is None else f" up to step {until}"
        raise TrainingError(
            f"{run} keeps no averages{before}; train with --set snapshot_every=N, which writes some every N "
            "steps, or name another run."
        )
    return found


def average(
    chosen: list[Snapshot], length: float, step: int | None = None
) -> tuple[dict[str, Tensor], float]:
    """The trained parameters' average of `length` at `step` (the last snapshot's), by name, in float32, and
    the part of its profile that the snapshots cannot make.

    Raises InputError for a length that no average has, TrainingError for a snapshot that cannot be read.
    """
    if not 0 < length < 0.28:
        raise InputError(f"length is {length:g}; give a value above 0, below 0.28.")
    steps = np.array([float(one.step) for one in chosen])
    lengths = np.array([one.length for one in chosen])
    factors, missed = coefficients(steps, lengths, float(step or steps.max()), length)
    sums: dict[str, Tensor] = {}
    for factor, one in zip(factors.tolist(), chosen, strict=True):
        try:
            with safe_open(one.path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - it is no mapping
                    value = file.get_tensor(name).double()
                    # float64, as large factors of both signs cancel
                    sums[name] = factor * value if name not in sums else sums[name].add_(value, alpha=factor)
        except (OSError, SafetensorError) as error:
            raise TrainingError(
                f"{one.path} is not a readable average ({error}); delete it and do without."
            ) from error
    return {name: value.float() for name, value in sums.items()}, missed


@torch.no_grad()
def put(values: dict[str, Tensor], parts: dict[str, torch.nn.Module], run: Path) -> None:
    """Set the parameters of a model's parts, by the names that the run gave them; TrainingError where it
    trained something else.
    """
    known = {
        f"{part}.{name}": value for part, module in parts.items() for name, value in module.named_parameters()
    }
    strange = sorted(
        name for name, value in values.items() if name not in known or known[name].shape != value.shape
    )
    if strange:
        raise TrainingError(
            f"{run} trained {strange[0]}, which its model.safetensors does not hold alike; averages are put "
            "together for runs of `train diffusion` and `train pixels`."
        )
    for name, value in values.items():
        known[name].copy_(value)
