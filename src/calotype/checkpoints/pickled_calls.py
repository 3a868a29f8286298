"""What a pickle may call while it is read, and what our own code makes of it (see pickled.py).

How tensors are written: torch/_utils.py.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from calotype.checkpoints.known_globals import DTYPES, NUMBERS
from calotype.checkpoints.pickled_values import Inert, NumpyType, Storage, StoredTensor
from calotype.errors import CheckpointError, shown

DIMENSION_LIMIT = 64  # of a tensor; torch allows as many. One long shape can be given to a million tensors

Refuse = Callable[[str], CheckpointError]
"""Makes the sentence for what a file holds that is not read."""


def _integers(values: object) -> tuple[int, ...]:
    if not isinstance(values, tuple) or len(values) > DIMENSION_LIMIT:
        raise ValueError
    if not all(type(value) is int for value in values):
        raise ValueError
    return values


def _rebuild_tensor(refuse: Refuse, arguments: tuple[object, ...]) -> StoredTensor:
    """torch._utils._rebuild_tensor and _v2: storage, offset, size, stride, then requires_grad, hooks and
    metadata; _v3 has a dtype before the metadata, for the types that have no storage class."""
    match arguments:
        case (Storage() as storage, int(offset), tuple(shape), tuple(stride), *rest):
            dtype = storage.dtype
            if len(rest) > 2 and isinstance(rest[2], Inert):
                if rest[2].name not in DTYPES:
                    raise refuse(
                        f"stores numbers of type {shown(rest[2].name)}, which Calotype does not read; "
                        "convert the weights to float16 or float32"
                    )
                dtype = DTYPES[rest[2].name]
            if any(isinstance(value, dict) and value for value in rest[2:]):
                raise refuse(
                    "stores a conjugated or negated view, which Calotype does not read; "
                    "call resolve_conj() and resolve_neg() before saving"
                )
            return StoredTensor(storage, dtype, offset, _integers(shape), _integers(stride))
    raise ValueError


def _rebuild_parameter(_refuse: Refuse, arguments: tuple[object, ...]) -> StoredTensor:
    """torch._utils._rebuild_parameter and _with_state: the tensor, then what training wants to know."""
    match arguments:
        case (StoredTensor() as tensor, *_):
            return tensor
    raise ValueError


def _size(_refuse: Refuse, arguments: tuple[object, ...]) -> tuple[int, ...]:
    if len(arguments) != 1:
        raise ValueError
    return _integers(arguments[0])


def _encode(_refuse: Refuse, arguments: tuple[object, ...]) -> bytes | Inert:
    """_codecs.encode(text, "latin1"): how protocol 2 writes bytes. Long ones, an array's, stay unmade:
    a pickle can ask for the same ones a million times."""
    match arguments:
        case (str(text), "latin1"):
            return text.encode("latin1") if len(text) <= 64 else Inert("builtins.bytes")
    raise ValueError


def _numpy_type(_refuse: Refuse, arguments: tuple[object, ...]) -> NumpyType:
    match arguments:
        case (str(code), *_):
            return NumpyType(code)
    raise ValueError


def _numpy_scalar(_refuse: Refuse, arguments: tuple[object, ...]) -> object:
    """A number by its bytes; scalars of other kinds (dates, texts) are inert."""
    match arguments:
        case (NumpyType(code), bytes(raw)) if code in NUMBERS:
            value: object = struct.unpack(NUMBERS[code], raw)[0]
            return value
        case (NumpyType(code), *_) if code not in NUMBERS:
            return Inert(f"numpy.{code}")
    raise ValueError


# Each raises ValueError for arguments that make no sense.
REBUILDERS: dict[str, Callable[[Refuse, tuple[object, ...]], object]] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "torch.Size": _size,
    "_codecs.encode": _encode,
    "numpy.dtype": _numpy_type,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
}
