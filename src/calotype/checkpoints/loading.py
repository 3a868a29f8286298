"""From a recognised checkpoint to the model: where its tensors are read."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from calotype.checkpoints.found import Found, Piece, homes, misfit
from calotype.checkpoints.weights import WeightsFile
from calotype.errors import CheckpointError, InputError
from calotype.models.latent_diffusion import LatentDiffusion, build, unfilled
from calotype.models.offload import Fill, Offload


def load(
    found: Found, device: torch.device | str, dtype: torch.dtype | str | None, offload: Offload | None
) -> LatentDiffusion:
    """As `Found.load`."""
    found.refuse_unknown()
    try:
        with unfilled():
            model = build(found.config, found.tokenizer())
    except InputError as error:
        raise CheckpointError(f"{found.path} makes no model: {error}") from None
    fills = {}
    for part, module in model.parts().items():
        pieces = [piece for piece in found.pieces if piece.part == part]
        fills[part] = filling(found.path, module, pieces, device, in_torch(dtype))
    return placed(model, fills, offload).replace(weights_hash=found.fingerprint())


def placed(model: LatentDiffusion, fills: dict[str, Fill], offload: Offload | None) -> LatentDiffusion:
    """The model with its weights, or with the means to bring them when a part is to work."""
    for part, fill in fills.items():
        if offload is None:
            fill()
        else:
            offload.keep(part, model.parts()[part], fill)
    return model.replace(offload=offload)


def in_torch(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """A precision that may be given by its name."""
    found: torch.dtype | None = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    return found


def filling(
    path: Path,
    module: nn.Module,
    pieces: list[Piece],
    device: torch.device | str,
    dtype: torch.dtype | None,
) -> Fill:
    """What gives a module built on the meta device its tensors; CheckpointError where names or shapes are not
    those that it has.
    """
    for piece in pieces:
        piece.refuse_unknown()
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    problem = misfit(shapes, pieces)
    if problem:
        raise CheckpointError(f"{path} {problem}; its weights are not those of its model.")
    return partial(_fill, module, pieces, torch.device(device), dtype)


def _fill(module: nn.Module, pieces: list[Piece], device: torch.device, dtype: torch.dtype | None) -> None:
    state: dict[str, Tensor] = {}
    for name, (piece, source) in homes(pieces).items():
        value = source.take(piece.file.tensor(source.name))
        state[name] = taken(piece.file, source.name, value, device, dtype)
    module.load_state_dict(state, assign=True)


def taken(
    file: WeightsFile, name: str, value: Tensor, device: torch.device, dtype: torch.dtype | None
) -> Tensor:
    """`value`, read as `name`, where it is to work, floats in `dtype`, None for as they are; what must be
    copied anyway lies as the kernels like it, and its pages of the file leave memory.
    """
    if dtype is None or not value.is_floating_point():
        dtype = value.dtype
    if (value.device.type, value.dtype) == (device.type, dtype):
        return value
    form = torch.channels_last if value.ndim == 4 else torch.preserve_format
    working = value.to(device, dtype, memory_format=form)
    file.forget(name)
    return working
