"""Files of torch.save taken apart and put together by hand, with any pickle in them."""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path

LAYOUTS = ("zip", "old")


def text(value: str) -> bytes:
    """The opcode that pushes it (BINUNICODE)."""
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    """The opcode that pushes it (LONG1)."""
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def called(name: str, *arguments: bytes) -> bytes:
    """GLOBAL, a tuple of what the arguments push, REDUCE."""
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def dictionary(**items: bytes) -> bytes:
    return b"}" + b"".join(text(key) + value + b"s" for key, value in items.items())


def whole(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


def storage(kind: str = "torch.FloatStorage", key: str = "0", count: int = 4, *more: bytes) -> bytes:
    """A storage of `count` elements as torch.save names it."""
    module, _, name = kind.rpartition(".")
    pushed = (text("storage"), f"c{module}\n{name}\n".encode(), text(key), text("cpu"), number(count), *more)
    return b"(" + b"".join(pushed) + b"tQ"


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(stored: bytes, shape: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    return called(
        "torch._utils._rebuild_tensor_v2",
        *(stored, number(offset), numbers(shape), numbers(stride), b"\x89", b"}"),
    )


def write_zip(path: Path, pickled: bytes, storages: dict[str, bytes] | None = None, **more: bytes) -> Path:
    """`more` are further members, their names with _ for a dot."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", "little")
        for key, raw in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", raw)
        for name, raw in more.items():
            archive.writestr(f"archive/{name.replace('_', '.')}", raw)
    return path


def old(
    pickled: bytes,
    storages: dict[str, tuple[int, bytes]] | None = None,
    *,
    magic: bytes = pickle.dumps(0x1950A86A20F9469CFC6C, 2),
    protocol: bytes = pickle.dumps(1001, 2),
    machine: bytes = pickle.dumps({"protocol_version": 1001, "little_endian": True}, 2),
    keys: bytes | None = None,
) -> bytes:
    """The old layout; storages by key: (elements, bytes)."""
    storages = storages or {}
    keys = pickle.dumps(list(storages), 2) if keys is None else keys
    raw = b"".join(struct.pack("<q", count) + raw for count, raw in storages.values())
    return magic + protocol + machine + pickled + keys + raw


def write(layout: str, path: Path, pickled: bytes, raw: bytes = bytes(16)) -> Path:
    """A file in this layout whose pickle may name a storage "0" of four float32, or use none."""
    used = b"storage" in pickled
    if layout == "zip":
        return write_zip(path, pickled, {"0": raw} if used else None)
    path.write_bytes(old(pickled, {"0": (len(raw) // 4, raw)} if used else None))
    return path
