"""Pickles of `torch.save`, read as data: a small machine of our own, with no way to import or call anything.

A pickle is a program. This machine knows its opcodes, but a global is never more than its name here
(`Inert`): nothing is looked up, so there is nothing that could run. Three things happen to a global:

- it stays a name: `ModelCheckpoint` as a key of Lightning's callbacks, `os.system` in a list;
- it is called, and is one of the few that rebuild data (`REBUILDERS`, `MAPPINGS`): our own code makes the
  tensor's description, the dictionary or the number;
- it is called, and is one of the classes that training leaves in real checkpoints (`HARMLESS`): the object
  is its name again, and whatever the pickle would put into it is dropped.

Anything else that is called ends the reading with the global's name. The tables are in known_globals.py, our
own code in pickled_calls.py, the stack and the memo in pickled_machine.py.

Opcodes and their arguments: CPython's Lib/pickletools.py; how tensors are written: torch/_utils.py and
torch/serialization.py.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from mmap import mmap

from calotype.checkpoints.pickled_machine import Machine
from calotype.checkpoints.pickled_values import Inert, Pickle

_UNUSED = {  # opcodes that nothing torch.save writes needs
    ord("P"): "PERSID",
    0x82: "EXT1",
    0x83: "EXT2",
    0x84: "EXT4",
    0x96: "BYTEARRAY8",
    0x97: "NEXT_BUFFER",
    0x98: "READONLY_BUFFER",
}


def read_pickle(data: bytes | mmap, start: int, end: int, source: str) -> Pickle:
    """The pickle at bytes [start, end) of `data`; `source` is the file's name in messages.

    Raises CheckpointError: a global that is called though it belongs to no weights, an opcode or storage
    that torch.save does not write, a pickle that is cut short, senseless, or over a limit.
    """
    machine = Machine(data, start, end, source)
    value = _run(machine)
    return Pickle(value, machine.at, machine.storages)


def _run(machine: Machine) -> object:
    began = machine.at
    try:
        while True:
            began = machine.at
            code = machine.take(1)[0]
            if code == ord("."):
                return machine.stack.pop()
            machine.spend(1)
            operation = _OPERATIONS.get(code)
            if operation is None:
                if code in _UNUSED:
                    raise machine.error(
                        f"uses the pickle opcode {_UNUSED[code]}, which torch.save never writes; "
                        "get the weights as .safetensors"
                    )
                raise ValueError
            operation(machine)
    except (IndexError, KeyError, ValueError, struct.error):
        raise machine.error(
            f"is damaged: its pickle makes no sense at byte {began}; fetch or make the file again"
        ) from None


def _protocol(m: Machine) -> None:
    if m.number("<B") > 5:
        raise ValueError


def _reduce(m: Machine) -> None:
    m.call(*m.last(2))


def _new_with_keywords(m: Machine) -> None:
    function, arguments, _keywords = m.last(3)
    m.call(function, arguments)


def _instance(m: Machine) -> None:
    m.named()
    function = m.stack.pop()
    m.call(function, tuple(m.since_mark()))


def _object(m: Machine) -> None:
    function, *arguments = m.since_mark()
    m.call(function, tuple(arguments))


def _drop_items(m: Machine) -> None:
    """Into a set, of which only the name is kept."""
    m.since_mark()
    if not isinstance(m.stack[-1], Inert):
        raise ValueError


def _frozen(m: Machine) -> None:
    m.since_mark()
    m.push(Inert("builtins.frozenset"))


def _append(m: Machine) -> None:
    m.append(list(m.last(1)))


def _set_item(m: Machine) -> None:
    m.set_items(list(m.last(2)))


def _dict(m: Machine) -> None:
    flat = m.since_mark()
    m.push({})
    m.set_items(flat)


def _frame(m: Machine) -> None:
    m.take(8)  # a hint on buffering


def _drop(m: Machine) -> None:
    if m.stack:
        m.stack.pop()
    else:
        m.since_mark()


def _drop_marked(m: Machine) -> None:
    m.since_mark()


def _put(m: Machine, key: int) -> None:
    m.memo[key] = m.stack[-1]


_OPERATIONS: dict[int, Callable[[Machine], None]] = {
    0x80: _protocol,
    0x95: _frame,
    # the stack and the memo
    ord("("): Machine.mark,
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
    ord("I"): Machine.text_value,
    ord("L"): Machine.text_value,
    ord("F"): Machine.text_value,
    # texts and bytes; T and U are Python 2's texts
    ord("T"): lambda m: m.push(m.take(m.number("<i")).decode()),
    ord("U"): lambda m: m.push(m.take(m.number("<B")).decode()),
    ord("X"): lambda m: m.push(m.take(m.number("<I")).decode()),
    0x8C: lambda m: m.push(m.take(m.number("<B")).decode()),
    0x8D: lambda m: m.push(m.take(m.number("<Q")).decode()),
    ord("B"): lambda m: m.push(m.take(m.number("<I"))),
    ord("C"): lambda m: m.push(m.take(m.number("<B"))),
    0x8E: lambda m: m.push(m.take(m.number("<Q"))),
    ord("S"): Machine.text_value,
    ord("V"): Machine.text_value,
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
    ord("c"): Machine.named,
    0x93: lambda m: m.global_(*m.last(2)),
    ord("R"): _reduce,
    0x81: _reduce,  # NEWOBJ: to call a class or its __new__ is the same here
    0x92: _new_with_keywords,
    ord("i"): _instance,
    ord("o"): _object,
    ord("b"): Machine.build,
    ord("Q"): Machine.persistent,
}
