"""Files of `torch.save`, in both of its layouts, read where they lie: a tree of values, and where in the
file the bytes of each storage begin.

zip (since torch 1.6)  NAME/data.pkl, NAME/data/KEY for every storage, NAME/byteorder; members are stored as
                       they are, so a storage can be mapped into memory. A small zip reader of our own checks
                       what Python's leaves open and stops before a long directory fills the memory.
old                    five pickles (a magic number, the protocol, the machine's sizes, the object, the keys
                       of the storages), then for every key the number of elements (int64) and the elements.

Layouts: torch/serialization.py; zip: PKWARE's APPNOTE.TXT.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from mmap import mmap

from calotype.checkpoints.pickled import read_pickle
from calotype.checkpoints.pickled_values import Pickle, Storage
from calotype.errors import CheckpointError, shown

MEMBER_LIMIT = 100_000  # files within a zip; SD with its optimizer has some 4,000

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001


@dataclass(frozen=True)
class Extent:
    """Bytes [start, start + size) of the file."""

    start: int
    size: int


@dataclass(frozen=True)
class TorchFile:
    """value: the object that was saved (see `pickled.Pickle`); extents: each of its storages, by key."""

    value: object
    extents: dict[str, Extent]


def read_zip(data: mmap, source: str) -> TorchFile:
    """A file of torch.save that starts with PK; `source` is its name in messages.

    Raises CheckpointError: no such file but another zip, cut short, compressed, big-endian, TorchScript, and
    all that `read_pickle` refuses.
    """
    files = _members(data, source)
    pickles = [name for name in files if name.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise CheckpointError(
            f"{source} is a zip archive with {len(pickles) or 'no'} data.pkl, so not one of torch.save's; "
            "unpack it and name the weights file within."
        )
    prefix = pickles[0].removesuffix("data.pkl")
    if prefix + "constants.pkl" in files:
        raise CheckpointError(
            f"{source} is a TorchScript program, not weights alone; save its state_dict() instead."
        )
    order = files.get(prefix + "byteorder")
    if order is not None:
        told = data[order.start : order.start + min(order.size, 16)]
        if told != b"little":
            raise CheckpointError(
                f"{source} says its byte order is {shown(told.decode(errors='replace'))}, not 'little'; "
                "save it again on a little-endian machine."
            )
    at = files[pickles[0]]
    found = read_pickle(data, at.start, at.start + at.size, source)
    extents = {}
    for key, storage in found.storages.items():
        if storage.whole == 0:  # torch has not always written a member for nothing
            extents[key] = Extent(0, 0)
            continue
        extent = files.get(f"{prefix}data/{key}")
        if extent is None:
            raise CheckpointError(f"{source} lacks its storage {shown(key)}; fetch or make the file again.")
        extents[key] = extent
    return TorchFile(found.value, extents)


def read_old(data: mmap, source: str) -> TorchFile:
    """A file of torch.save that starts with a pickle (torch before 1.6); errors as `read_zip`'s."""
    magic = _next(data, 0, source)
    if magic.value != _MAGIC:
        raise CheckpointError(
            f"{source} is a pickle, but not one of torch.save's; get the weights as .safetensors."
        )
    protocol = _next(data, magic.end, source)
    if protocol.value != _PROTOCOL:
        raise CheckpointError(
            f"{source} is of another version of torch.save's old layout than {_PROTOCOL}; "
            "load and save it again with a current torch."
        )
    machine = _next(data, protocol.end, source)
    if not isinstance(machine.value, dict) or machine.value.get("little_endian") is not True:
        raise CheckpointError(
            f"{source} was not written on a little-endian machine; save it again on one that is."
        )
    found = _next(data, machine.end, source)
    keys = _next(data, found.end, source)
    if not isinstance(keys.value, list):
        raise CheckpointError(f"{source} has no list of its storages; fetch or make the file again.")
    return TorchFile(found.value, _in_a_row(data, keys.end, keys.value, found.storages, source))


def _next(data: mmap, start: int, source: str) -> Pickle:
    return read_pickle(data, start, len(data), source)


def _in_a_row(
    data: mmap, at: int, keys: list[object], storages: dict[str, Storage], source: str
) -> dict[str, Extent]:
    extents: dict[str, Extent] = {}
    for key in keys:
        if not isinstance(key, str) or key not in storages or key in extents:
            raise CheckpointError(
                f"{source} lists a storage that it does not use, or twice; fetch or make the file again."
            )
        storage = storages[key]
        size = storage.whole * storage.dtype.itemsize
        if at + 8 + size > len(data):
            raise CheckpointError(
                f"{source} is cut short: its storage {shown(key)} ends after the file; fetch it again."
            )
        if int.from_bytes(data[at : at + 8], "little", signed=True) != storage.whole:
            raise CheckpointError(
                f"{source} gives two lengths for its storage {shown(key)}; fetch or make the file again."
            )
        extents[key] = Extent(at + 8, size)
        at += 8 + size
    missing = storages.keys() - extents.keys()
    if missing:
        raise CheckpointError(
            f"{source} lacks its storage {shown(min(missing))}; fetch or make the file again."
        )
    return extents


_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_FULL = 0xFFFFFFFF  # the value stands in the zip64 field


def _members(data: mmap, source: str) -> dict[str, Extent]:
    """Every file in the zip by name; nothing is read but the directory."""
    try:
        return _directory(data, source)
    except (ValueError, struct.error):
        raise CheckpointError(
            f"{source} is cut short or damaged: its zip directory makes no sense; fetch it again."
        ) from None


def _directory(data: mmap, source: str) -> dict[str, Extent]:
    end = data.rfind(b"PK\x05\x06", max(0, len(data) - _END.size - 0xFFFF))
    if end < 0:
        raise ValueError
    _, _, _, _, count, length, at, comment = _END.unpack(data[end : end + _END.size])
    if end + _END.size + comment != len(data):
        raise ValueError
    if end >= _LOCATOR.size and data[end - _LOCATOR.size : end][:4] == b"PK\x06\x07":
        _, _, record, _ = _LOCATOR.unpack(data[end - _LOCATOR.size : end])
        signature, *_, count, length, at = _END_64.unpack(data[record : record + _END_64.size])
        if signature != b"PK\x06\x06":
            raise ValueError
    if at + length > end:
        raise ValueError
    if count > MEMBER_LIMIT:
        raise CheckpointError(
            f"{source} is a zip archive of {count} files, far more than weights need; "
            "get the weights as .safetensors."
        )
    files: dict[str, Extent] = {}
    here = at
    for _ in range(count):
        entry = _ENTRY.unpack(data[here : here + _ENTRY.size])
        signature, _, _, flags, method, _, _, _, packed, size, named, extra, comment, _, _, _, start = entry
        here += _ENTRY.size
        raw, more = data[here : here + named], data[here + named : here + named + extra]
        here += named + extra + comment
        if signature != b"PK\x01\x02" or here > at + length:
            raise ValueError
        name = raw.decode(errors="replace")
        size, packed, start = _wide(more, size, packed, start)
        if method != 0 or flags & 1 or size != packed:
            raise CheckpointError(
                f"{source} is a compressed or encrypted archive (its {shown(name)}), which torch.save never "
                "makes; unpack it, or load and save it again with torch."
            )
        local = _LOCAL.unpack(data[start : start + _LOCAL.size])
        begin = start + _LOCAL.size + local[-2] + local[-1]
        repeated = data[start + _LOCAL.size : start + _LOCAL.size + len(raw)]
        # Another name here than in the directory is how one file is shown to a scanner and another loaded.
        if local[0] != b"PK\x03\x04" or local[-2] != named or repeated != raw or name in files:
            raise ValueError
        if begin + size > at:
            raise ValueError
        files[name] = Extent(begin, size)
    if here != at + length:
        raise ValueError
    return files


def _wide(extra: bytes, size: int, packed: int, start: int) -> tuple[int, int, int]:
    """The three as the zip64 field gives them, which holds those that are too large for 32 bits."""
    values = [size, packed, start]
    if _FULL not in values:
        return size, packed, start
    while len(extra) >= 4:
        kind, length = struct.unpack("<2H", extra[:4])
        if kind == 1:
            wide = extra[4 : 4 + length]
            for i, value in enumerate(values):
                if value == _FULL:
                    (values[i],), wide = struct.unpack("<Q", wide[:8]), wide[8:]
            return values[0], values[1], values[2]
        extra = extra[4 + length :]
    raise ValueError
