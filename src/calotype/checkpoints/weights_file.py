"""Any weights file: names, shapes and scalars at once, tensors when they are asked for, no code run.

`open_weights` tells safetensors and both layouts of torch.save apart by their first bytes, checks all that
the file says of itself against its length, and maps it into memory: a tensor is a view of the file's own
pages, so the weights are never in memory twice. The map is private: writing to a tensor leaves the file as
it is. Shortening a file while its tensors are in use ends the process, as with any mapped file.

safetensors format: its README.md; the checks here are stricter than its library's in that names may not
repeat, and every sentence names the tensor.
"""

from __future__ import annotations

import json
import mmap as system
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from mmap import ACCESS_COPY, PAGESIZE, mmap
from pathlib import Path

import torch
from torch import Tensor

from calotype.checkpoints.pickled_values import Inert, StoredTensor
from calotype.checkpoints.torch_file import Extent, TorchFile, read_old, read_zip
from calotype.errors import CheckpointError, is_text, shown

HEADER_LIMIT = 16 * 2**20  # bytes of safetensors' header; SDXL's has 0.3 MiB
LEAF_LIMIT = 100_000  # values in a checkpoint's dictionaries, counted as often as they can be reached
DEPTH_LIMIT = 16  # dictionaries within dictionaries
NAME_LIMIT = 1024  # characters
EXPANSION_LIMIT = 2**20  # elements that a tensor may have beyond those stored, as after expand()
SHARING_LIMIT = 4  # times its size that a file may show in all, for tensors that are views of one another

Scalar = bool | int | float | str | None


@dataclass(frozen=True)
class TensorInfo:
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class _Place:
    """start: the file's byte at which the first element lies; stride in elements."""

    start: int
    stride: tuple[int, ...]


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
    _places: Mapping[str, _Place] = field(repr=False)
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
        info, place = self.shapes[name], self._places[name]
        if 0 in info.shape:
            return torch.empty(info.shape, dtype=info.dtype)
        size = info.dtype.itemsize
        count = _span(info.shape, place.stride) * size
        stored = torch.frombuffer(self._data, dtype=torch.uint8, count=count, offset=place.start)
        if place.start % size:  # a kernel may end the process over numbers that are not aligned
            stored = stored.clone()
        return stored.view(info.dtype).as_strided(info.shape, place.stride)

    def forget(self, name: str) -> None:
        """Lets go of the memory in which a tensor's pages lie, for one that was copied: asked for again, it
        is read again, and what was written to it is lost.
        """
        info, place = self.shapes[name], self._places[name]
        advice = getattr(system, "MADV_DONTNEED", None)  # which Windows does not know
        if 0 in info.shape or advice is None:
            return
        end = place.start + _span(info.shape, place.stride) * info.dtype.itemsize
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
        return _of_safetensors(path, data)
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


def check_name(name: str, source: object) -> None:
    """Names stand in every sentence about the file: none may be endless or move a terminal's cursor."""
    if len(name) > NAME_LIMIT or not name.isprintable():
        raise CheckpointError(
            f"{source} has a tensor whose name is of {len(name)} characters or cannot be printed, "
            f"{shown(name)}; do not trust it, or save it again with another name."
        )


def _span(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Elements from the first to the last, both included."""
    return 1 + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))


def _countable(shape: tuple[int, ...]) -> bool:
    """Whether torch can hold such a shape, empty or not, its bytes counted in 63 bits."""
    return len(shape) <= 32 and all(0 <= n < 2**59 for n in shape) and prod(max(n, 1) for n in shape) < 2**59


# safetensors: the header's length (uint64), the header (JSON), the numbers

_SAFETENSORS_DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def _of_safetensors(path: Path, data: mmap) -> WeightsFile:
    length = int.from_bytes(data[:8], "little")
    if length > len(data) - 8:
        raise CheckpointError(
            f"{path} is cut short or damaged: its header should have {length} bytes, "
            f"the file has {len(data)}; fetch it again."
        )
    if length > HEADER_LIMIT:
        raise CheckpointError(
            f"{path} has a header of {length} bytes, far more than weights need; fetch it again."
        )
    header = _header(data[8 : 8 + length], path)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(
        isinstance(text, str) and is_text(key) and is_text(text) for key, text in metadata.items()
    ):
        raise CheckpointError(f"{path} has metadata that are no texts; make the file again.")
    shapes: dict[str, TensorInfo] = {}
    extents: dict[str, Extent] = {}
    for name, entry in header.items():
        check_name(name, path)
        shapes[name], extents[name] = _entry(name, entry, path)
    end = 0
    for name in sorted(extents, key=lambda name: (extents[name].start, extents[name].size)):
        if extents[name].start != end:
            fault = "overlaps another" if extents[name].start < end else "leaves a hole before it"
            raise CheckpointError(f"{path} is damaged: its tensor {shown(name)} {fault}; fetch it again.")
        end += extents[name].size
    if end != len(data) - 8 - length:
        raise CheckpointError(
            f"{path} is cut short or damaged: its tensors take {end} bytes, "
            f"but {len(data) - 8 - length} follow the header; fetch it again."
        )
    places = {
        name: _Place(8 + length + extents[name].start, _contiguous(info.shape))
        for name, info in shapes.items()
    }
    return WeightsFile(path, shapes, metadata, {}, places, data)


def _header(raw: bytes, path: Path) -> dict[str, object]:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise CheckpointError(f"{path} names {shown(twice)} twice in its header; make the file again.")
        return found

    try:
        header: dict[str, object] = json.loads(raw.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError):
        raise CheckpointError(
            f"{path} is damaged: its header is no JSON that can be read; fetch it again."
        ) from None
    return header  # an object: its first character is "{"


def _entry(name: str, entry: object, path: Path) -> tuple[TensorInfo, Extent]:
    """One tensor as the header gives it; its extent counts from the end of the header."""
    match entry:
        case {"dtype": str(kind), "shape": [*shape], "data_offsets": [start, end]}:
            pass
        case _:
            raise CheckpointError(
                f"{path} is damaged: its tensor {shown(name)} has no dtype, shape and two data_offsets; "
                "fetch it again."
            )
    if kind not in _SAFETENSORS_DTYPES:
        raise CheckpointError(
            f"{path} stores {shown(name)} as {shown(kind)}, which Calotype does not read; "
            "convert the weights to float16 or float32."
        )
    dtype = _SAFETENSORS_DTYPES[kind]
    if not all(type(n) is int for n in (*shape, start, end)) or not _countable(tuple(shape)):
        raise CheckpointError(
            f"{path} is damaged: its tensor {shown(name)} has an impossible shape or place; fetch it again."
        )
    if start < 0 or end - start != prod(shape) * dtype.itemsize:
        raise CheckpointError(
            f"{path} is damaged: the shape of its tensor {shown(name)} does not fill its place; "
            "fetch it again."
        )
    return TensorInfo(tuple(shape), dtype), Extent(start, end - start)


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(prod(shape[i + 1 :]) for i in range(len(shape)))


# torch.save


def _of_torch(path: Path, data: mmap, file: TorchFile) -> WeightsFile:
    if not isinstance(file.value, dict):
        raise CheckpointError(f"{path} holds no dictionary of tensors; save a state_dict() instead.")
    shapes: dict[str, TensorInfo] = {}
    places: dict[str, _Place] = {}
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


def _place(name: str, value: StoredTensor, extent: Extent, path: Path) -> _Place:
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
        not _countable(value.shape)
        or len(value.stride) != len(value.shape)
        or not all(0 <= n < 2**59 for n in numbers)
        or (0 not in value.shape and value.offset + _span(value.shape, value.stride) > room)
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
    return _Place(start, value.stride)
