"""Files of weights as all else sees them: names, shapes and metadata first, tensors one by one after."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from calotype import durable
from calotype.checkpoints.tensor_info import check_name
from calotype.checkpoints.weights_file import Scalar, TensorInfo, open_weights
from calotype.errors import CheckpointError, OutputError, shown

if TYPE_CHECKING:
    import torch
    from torch import Tensor

JSON_LIMIT = 16 * 2**20  # bytes; a tokenizer.json has 4 MiB. As empty lists they would take 0.4 GB


@runtime_checkable
class WeightsFile(Protocol):
    """A file of named tensors, whatever its format.  `tensor` reads one; it may be a view of the file.
    `forget` lets go of the memory of one that was copied.
    """

    @property
    def path(self) -> Path: ...
    @property
    def files(self) -> tuple[Path, ...]: ...
    @property
    def shapes(self) -> Mapping[str, TensorInfo]: ...
    @property
    def metadata(self) -> Mapping[str, str]: ...
    @property
    def scalars(self) -> Mapping[str, Scalar]: ...
    def tensor(self, name: str) -> Tensor: ...
    def forget(self, name: str) -> None: ...


class Shards:
    """Several safetensors files that an index (`….index.json` with a `weight_map`) makes one of.

    Raises CheckpointError where the index or a shard is missing or wrong.
    """

    metadata: Mapping[str, str] = {}
    scalars: Mapping[str, Scalar] = {}

    def __init__(self, index: Path) -> None:
        self.path = index
        told = read_json(index).get("weight_map")
        if not isinstance(told, dict) or not all(isinstance(v, str) for v in told.values()):
            raise CheckpointError(f"{index} has no weight_map of names to files; fetch the folder again.")
        for name, file in told.items():
            check_name(name, index)
            if Path(file).name != file or len(file) > 255:
                raise CheckpointError(
                    f"{index} names a file outside its own folder, {shown(file)}; do not use it."
                )
        shards = {name: open_weights(index.parent / name) for name in dict.fromkeys(told.values())}
        self._home = {name: shards[file] for name, file in told.items()}
        missing = [name for name, shard in self._home.items() if name not in shard.shapes]
        if missing:
            raise CheckpointError(f"{index} promises {some(missing)}, which its files lack; fetch it again.")
        self.files = tuple(shard.path for shard in shards.values())
        self.shapes = {name: shard.shapes[name] for name, shard in self._home.items()}

    def tensor(self, name: str) -> Tensor:
        return self._home[name].tensor(name)

    def forget(self, name: str) -> None:
        self._home[name].forget(name)


def open_component(folder: Path, stem: str) -> WeightsFile:
    """The weights of one folder of a diffusers model, whole or in shards, fp16 where only that is there.

    Raises CheckpointError where there are none.
    """
    for name in (f"{stem}.safetensors", f"{stem}.fp16.safetensors"):
        if (folder / name).is_file():
            return open_weights(folder / name)
    for name in (
        f"{stem}.safetensors.index.json",
        f"{stem}.safetensors.index.fp16.json",
        f"{stem}.fp16.safetensors.index.json",
    ):
        if (folder / name).is_file():
            return Shards(folder / name)
    pickled = any(folder.glob("*.bin"))
    raise CheckpointError(
        f"{folder} has no {stem}.safetensors{', only a pickled .bin, which is not read' if pickled else ''}; "
        "fetch the safetensors files of the model."
    )


def as_dtype(tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """The tensors as a file keeps them: on the CPU, floats in `dtype`, None for as they are.

    Raises CheckpointError where a number is not finite in `dtype`.
    """
    import torch

    stored = {}
    for name, value in tensors.items():
        kept = value.detach().to("cpu", dtype if value.is_floating_point() else None).contiguous()
        if dtype is not None and not bool(torch.isfinite(kept).all()):
            raise CheckpointError(
                f"{name} holds numbers that are not finite in {dtype}; go back to an earlier "
                "checkpoint where the training has diverged, else choose a wider precision."
            )
        stored[name] = kept
    return stored


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write atomically; OutputError where that cannot be done."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        save_file(dict(tensors), partial, dict(metadata))
        partial.chmod(0o644)  # safetensors makes files for their owner only
        durable.rename(partial, path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise OutputError(
            f"{path} cannot be written ({error}); choose another place or free space."
        ) from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; CheckpointError where it is none, or far larger than any that is read."""
    try:
        if path.exists() and not path.is_file():  # to open a pipe is to wait for its writer
            raise ValueError("it is no file")
        with path.open("rb") as file:
            raw = file.read(JSON_LIMIT + 1)
        if len(raw) > JSON_LIMIT:
            raise ValueError(f"it has more than {JSON_LIMIT} bytes")
        value = json.loads(raw.decode())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error}); fetch it again.") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} should hold a JSON object; fetch it again.")
    return value


def some(names: Iterable[str]) -> str:
    """The first three names, and how many more."""
    ordered = sorted(names)
    shown = ", ".join(ordered[:3])
    return shown if len(ordered) <= 3 else f"{shown} and {len(ordered) - 3} more"
