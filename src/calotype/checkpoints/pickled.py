"""Pickles of `torch.save`, read as data: a small machine of our own, with no way to import or call anything.

A pickle is a program. This machine knows its opcodes, but a global is never more than its name here
(`Inert`): nothing is looked up, so there is nothing that could run. Three things happen to a global:

- it stays a name: `ModelCheckpoint` as a key of Lightning's callbacks, `os.system` in a list;
- it is called, and is one of the few that rebuild data (`REBUILDERS`, `MAPPINGS`): our own code makes the
  tensor's description, the dictionary or the number;
- it is called, and is one of the classes that training leaves in real checkpoints (`HARMLESS`): the object
  is its name again, and whatever the pickle would put into it is dropped.

Anything else that is called ends the reading with the global's name. The tables are in known_globals.py.

Opcodes and their arguments: CPython's Lib/pickletools.py; how tensors are written: torch/_utils.py and
torch/serialization.py.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from mmap import mmap
from types import NoneType

import torch

from calotype.checkpoints.known_globals import DTYPES, HARMLESS, MAPPINGS, NUMBERS, STORAGES
from calotype.errors import CheckpointError

PICKLE_LIMIT = 32 * 2**20  # bytes; those of whole SD trainings, optimizer included, have some 2 MiB
STEP_LIMIT = 2_000_000  # opcodes and copied pairs; a U-Net with its average and optimizer takes 0.2 million
NAME_LIMIT = 2**10  # characters of a global; pickles can join one long text to another a million times
LINE_LIMIT = 2**16  # bytes of a name or number written as text


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
    dtype: torch.dtype
    whole: int
    first: int
    count: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as the file describes it, unchecked: whether it lies within its storage is for the reader
    to say. `offset`, `shape` and `stride` count elements of `dtype`."""

    storage: Storage
    dtype: torch.dtype
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


_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # Python 2's names, which protocol 2 writes

_UNUSED = {  # opcodes that nothing torch.save writes needs
    ord("P"): "PERSID",
    0x82: "EXT1",
    0x83: "EXT2",
    0x84: "EXT4",
    0x96: "BYTEARRAY8",
    0x97: "NEXT_BUFFER",
    0x98: "READONLY_BUFFER",
}


def shown(text: object) -> str:
    """Text of a file within a message: quoted, on one line, at most 80 characters of it."""
    text = str(text)
    return repr(text if len(text) <= 80 else text[:77] + "...")


def read_pickle(data: bytes | mmap, start: int, end: int, source: str) -> Pickle:
    """The pickle at bytes [start, end) of `data`; `source` is the file's name in messages.

    Raises CheckpointError: a global that is called though it belongs to no weights, an opcode or storage
    that torch.save does not write, a pickle that is cut short, senseless, or over a limit.
    """
    machine = _Machine(data, start, min(end, start + PICKLE_LIMIT), end, source)
    value = machine.run()
    return Pickle(value, machine.at, machine.storages)


class _Machine:
    """Stack, marks and memo, as CPython's unpickler keeps them.

    What the pickle does against its own rules surfaces as IndexError (an empty stack), KeyError (an unset
    memo) or ValueError (all else); `run` turns them into one sentence.
    """

    def __init__(self, data: bytes | mmap, start: int, stop: int, end: int, source: str) -> None:
        self.data, self.at, self.stop, self.end, self.source = data, start, stop, end, source
        self.stack: list[object] = []
        self.marked: list[list[object]] = []  # the stacks below each mark
        self.memo: dict[int, object] = {}
        self.storages: dict[str, Storage] = {}
        self.steps = 0

    def run(self) -> object:
        began = self.at
        try:
            while True:
                began = self.at
                code = self.take(1)[0]
                if code == ord("."):
                    return self.stack.pop()
                self.spend(1)
                operation = _OPERATIONS.get(code)
                if operation is None:
                    if code in _UNUSED:
                        raise self.error(
                            f"uses the pickle opcode {_UNUSED[code]}, which torch.save never writes; "
                            "get the weights as .safetensors"
                        )
                    raise ValueError
                operation(self)
        except (IndexError, KeyError, ValueError, struct.error):
            raise self.error(
                f"is damaged: its pickle makes no sense at byte {began}; fetch or make the file again"
            ) from None

    def error(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.source} {what}.")

    def spend(self, steps: int) -> None:
        self.steps += steps
        if self.steps > STEP_LIMIT:
            raise self.error(
                f"holds a pickle of more than {STEP_LIMIT} steps, far more than weights need; "
                "get the weights as .safetensors"
            )

    # reading

    def take(self, count: int) -> bytes:
        if count < 0:
            raise ValueError
        if count > self.stop - self.at:
            if self.stop < self.end:
                raise self.error(
                    f"holds a pickle of more than {PICKLE_LIMIT} bytes, far more than weights need; "
                    "get the weights as .safetensors"
                )
            raise self.error(f"is cut short within its pickle, at byte {self.at}; fetch or make it again")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, layout: str) -> int:
        return int(struct.unpack(layout, self.take(struct.calcsize(layout)))[0])

    def line(self) -> str:
        found = self.data.find(b"\n", self.at, min(self.stop, self.at + LINE_LIMIT))
        if found < 0:
            raise ValueError
        return self.take(found + 1 - self.at)[:-1].decode()

    # the stack

    def push(self, value: object) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[object]:
        found, self.stack = self.stack, self.marked.pop()
        return found

    def last(self, count: int) -> tuple[object, ...]:
        if len(self.stack) < count:
            raise IndexError
        found = tuple(self.stack[-count:])
        del self.stack[-count:]
        return found

    def append(self, values: list[object]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(values)
        elif not isinstance(target, Inert):
            raise ValueError

    def set_items(self, flat: list[object]) -> None:
        target = self.stack[-1]
        if isinstance(target, dict) and len(flat) % 2 == 0:
            _update(target, zip(flat[::2], flat[1::2], strict=True))
        elif not isinstance(target, Inert):
            raise ValueError

    def text_value(self) -> None:
        """A number or text of protocol 0, in which torch.save never writes: read past, not understood."""
        self.line()
        self.push(Inert("a value of pickle protocol 0"))

    # globals and what is done with them

    def global_(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str) or len(module) + len(name) > NAME_LIMIT:
            raise ValueError
        self.push(Inert(f"{_RENAMED.get(module, module)}.{name}"))

    def named(self) -> None:
        module = self.line()
        self.global_(module, self.line())

    def call(self, function: object, arguments: object) -> None:
        if not isinstance(function, Inert) or not isinstance(arguments, tuple):
            raise ValueError
        name = function.name
        if name in REBUILDERS:
            self.push(REBUILDERS[name](self, arguments))
        elif name in MAPPINGS:
            self.push(self.mapping(arguments))
        elif name in HARMLESS:
            self.push(function)
        else:
            raise self.error(
                f"calls {shown(name)} while it is read, which weights never need, so nothing of it was run; "
                "do not open it elsewhere, and get the weights as .safetensors from somebody you trust"
            )

    def mapping(self, arguments: tuple[object, ...]) -> dict[object, object]:
        made: dict[object, object] = {}
        match arguments:
            case (dict() as pairs,):
                self.spend(len(pairs))
                made.update(pairs)
            case (list() as pairs,):
                self.spend(len(pairs))
                _update(made, map(_pair, pairs))
        return made  # defaultdict's argument, a class, is dropped

    def build(self) -> None:
        """State for the object on the stack: dropped, but for what a ParameterDict keeps in its state."""
        target, state = self.last(2)
        if isinstance(target, dict) and isinstance(state, dict):
            parameters = state.get("_parameters")
            if isinstance(parameters, dict):
                self.spend(len(parameters))
                target.update(parameters)
        elif isinstance(target, NumpyType):
            if isinstance(state, tuple) and len(state) > 1 and state[1] == ">":
                raise self.error("holds big-endian numbers; save it again on a little-endian machine")
        elif not isinstance(target, Inert | StoredTensor | dict):
            raise ValueError
        self.push(target)

    def persistent(self) -> None:
        """A storage: ("storage", its type, key, device, elements), in old files also the view of it.
        Old files name the class of a module in the same way: ("module", class, its file, its source)."""
        match self.stack.pop():
            case ("module", Inert() as module, *_):
                self.push(module)
            case ("storage", Inert(name), str(key), _, int(whole), *view):
                dtype = STORAGES.get(name)
                if dtype is None:
                    raise self.error(
                        f"stores its numbers as {shown(name)}, which Calotype does not read; "
                        "convert the weights to float16 or float32"
                    )
                first, count = 0, whole
                match view:
                    case [(_, int(first), int(count))]:
                        pass
                    case [] | [None]:
                        pass
                    case _:
                        raise ValueError
                if whole < 0 or first < 0 or count < 0 or first + count > whole:
                    raise ValueError
                storage = Storage(key, dtype, whole, first, count)
                self.storages.setdefault(key, storage)
                self.push(storage)
            case _:
                raise ValueError


def _pair(value: object) -> tuple[object, object]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError
    return value[0], value[1]


def _update(target: dict[object, object], pairs: Iterable[tuple[object, object]]) -> None:
    for key, value in pairs:
        # No tuples and no long integers: their hashes can be made to collide, which takes quadratic time.
        if not isinstance(key, str | int | float | bytes | NoneType | Inert):
            raise ValueError
        if isinstance(key, int) and key.bit_length() > 64:
            raise ValueError
        target[key] = value


def _integers(values: object) -> tuple[int, ...]:
    if not isinstance(values, tuple) or not all(type(value) is int for value in values):
        raise ValueError
    return values


def _rebuild_tensor(machine: _Machine, arguments: tuple[object, ...]) -> StoredTensor:
    """torch._utils._rebuild_tensor and _v2: storage, offset, size, stride, then requires_grad, hooks and
    metadata; _v3 has a dtype before the metadata, for the types that have no storage class."""
    match arguments:
        case (Storage() as storage, int(offset), tuple(shape), tuple(stride), *rest):
            dtype = storage.dtype
            if len(rest) > 2 and isinstance(rest[2], Inert):
                if rest[2].name not in DTYPES:
                    raise machine.error(
                        f"stores numbers of type {shown(rest[2].name)}, which Calotype does not read; "
                        "convert the weights to float16 or float32"
                    )
                dtype = DTYPES[rest[2].name]
            if any(isinstance(value, dict) and value for value in rest[2:]):
                raise machine.error(
                    "stores a conjugated or negated view, which Calotype does not read; "
                    "call resolve_conj() and resolve_neg() before saving"
                )
            return StoredTensor(storage, dtype, offset, _integers(shape), _integers(stride))
    raise ValueError


def _rebuild_parameter(_machine: _Machine, arguments: tuple[object, ...]) -> StoredTensor:
    """torch._utils._rebuild_parameter and _with_state: the tensor, then what training wants to know."""
    match arguments:
        case (StoredTensor() as tensor, *_):
            return tensor
    raise ValueError


def _size(_machine: _Machine, arguments: tuple[object, ...]) -> tuple[int, ...]:
    if len(arguments) != 1:
        raise ValueError
    return _integers(arguments[0])


def _reconstructor(machine: _Machine, arguments: tuple[object, ...]) -> object:
    """copyreg._reconstructor(class, base, state): what NEWOBJ does, in words."""
    if len(arguments) != 3:
        raise ValueError
    machine.call(arguments[0], ())
    return machine.stack.pop()


def _encode(_machine: _Machine, arguments: tuple[object, ...]) -> bytes | Inert:
    """_codecs.encode(text, "latin1"): how protocol 2 writes bytes. Long ones, an array's, stay unmade:
    a pickle can ask for the same ones a million times."""
    match arguments:
        case (str(text), "latin1"):
            return text.encode("latin1") if len(text) <= 64 else Inert("builtins.bytes")
    raise ValueError


def _numpy_type(_machine: _Machine, arguments: tuple[object, ...]) -> NumpyType:
    match arguments:
        case (str(code), *_):
            return NumpyType(code)
    raise ValueError


def _numpy_scalar(_machine: _Machine, arguments: tuple[object, ...]) -> object:
    """A number by its bytes; scalars of other kinds (dates, texts) are inert."""
    match arguments:
        case (NumpyType(code), bytes(raw)) if code in NUMBERS:
            value: object = struct.unpack(NUMBERS[code], raw)[0]
            return value
        case (NumpyType(code), *_) if code not in NUMBERS:
            return Inert(f"numpy.{code}")
    raise ValueError


REBUILDERS: dict[str, Callable[[_Machine, tuple[object, ...]], object]] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "torch.Size": _size,
    "copyreg._reconstructor": _reconstructor,
    "_codecs.encode": _encode,
    "numpy.dtype": _numpy_type,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
}


def _protocol(m: _Machine) -> None:
    if m.number("<B") > 5:
        raise ValueError


def _reduce(m: _Machine) -> None:
    m.call(*m.last(2))


def _new_with_keywords(m: _Machine) -> None:
    function, arguments, _keywords = m.last(3)
    m.call(function, arguments)


def _instance(m: _Machine) -> None:
    m.named()
    function = m.stack.pop()
    m.call(function, tuple(m.since_mark()))


def _object(m: _Machine) -> None:
    function, *arguments = m.since_mark()
    m.call(function, tuple(arguments))


def _drop_items(m: _Machine) -> None:
    """Into a set, of which only the name is kept."""
    m.since_mark()
    if not isinstance(m.stack[-1], Inert):
        raise ValueError


def _frozen(m: _Machine) -> None:
    m.since_mark()
    m.push(Inert("builtins.frozenset"))


def _append(m: _Machine) -> None:
    m.append(list(m.last(1)))


def _set_item(m: _Machine) -> None:
    m.set_items(list(m.last(2)))


def _dict(m: _Machine) -> None:
    flat = m.since_mark()
    m.push({})
    m.set_items(flat)


def _frame(m: _Machine) -> None:
    m.take(8)  # a hint on buffering


def _drop(m: _Machine) -> None:
    if m.stack:
        m.stack.pop()
    else:
        m.since_mark()


def _drop_marked(m: _Machine) -> None:
    m.since_mark()


def _put(m: _Machine, key: int) -> None:
    m.memo[key] = m.stack[-1]


_OPERATIONS: dict[int, Callable[[_Machine], None]] = {
    0x80: _protocol,
    0x95: _frame,
    # the stack and the memo
    ord("("): _Machine.mark,
    ord("0"): _drop,
    ord("1"): _drop_marked,
    ord("2"): lambda m: m.push(m.stack[-1]),
    ord("p"): lambda m: _put(m, int(m.line())),
    ord("q"): lambda m: _put(m, m.number("<B")),
    ord("r"): lambda m: _put(m, m.number("<I")),
    0x94: lambda m: _put(m, len(m.memo)),
    ord("g"): lambda m: m.push(m.memo[int(m.line())]),
    ord("h"): lambda m: m.push(m.memo[m.number("<B")]),
    ord("j"): lambda m: m.push(m.memo[m.number("<I")]),
    # numbers
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("J"): lambda m: m.push(m.number("<i")),
    ord("K"): lambda m: m.push(m.number("<B")),
    ord("M"): lambda m: m.push(m.number("<H")),
    0x8A: lambda m: m.push(int.from_bytes(m.take(m.number("<B")), "little", signed=True)),
    0x8B: lambda m: m.push(int.from_bytes(m.take(m.number("<i")), "little", signed=True)),
    ord("G"): lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    ord("I"): _Machine.text_value,
    ord("L"): _Machine.text_value,
    ord("F"): _Machine.text_value,
    # texts and bytes; T and U are Python 2's texts
    ord("T"): lambda m: m.push(m.take(m.number("<i")).decode()),
    ord("U"): lambda m: m.push(m.take(m.number("<B")).decode()),
    ord("X"): lambda m: m.push(m.take(m.number("<I")).decode()),
    0x8C: lambda m: m.push(m.take(m.number("<B")).decode()),
    0x8D: lambda m: m.push(m.take(m.number("<Q")).decode()),
    ord("B"): lambda m: m.push(m.take(m.number("<I"))),
    ord("C"): lambda m: m.push(m.take(m.number("<B"))),
    0x8E: lambda m: m.push(m.take(m.number("<Q"))),
    ord("S"): _Machine.text_value,
    ord("V"): _Machine.text_value,
    # containers
    ord(")"): lambda m: m.push(()),
    0x85: lambda m: m.push(m.last(1)),
    0x86: lambda m: m.push(m.last(2)),
    0x87: lambda m: m.push(m.last(3)),
    ord("t"): lambda m: m.push(tuple(m.since_mark())),
    ord("]"): lambda m: m.push([]),
    ord("l"): lambda m: m.push(m.since_mark()),
    ord("a"): _append,
    ord("e"): lambda m: m.append(m.since_mark()),
    ord("}"): lambda m: m.push({}),
    ord("d"): _dict,
    ord("s"): _set_item,
    ord("u"): lambda m: m.set_items(m.since_mark()),
    0x8F: lambda m: m.push(Inert("builtins.set")),
    0x90: _drop_items,
    0x91: _frozen,
    # globals
    ord("c"): _Machine.named,
    0x93: lambda m: m.global_(*m.last(2)),
    ord("R"): _reduce,
    0x81: _reduce,  # NEWOBJ: to call a class or its __new__ is the same here
    0x92: _new_with_keywords,
    ord("i"): _instance,
    ord("o"): _object,
    ord("b"): _Machine.build,
    ord("Q"): _Machine.persistent,
}
