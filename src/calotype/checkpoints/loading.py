"""From a recognised checkpoint to the model: where its tensors are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from calotype.checkpoints import memory
from calotype.checkpoints.found import Found, Piece, homes, misfit
from calotype.checkpoints.names import Source
from calotype.checkpoints.weights import WeightsFile
from calotype.errors import CheckpointError, InputError
from calotype.models.config import ModelConfig
from calotype.models.latent_diffusion import LatentDiffusion, build, unfilled
from calotype.models.offload import Fill, Offload
from calotype.networks.narrow import Narrow, Widen, form, narrow_layers


def load(
    found: Found,
    device: torch.device | str,
    dtype: torch.dtype | str | None,
    offload: Offload | None,
    widen: Widen | None,
) -> LatentDiffusion:
    """As `Found.load`."""
    found.refuse_unknown()
    try:
        with unfilled():
            model = build(found.config, found.tokenizer())
    except InputError as error:
        raise CheckpointError(f"{found.path} makes no model: {error}") from None
    device, dtype = torch.device(device), in_torch(dtype)
    widen = widen or way(found.config, found.stored, device, dtype, offload)
    fills = {}
    for part, module in model.parts().items():
        pieces = [piece for piece in found.pieces if piece.part == part]
        fills[part] = filling(found.path, module, pieces, device, dtype, widen)
    return placed(model, fills, offload).replace(weights_hash=found.fingerprint())


def placed(model: LatentDiffusion, fills: dict[str, Fill], offload: Offload | None) -> LatentDiffusion:
    """The model with its weights, or with the means to bring them when a part is to work."""
    for part, fill in fills.items():
        if offload is None:
            fill()
        else:
            offload.keep(part, model.parts()[part], fill)
    return model.replace(offload=offload)


def way(
    config: ModelConfig,
    stored: memory.Stored,
    device: torch.device,
    dtype: torch.dtype | None,
    offload: Offload | None,
) -> Widen:
    """How a model's layers may widen their weights in the memory that is free."""
    need = memory.needed(config, stored, memory.itemsize(dtype), one_by_one=offload is not None)
    return memory.way(need, device)


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
    widen: Widen = "now",
) -> Fill:
    """What gives a module built on the meta device its tensors; CheckpointError where names or shapes are not
    those that it has.  widen: as `Found.load`'s.
    """
    for piece in pieces:
        piece.refuse_unknown()
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    problem = misfit(shapes, pieces)
    if problem:
        raise CheckpointError(f"{path} {problem}; its weights are not those of its model.")
    places = {name: (piece.file, source) for name, (piece, source) in homes(pieces).items()}
    return filler(module, places, torch.device(device), dtype, widen)


def filler(
    module: nn.Module,
    places: Mapping[str, tuple[WeightsFile, Source]],
    device: torch.device,
    dtype: torch.dtype | None,
    widen: Widen,
) -> Fill:
    """What gives the module its tensors, whose places are all there and of the right shapes."""
    stay = staying(module, device, dtype) if widen != "now" else {}

    def fill() -> Callable[[], None]:
        state: dict[str, Tensor] = {}
        for name, (file, source) in places.items():
            value = source.take(file.tensor(source.name))
            layer = stay.get(name)
            state[name] = _taken(file, source.name, value, device, dtype, stays=layer is not None)
            if layer is not None:
                _keep(layer, widen, partial(file.forget, source.name))
        module.load_state_dict(state, assign=True)
        return forget

    def forget() -> None:
        for file, source in places.values():
            file.forget(source.name)

    return fill


def staying(module: nn.Module, device: torch.device, dtype: torch.dtype | None) -> dict[str, Narrow]:
    """The layers whose weights may stay in their file, if it has 16 bits of them, by the weights' names: on a
    CPU in float32 or bf16, and where that spares anything.
    """
    if device.type != "cpu" or dtype not in (torch.float32, torch.bfloat16):
        return {}
    layers = {f"{path}.weight": layer for path, layer in narrow_layers(module).items()}
    size = sum(2 * layer.weight.numel() for layer in layers.values())
    return layers if size >= memory.LEAST_STAYING else {}


def _keep(layer: Narrow, widen: Widen, forget: Callable[[], None]) -> None:
    """Tells a layer what to do with its wide weight: what works once for a picture gains nothing by keeping
    it, and need not hold the file's pages meanwhile.
    """
    layer.keeps = widen == "once" and not layer.rarely
    layer.after_widening = forget if widen == "once" else None


def _taken(
    file: WeightsFile,
    name: str,
    value: Tensor,
    device: torch.device,
    dtype: torch.dtype | None,
    *,
    stays: bool = False,
) -> Tensor:
    """`value`, read as `name`, where it is to work, floats in `dtype`, None for as they are, and as it is too
    where it `stays` and has 16 bits; what must be copied anyway lies as the kernels like it, and its pages of
    the file leave memory.
    """
    if dtype is None or not value.is_floating_point() or (stays and value.itemsize == 2):
        dtype = value.dtype
    if (value.device.type, value.dtype) == (device.type, dtype):
        return value
    working = value.to(device, dtype, memory_format=form(value))
    file.forget(name)
    return working
