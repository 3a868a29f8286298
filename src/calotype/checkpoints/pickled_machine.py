"""The machine that reads a pickle as data: stack, marks and memo, and what is done with globals."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from mmap import mmap
from types import NoneType

from calotype.checkpoints.known_globals import HARMLESS, MAPPINGS, STORAGES
from calotype.checkpoints.pickled_calls import REBUILDERS
from calotype.checkpoints.pickled_values import Inert, NumpyType, Storage, StoredTensor
from calotype.errors import CheckpointError, shown

PICKLE_LIMIT = 32 * 2**20  # bytes; those of whole SD trainings, optimizer included, have some 2 MiB
STEP_LIMIT = 2_000_000  # opcodes and copied values; a U-Net with its average and optimizer takes 0.2 million
NAME_LIMIT = 2**10  # characters of a global; pickles can join one long text to another a million times
KEY_LIMIT = 2**12  # characters of a key; two long equal ones can be compared a million times
LINE_LIMIT = 2**16  # bytes of a name or number written as text

_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # Python 2's names, which protocol 2 writes


class Machine:
    """Stack, marks and memo, as CPython's unpickler keeps them.

    What the pickle does against its own rules surfaces as IndexError (an empty stack), KeyError (an unset
    memo) or ValueError (all else); `read_pickle` turns them into one sentence.
    """

    def __init__(self, data: bytes | mmap, start: int, end: int, source: str) -> None:
        self.data, self.at, self.end, self.source = data, start, end, source
        self.stop = min(end, start + PICKLE_LIMIT)
        self.stack: list[object] = []
        self.marked: list[list[object]] = []  # the stacks below each mark
        self.memo: dict[int, object] = {}
        self.storages: dict[str, Storage] = {}
        self.steps = 0

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
        self.spend((len(module) + len(name)) // 64)
        self.push(Inert(f"{_RENAMED.get(module, module)}.{name}"))

    def named(self) -> None:
        module = self.line()
        self.global_(module, self.line())

    def call(self, function: object, arguments: object) -> None:
        if not isinstance(function, Inert) or not isinstance(arguments, tuple):
            raise ValueError
        self.spend(len(arguments))
        name = function.name
        if name == "copyreg._reconstructor":  # class, base, state: what NEWOBJ does, in words
            made, _base, _state = arguments
            self.call(made, ())
        elif name in REBUILDERS:
            self.push(REBUILDERS[name](self.error, arguments))
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
        named = self.stack.pop()
        if isinstance(named, tuple):
            self.spend(len(named))
        match named:
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
                if len(key) > KEY_LIMIT:
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
        if isinstance(key, str | bytes) and len(key) > KEY_LIMIT:
            raise ValueError
        target[key] = value
