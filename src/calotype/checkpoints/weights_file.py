"""Any weights file: names, shapes and scalars at once, tensors when they are asked for, no code run.

`open_weights` tells safetensors and both layouts of torch.save apart by their first bytes, checks all that
the file says of itself against its length, and maps it into memory: a tensor is a view of the file's own
pages, so the weights are never in memory twice. The map is private: writing to a tensor leaves the file as
it is. Shortening a file while its tensors are in use ends the process, as with any mapped file.

safetensors format: its README.md; the checks here are stricter than its library's in that names may not
repeat, and every sentence names the tensor.
"""

from __future__ import annotations

import mmap as system
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from mmap import ACCESS_COPY, PAGESIZE, mmap
from pathlib import Path
from typing import TYPE_CHECKING

from calotype.checkpoints.pickled_values import Inert, StoredTensor
from calotype.checkpoints.safetensors_file import read_header
from calotype.checkpoints.tensor_info import NAME_LIMIT, Place, TensorInfo, check_name, countable, span
from calotype.checkpoints.torch_file import Extent, TorchFile, read_old, read_zip
from calotype.errors import CheckpointError, shown

if TYPE_CHECKING:
    from torch import Tensor

LEAF_LIMIT = 100_000  # values in a checkpoint's dictionaries, counted as often as they can be reached
DEPTH_LIMIT = 16  # dictionaries within dictionaries
EXPANSION_LIMIT = 2**20  # elements that a tensor may have beyond those stored, as after expand()
SHARING_LIMIT = 4  # times its size that a file may show in all, for tensors that are views of one another

__all__ = ["Scalar", "TensorInfo", "WeightsFile", "open_weights"]

Scalar = bool | int | float | str | None


@dataclass(frozen=True)
class WeightsFile:
    """An open weights file.

    shapes    every tensor by name. Of torch files: the keys on the way to it joined by dots; where there is
              a dictionary `state_dict`, its tensors alone, without that word (the rest is a training's)
    metadata  safetensors' __metadata__; empty for torch files
    scalars   of torch files: what else the dictionaries hold, such as `global_step` and `epoch`, by the same
              kind of name; empty for safetensors
    """

    path: Path
    shapes: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    scalars: Mapping[str, Scalar]
    _places: Mapping[str, Place] = field(repr=False)
    _data: mmap = field(repr=False)

    @property
    def files(self) -> tuple[Path, ...]:
        """The file itself: a checkpoint in shards has several."""
        return (self.path,)

    def tensor(self, name: str) -> Tensor:
        """The tensor on the CPU, in the dtype, shape and strides it was stored with; names that share their
        storage share memory. It is copied only where the file does not align it to its element size (the old
        torch layout).

        Raises CheckpointError where the file has no such tensor.
        """
        if name not in self.shapes:
            raise CheckpointError(f"{self.path} has no tensor {shown(name)}; name one that it holds.")
        import torch

        info, place = self.shapes[name], self._places[name]
        if 0 in info.shape:
            return torch.empty(info.shape, dtype=info.dtype.in_torch)
        size = info.dtype.itemsize
        count = span(info.shape, place.stride) * size
        stored = torch.frombuffer(self._data, dtype=torch.uint8, count=count, offset=place.start)
        if place.start % size:  # a kernel may end the process over numbers that are not aligned
            stored = stored.clone()
        return stored.view(info.dtype.in_torch).as_strided(info.shape, place.stride)

    def forget(self, name: str) -> None:
        """Lets go of the memory in which a tensor's pages lie, for one that was copied: asked for again, it
        is read again, and what was written to it is lost.
        """
        info, place = self.shapes[name], self._places[name]
        advice = getattr(system, "MADV_DONTNEED", None)  # which Windows does not know
        if 0 in info.shape or advice is None:
            return
        end = place.start + span(info.shape, place.stride) * info.dtype.itemsize
        first, last = -(-place.start // PAGESIZE), end // PAGESIZE  # whole pages: others share the outer ones
        if first < last:
            self._data.madvise(advice, first * PAGESIZE, (last - first) * PAGESIZE)


def open_weights(path: str | Path) -> WeightsFile:
    """Read what a safetensors, .ckpt, .pt, .pth or .bin file holds; what it is, its content tells.

    Raises CheckpointError: no file, no weights (empty, a web page, a git-lfs pointer, another format), cut
    short, lying about its lengths, in number types not read, or calling what weights do not need.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise CheckpointError(f"{path} is not a file; name a .safetensors, .ckpt, .pt or .bin file.")
        if path.stat().st_size == 0:
            raise CheckpointError(f"{path} is empty; fetch it again.")
        with path.open("rb") as file:
            data = mmap(file.fileno(), 0, access=ACCESS_COPY)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror}); check its permissions and the free memory."
        ) from None
    head = data[:512]
    _refuse_what_is_no_weights(head, str(path))
    if head[8:9] == b"{":  # first, for a length before it may begin with any byte
        told = read_header(path, data)
        return WeightsFile(path, told.shapes, told.metadata, {}, told.places, data)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _of_torch(path, data, read_zip(data, str(path)))
    if head.startswith(b"\x80"):
        return _of_torch(path, data, read_old(data, str(path)))
    raise CheckpointError(
        f"{path} is neither a safetensors file nor one of torch.save; "
        "name a .safetensors, .ckpt, .pt or .bin file, or fetch it again."
    )


def _refuse_what_is_no_weights(head: bytes, source: str) -> None:
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{source} is a git-lfs pointer, not the weights themselves; run `git lfs pull` in its folder."
        )
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        raise CheckpointError(
            f"{source} is a web page, saved in the weights' place; fetch the file itself "
            "(the site may ask you to log in first)."
        )
    if head.startswith(b"GGUF"):
        raise CheckpointError(f"{source} is a GGUF file; get the same weights as .safetensors.")


# torch.save


def _of_torch(path: Path, data: mmap, file: TorchFile) -> WeightsFile:
    if not isinstance(file.value, dict):
        raise CheckpointError(f"{path} holds no dictionary of tensors; save a state_dict() instead.")
    shapes: dict[str, TensorInfo] = {}
    places: dict[str, Place] = {}
    scalars: dict[str, Scalar] = {}
    for name, value in _leaves(file.value, str(path)):
        if isinstance(value, StoredTensor):
            check_name(name, path)
            if name in shapes:
                raise CheckpointError(
                    f"{path} has two tensors named {shown(name)}; rename one of them and save it again."
                )
            places[name] = _place(name, value, file.extents[value.storage.key], path)
            shapes[name] = TensorInfo(value.shape, value.dtype)
        elif isinstance(value, int) and value.bit_length() > 64:
            continue  # to write it out would take thousands of digits
        elif value is None or isinstance(value, bool | int | float | str):
            scalars.setdefault(name, value)
    told = sum(prod(info.shape) * info.dtype.itemsize for info in shapes.values())
    if told > len(data) * SHARING_LIMIT + EXPANSION_LIMIT:
        raise CheckpointError(
            f"{path} makes tensors of {told} bytes by showing its own {len(data)} again and again; "
            "call clone() on each before saving."
        )
    return WeightsFile(path, shapes, {}, scalars, places, data)


def _leaves(tree: dict[object, object], source: str) -> Iterator[tuple[str, object]]:
    """The values of a checkpoint with their names. Of what a training keeps beside its state_dict (moments,
    schedules) neither tensors nor lists."""
    count = 0

    def walk(name: str, node: object, weights: bool, depth: int) -> Iterator[tuple[str, object]]:
        nonlocal count
        items: list[tuple[object, object]]
        if isinstance(node, dict):
            items = list(node.items())
        elif isinstance(node, list | tuple) and weights:
            items = list(enumerate(node))
        else:
            if weights or not isinstance(node, StoredTensor):
                yield name, node
            return
        count += len(items)
        if count > LEAF_LIMIT or depth > DEPTH_LIMIT:
            raise CheckpointError(
                f"{source} holds more than {LEAF_LIMIT} values, or dictionaries without end; "
                "save its state_dict() alone."
            )
        for key, value in items:
            word = key if isinstance(key, str) else key.name if isinstance(key, Inert) else repr(key)
            longer = f"{name}.{word}" if name else word
            if len(longer) > NAME_LIMIT:
                check_name(longer, source)
            yield from walk(longer, value, weights, depth + 1)

    weights = tree.get("state_dict")
    if isinstance(weights, dict):
        yield from walk("", weights, True, 0)
        rest = {key: value for key, value in tree.items() if key != "state_dict"}
        yield from walk("", rest, False, 0)
    else:
        yield from walk("", tree, True, 0)


def _place(name: str, value: StoredTensor, extent: Extent, path: Path) -> Place:
    """Where a tensor lies in the file, all of it within its storage."""
    storage, size = value.storage, value.dtype.itemsize
    if storage.whole * storage.dtype.itemsize > extent.size:
        raise CheckpointError(
            f"{path} is cut short or damaged: the storage of {shown(name)} is smaller than the file says; "
            "fetch it again."
        )
    room = storage.count * storage.dtype.itemsize // size
    numbers = (value.offset, *value.stride)
    if (
        not countable(value.shape)
        or len(value.stride) != len(value.shape)
        or not all(0 <= n < 2**59 for n in numbers)
        or (0 not in value.shape and value.offset + span(value.shape, value.stride) > room)
    ):
        raise CheckpointError(
            f"{path} is damaged: its tensor {shown(name)} reaches beyond its storage; fetch it again."
        )
    if prod(value.shape) > max(room, EXPANSION_LIMIT):
        raise CheckpointError(
            f"{path} makes its tensor {shown(name)} by repeating a few stored numbers too often; "
            "call contiguous() before saving."
        )
    start = extent.start + storage.first * storage.dtype.itemsize + value.offset * size
    return Place(start, value.stride)
