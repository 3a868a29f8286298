"""safetensors' header, read with no trust in it: its length (uint64), itself (JSON), then the numbers."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from math import prod
from mmap import mmap
from pathlib import Path

from calotype.checkpoints.number_type import TYPES
from calotype.checkpoints.tensor_info import Place, TensorInfo, check_name, contiguous, countable
from calotype.checkpoints.torch_file import Extent
from calotype.errors import CheckpointError, is_text, shown

HEADER_LIMIT = 16 * 2**20  # bytes; SDXL's has 0.3 MiB

_NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "C64": "complex64",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
"""safetensors' names of types to torch's."""


@dataclass(frozen=True)
class Header:
    """What a header says, checked: every place lies in the file and none in another."""

    shapes: dict[str, TensorInfo]
    places: dict[str, Place]
    metadata: dict[str, str]


def read_header(path: Path, data: mmap) -> Header:
    """CheckpointError where the header lies or is too long."""
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
        name: Place(8 + length + extents[name].start, contiguous(info.shape)) for name, info in shapes.items()
    }
    return Header(shapes, places, metadata)


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
    if kind not in _NAMES:
        raise CheckpointError(
            f"{path} stores {shown(name)} as {shown(kind)}, which Calotype does not read; "
            "convert the weights to float16 or float32."
        )
    dtype = TYPES[_NAMES[kind]]
    if not all(type(n) is int for n in (*shape, start, end)) or not countable(tuple(shape)):
        raise CheckpointError(
            f"{path} is damaged: its tensor {shown(name)} has an impossible shape or place; fetch it again."
        )
    if start < 0 or end - start != prod(shape) * dtype.itemsize:
        raise CheckpointError(
            f"{path} is damaged: the shape of its tensor {shown(name)} does not fill its place; "
            "fetch it again."
        )
    return TensorInfo(tuple(shape), dtype), Extent(start, end - start)
