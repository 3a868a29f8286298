"""What a pickle of `torch.save` gives when it is read as data: plain Python values and these classes."""

from __future__ import annotations

from dataclasses import dataclass

from calotype.checkpoints.number_type import NumberType


@dataclass(frozen=True)
class Inert:
    """A global, or an object that its class would have made: the name, and nothing behind it."""

    name: str


@dataclass(frozen=True)
class Storage:
    """A run of bytes that the file holds beside the pickle.

    key    the storage's name in the file
    dtype  of its elements; uint8 where the file calls it untyped
    whole  elements stored under `key`
    first  where this storage begins within them (0 but in views, which only old files have)
    count  elements from there on
    """

    key: str
    dtype: NumberType
    whole: int
    first: int
    count: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as the file describes it, unchecked: whether it lies within its storage is for the reader
    to say. `offset`, `shape` and `stride` count elements of `dtype`."""

    storage: Storage
    dtype: NumberType
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class NumpyType:
    """numpy.dtype by its code ("f8"); little-endian."""

    code: str


@dataclass(frozen=True)
class Pickle:
    """value: None, bool, int, float, str, bytes, list, tuple, dict and the classes above, nested at will,
    possibly with loops; end: the byte after it; storages: by key, the first that names each."""

    value: object
    end: int
    storages: dict[str, Storage]
