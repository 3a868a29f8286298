"""Pickles that call, lie, or grow without end: nothing runs, little is spent, and each is one sentence."""

from __future__ import annotations

import contextlib
import io
import pickle
import sys
import tracemalloc
from pathlib import Path

import pytest
import torch
from tests.checkpoints.test_pickled import read
from torch_files import (
    LAYOUTS,
    called,
    dictionary,
    number,
    old,
    storage,
    tensor,
    text,
    whole,
    write,
)

from calotype.checkpoints import pickled_machine
from calotype.checkpoints.known_globals import HARMLESS, MAPPINGS
from calotype.checkpoints.pickled import read_pickle
from calotype.checkpoints.pickled_calls import REBUILDERS
from calotype.checkpoints.pickled_values import Inert
from calotype.checkpoints.weights_file import WeightsFile, open_weights
from calotype.errors import CheckpointError

# What is called does not run.


class Calls:
    def __init__(self, function: object, *arguments: object) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> object:
        return self.reduced


COMMAND = text("touch MARKER")
CODE = text("open('MARKER', 'w').close()")
SYSTEM = called("os.system", COMMAND)

# by what is done: the pickle without protocol and stop, and the name in the sentence
LIVE: dict[str, tuple[bytes, str]] = {
    "REDUCE": (SYSTEM, "os.system"),
    "exec": (called("builtins.exec", CODE), "builtins.exec"),
    "eval by Python 2's name": (called("__builtin__.eval", CODE), "builtins.eval"),
    "a process": (called("subprocess.call", b"](" + text("touch") + text("MARKER") + b"e"), ".call"),
    "in protocol 0": (b"cos\nsystem\n(S'touch MARKER'\ntR", "os.system"),
    "INST": (b"(" + COMMAND + b"ios\nsystem\n", "os.system"),
    "OBJ": (b"(cos\nsystem\n" + COMMAND + b"o", "os.system"),
    "STACK_GLOBAL": (text("builtins") + text("exec") + b"\x93" + CODE + b"\x85R", "builtins.exec"),
    "STACK_GLOBAL with dots": (
        b"\x80\x04" + text("os") + text("path.os.system") + b"\x93" + COMMAND + b"\x85R",
        "os.path.os.system",
    ),
    "in a dictionary": (dictionary(state_dict=dictionary(a=SYSTEM)), "os.system"),
    "as a key": (b"}" + SYSTEM + b"Ns", "os.system"),
    "in a list, then dropped": (b"](" + SYSTEM + b"e0}", "os.system"),
    "in an argument": (called("collections.OrderedDict", b"](" + SYSTEM + b"N\x86e"), "os.system"),
    "out of the memo": (b"cos\nsystem\nq\x070}0h\x07" + COMMAND + b"\x85R", "os.system"),
    "over a memo that was harmless": (
        b"ccollections\nOrderedDict\nq\x00cos\nsystem\nq\x00" + b"00h\x00" + COMMAND + b"\x85R",
        "os.system",
    ),
    "a copied stack": (b"cos\nsystem\n2" + COMMAND + b"\x85R", "os.system"),
    "getattr": (
        called("builtins.getattr", called("importlib.import_module", text("os")), text("system"))
        + COMMAND
        + b"\x85R",
        "importlib.import_module",
    ),
    "partial as a new object": (
        b"cfunctools\npartial\ncos\nsystem\n" + COMMAND + b"\x86\x81)R",
        "functools.partial",
    ),
    "partial with keywords": (
        b"\x80\x04cfunctools\npartial\ncos\nsystem\n\x85}" + text("command") + COMMAND + b"s\x92)R",
        "functools.partial",
    ),
    "behind a placeholder": (
        b"cargparse\nNamespace\n)\x81}" + text("a") + SYSTEM + b"sb",
        "os.system",
    ),
    "map": (called("builtins.list", called("builtins.map", b"cos\nsystem\n", b"](" + COMMAND + b"e")), "map"),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("trick", LIVE)
def test_nothing_runs(trick: str, layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body, name = LIVE[trick]
    monkeypatch.chdir(tmp_path)
    marker = tmp_path / "MARKER"
    pickle.loads(whole(body))
    assert marker.exists(), "the trick does not work, so it tests nothing"
    marker.unlink()
    path = write(layout, tmp_path / "x.ckpt", whole(body))
    with pytest.raises(CheckpointError, match=r"x\.ckpt calls '\S*" + name + "' while it is read"):
        open_weights(path)
    assert not marker.exists()


@pytest.mark.parametrize("place", ["magic", "protocol", "machine", "keys"])
def test_nothing_runs_in_the_other_pickles_of_the_old_layout(place: str, tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(old(whole(b"}"), **{place: whole(SYSTEM)}))
    with pytest.raises(CheckpointError, match=r"calls 'os\.system'"):
        open_weights(path)


def test_torch_does_not_load_bytes_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.storage._load_from_bytes is torch.load with nothing forbidden; torch's own pickles use it."""
    monkeypatch.chdir(tmp_path)
    inner = io.BytesIO()
    torch.save(Calls(exec, "open('MARKER', 'w').close()"), inner)
    body = pickle.dumps(Calls(torch.storage._load_from_bytes, inner.getvalue()), 4)
    pickle.loads(body)
    assert (tmp_path / "MARKER").exists()
    (tmp_path / "MARKER").unlink()
    with pytest.raises(CheckpointError, match=r"calls 'torch\.storage\._load_from_bytes'"):
        open_weights(write("zip", tmp_path / "x.ckpt", body))
    assert not (tmp_path / "MARKER").exists()


def test_state_is_not_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object whose state brings its own __setstate__, called by the next state: both are dropped."""
    monkeypatch.chdir(tmp_path)
    trick = b"cargparse\nNamespace\n)\x81}" + text("__setstate__") + b"cos\nsystem\ns" + b"b" + COMMAND + b"b"
    pickle.loads(whole(trick))
    assert (tmp_path / "MARKER").exists()
    (tmp_path / "MARKER").unlink()
    assert read(whole(trick)).value == Inert("argparse.Namespace")
    assert not (tmp_path / "MARKER").exists()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_naming_imports_nothing(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "poisoned.py").write_text("Class = open('MARKER', 'w').close()")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    body = whole(dictionary(a=b"cpoisoned\nClass\n", b=b"cos\nsystem\n", step=number(3)))
    file = open_weights(write(layout, tmp_path / "x.ckpt", body))
    assert file.scalars == {"step": 3}
    assert "poisoned" not in sys.modules
    assert not (tmp_path / "MARKER").exists()
    pickle.loads(b"cpoisoned\nClass\n.")  # what naming does elsewhere
    assert (tmp_path / "MARKER").exists()
    del sys.modules["poisoned"]


NEVER = """
    posix.system nt.system os.popen os.execv os.remove subprocess.Popen subprocess.run pty.spawn
    builtins.exec builtins.eval builtins.compile builtins.getattr builtins.setattr builtins.__import__
    builtins.open builtins.globals builtins.type builtins.object builtins.map builtins.apply builtins.list
    importlib.import_module importlib.__import__ runpy.run_path code.interact pdb.run timeit.timeit
    operator.attrgetter operator.methodcaller _operator.attrgetter functools.partial functools.reduce
    types.FunctionType types.CodeType marshal.loads pickle.loads _pickle.loads dill.loads shutil.rmtree
    webbrowser.open urllib.request.urlopen socket.socket ctypes.CDLL asyncio.run bdb.Bdb.run pydoc.pipepager
    torch.load torch.hub.load torch.jit.load torch.storage._load_from_bytes torch.save torch.ops.load_library
    torch._utils._rebuild_qtensor torch._utils._rebuild_sparse_tensor torch._utils.__init__
    torch._utils._rebuild_tensor_v2.__globals__.__getitem__ collections.OrderedDict.fromkeys
    collections.OrderedDict.__init__ collections.namedtuple numpy.load numpy.core.multiarray.fromfile
    numpy.testing._private.utils.runstring _codecs.decode _codecs.lookup codecs.encode copyreg.__newobj__
    pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint.__init__ pytorch_lightning.Trainer
    omegaconf.OmegaConf.create ldm.util.instantiate_from_config pathlib.Path.unlink
""".split()  # noqa: SIM905


@pytest.mark.parametrize("way", ["REDUCE", "NEWOBJ", "NEWOBJ_EX", "INST", "OBJ", "_reconstructor"])
def test_whatever_is_unknown_is_refused(way: str) -> None:
    for name in NEVER:
        module, _, attribute = name.rpartition(".")
        named = f"c{module}\n{attribute}\n".encode()
        body = {
            "REDUCE": named + b")R",
            "NEWOBJ": named + b")\x81",
            "NEWOBJ_EX": b"\x80\x04" + named + b")}\x92",
            "INST": b"(i" + named[1:],
            "OBJ": b"(" + named + b"o",
            "_reconstructor": called("copy_reg._reconstructor", named, b"c__builtin__\nobject\n", b"N"),
        }[way]
        with pytest.raises(CheckpointError) as caught:
            read(whole(body))
        assert f"x.ckpt calls '{name}' while it is read" in str(caught.value)


def test_the_tables_hold_no_way_out() -> None:
    """Whoever adds a global must look at this list again: none of these may ever be called."""
    known = HARMLESS | MAPPINGS | REBUILDERS.keys()
    assert not known & set(NEVER)
    assert not HARMLESS & MAPPINGS
    assert not (HARMLESS | MAPPINGS) & REBUILDERS.keys()
    assert not [
        name for name in known if name.partition(".")[0] in {"os", "posix", "nt", "subprocess", "sys"}
    ]


def test_harmless_classes_are_their_names() -> None:
    for name in sorted(HARMLESS):
        module, _, attribute = name.rpartition(".")
        named = f"c{module}\n{attribute}\n".encode()
        filled = named + b")\x81}" + text("a") + b"cos\nsystem\nsb(" + text("k") + number(1) + b"u"
        assert read(whole(filled)).value == Inert(name)
        assert read(whole(called(name, text("x"), number(3)))).value == Inert(name)
        assert read(whole(named + b")R(" + number(1) + b"e")).value == Inert(name)  # as a deque is filled


# What torch.save never writes is refused.


@pytest.mark.parametrize(
    ("opcode", "name"),
    [
        *((b"\x82\x01", "EXT1"), (b"\x83\x01\x00", "EXT2"), (b"\x84\x01\x00\x00\x00", "EXT4")),
        *((b"P0\n", "PERSID"), (b"\x96" + bytes(8), "BYTEARRAY8"), (b"\x97", "NEXT_BUFFER")),
        (b"N\x98", "READONLY_BUFFER"),
    ],
)
def test_foreign_opcodes_are_named(opcode: bytes, name: str) -> None:
    with pytest.raises(CheckpointError, match=f"opcode {name}, which torch.save never writes"):
        read(whole(opcode))


SENSELESS = {
    "nothing on the stack": b"",
    "unknown opcode": b"\xff",
    "no mark": b"t",
    "memo unset": b"h\x05",
    "memo of nothing": b"q\x05",
    "newer protocol": b"\x80\x06}",
    "pop of nothing": b"0",
    "append to a text": text("a") + b"Na",
    "items for a list": b"]NNs",
    "odd items": b"}(Nu",
    "items for a tensor": tensor(storage(), (4,), (1,)) + b"NNs",
    "set of nothing": b"](\x90",
    "list as a key": b"}]Ns",
    "tuple as a key": b"}K\x01\x85Ns",
    "long key": b"}" + number(2**64) + b"Ns",
    "not UTF-8": b"U\x01\xff",
    "negative length": b"\x8b\xff\xff\xff\xff",
    "negative text": b"T\xff\xff\xff\xff",
    "global of numbers": b"K\x01K\x02\x93",
    "global without end": b"cos" + b"x" * 70_000,
    "name too long": text("a" * 1000) + text("b" * 1000) + b"\x93",
    "call of a number": b"K\x01)R",
    "arguments in a list": b"ccollections\nOrderedDict\n]R",
    "pairs of three": called("collections.OrderedDict", b"](K\x01K\x02K\x03te"),
    "state for a list": b"]Nb",
    "storage of nothing": b")Q",
    "storage as a text": text("storage") + b"Q",
    "storage by number": b"(" + text("storage") + b"ctorch\nFloatStorage\nK\x00" + text("cpu") + b"K\x04tQ",
    "storage of a text's length": b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") * 3 + b"tQ",
    "storage of negative length": storage(count=-1),
    "view beyond its storage": storage("torch.FloatStorage", "0", 4, b"(NK\x03K\x02t"),
    "view of negative length": storage("torch.FloatStorage", "0", 4, b"(NK\x03" + number(-2) + b"t"),
    "view of something": storage("torch.FloatStorage", "0", 4, b"K\x01"),
    "tensor of nothing": called("torch._utils._rebuild_tensor_v2"),
    "tensor of texts": called("torch._utils._rebuild_tensor_v2", text("a"), b"K\x00", b")", b")"),
    "shape of texts": called("torch._utils._rebuild_tensor", storage(), b"K\x00", text("a") + b"\x85", b")"),
    "shape of flags": called("torch._utils._rebuild_tensor", storage(), b"K\x00", b"\x88\x85", b"K\x01\x85"),
    "shape of 65": called(
        "torch._utils._rebuild_tensor", storage(), b"K\x00", b"(" + b"K\x01" * 65 + b"t", b")"
    ),
    "size of 65": called("torch.Size", b"(" + b"K\x01" * 65 + b"t"),
    "key of 5000 letters": b"}" + text("k" * 5000) + b"Ns",
    "storage called by 5000 letters": storage(key="k" * 5000),
    "parameter of nothing": called("torch._utils._rebuild_parameter", b"N", b"\x88", b"}"),
    "size of a text": called("torch.Size", text("a")),
    "bytes by another codec": called("_codecs.encode", text("a"), text("zlib_codec")),
    "number of no type": called("numpy.core.multiarray.scalar", b"N", b"N"),
    "number of too few bytes": called(
        "numpy.core.multiarray.scalar", called("numpy.dtype", text("f8"), b"\x89", b"\x88"), b"C\x02ab"
    ),
}


@pytest.mark.parametrize("what", SENSELESS)
def test_senseless_pickles_are_one_sentence(what: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read(b"\x80\x02" + SENSELESS[what] + b"." * (what != "global without end"))
    sentence = str(caught.value)
    assert sentence.startswith("x.ckpt ")
    assert "makes no sense at byte" in sentence or "cut short" in sentence
    assert "\n" not in sentence


def test_storages_and_types_that_are_not_read_are_named() -> None:
    with pytest.raises(CheckpointError, match=r"stores its numbers as 'torch\.QInt8Storage'"):
        read(whole(storage("torch.QInt8Storage")))
    with pytest.raises(CheckpointError, match=r"stores its numbers as 'os\.system'"):
        read(whole(storage("os.system")))
    untyped = storage("torch.storage.UntypedStorage")
    for kind, message in ((b"ctorch\nbits8\n", r"type 'torch\.bits8'"), (b"cos\nsystem\n", r"'os\.system'")):
        with pytest.raises(CheckpointError, match=message):
            read(whole(called("torch._utils._rebuild_tensor_v3", untyped, b"K\x00))\x89}", kind)))
    conjugated = io.BytesIO()
    torch.save(torch.ones(2, dtype=torch.complex64).conj(), conjugated, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="resolve_conj"):
        read_pickle(*_object_of(conjugated.getvalue()), "x.ckpt")


def _object_of(raw: bytes) -> tuple[bytes, int, int]:
    start = 0
    for _ in range(3):
        start = read_pickle(raw, start, len(raw), "x.ckpt").end
    return raw, start, len(raw)


def test_cut_short_anywhere() -> None:
    body = whole(dictionary(a=tensor(storage(), (2, 2), (2, 1)), b=text("abc"), c=number(2**40)))
    assert read(body).end == len(body)
    for length in range(len(body)):
        with pytest.raises(CheckpointError, match=r"^x\.ckpt is (cut short|damaged)[^\n]*\.$"):
            read(body[:length])


# What would fill the memory or take forever is refused first.


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickled_machine, "STEP_LIMIT", 1000)
    assert read(whole(b"N0" * 499 + b"N")).value is None
    with pytest.raises(CheckpointError, match="more than 1000 steps"):
        read(whole(b"N0" * 500 + b"N"))
    pairs = b"](" + b"".join(number(i) + b"N\x86" for i in range(100)) + b"eq\x000"
    again = b"ccollections\nOrderedDict\nh\x00\x85R0"
    assert len(read(whole(pairs + again + again[:-1])).value) == 100
    with pytest.raises(CheckpointError, match="more than 1000 steps"):  # each copy counts
        read(whole(pairs + again * 7 + b"N"))
    monkeypatch.setattr(pickled_machine, "PICKLE_LIMIT", 1000)
    with pytest.raises(CheckpointError, match="more than 1000 bytes"):
        read(whole(text("a" * 1000)))


def joined(body: bytes, times: int) -> bytes:
    """One text of 2 MiB in the memo, then the same on it again and again, every result kept in a list."""
    return whole(text("m" * 2**21) + b"q\x000](" + body * times + b"e")


BOMBS = {
    "a text joined to itself as a name": joined(b"h\x00h\x00\x93", 1000),
    "a text made bytes": joined(called("_codecs.encode", b"h\x00", text("latin1")), 1000),
    "a text of 2^63": whole(b"\x8d" + (2**63 - 1).to_bytes(8, "little") + b"abc"),
    "bytes of 4 GB": whole(b"B\xff\xff\xff\xffabc"),
    "a number of 2 GB": whole(b"\x8b\xff\xff\xff\x7fabc"),
    "lists of lists": whole(b"]q\x00" + b"0](h\x00h\x00eq\x00" * 10_000),
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_take_little_memory(bomb: str) -> None:
    body = BOMBS[bomb]
    tracemalloc.start()
    try:
        with contextlib.suppress(CheckpointError):
            read(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 * 2**20


REPEATED = {
    "a module of 1,000 words": b"("
    + text("module")
    + b"cos\npath\n"
    + b"N" * 1000
    + b"tq\x000"
    + b"h\x00Q0" * 30,
    "a tensor of 1,000 hooks": storage()
    + b"q\x01(h\x01K\x00))"
    + b"N" * 1000
    + b"tq\x02"
    + b"ctorch._utils\n_rebuild_tensor\nq\x03"
    + b"h\x03h\x02R0" * 30,
    "a name of 1,000 letters": text("m" * 500) + b"q\x00](" + b"h\x00h\x00\x93" * 1400 + b"e",
}


@pytest.mark.parametrize("what", REPEATED)
def test_what_is_long_is_not_cheap_to_repeat(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle can hand one long tuple or text out again and again for a few bytes each time."""
    monkeypatch.setattr(pickled_machine, "STEP_LIMIT", 20_000)
    with pytest.raises(CheckpointError, match="more than 20000 steps"):
        read(whole(REPEATED[what]))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_values_without_end(layout: str, tmp_path: Path) -> None:
    loop = whole(b"}q\x00" + text("a") + b"h\x00s")
    doubled = whole(dictionary(a=b"]" + b"q\x00" + b"0](h\x00h\x00eq\x00" * 14))  # 2^14 leaves
    wide = b"](" + b"N" * 800 + b"eq\x000"
    wider = whole(wide + dictionary(a=b"](" + b"h\x00" * 400 + b"e"))  # 320,000 leaves in 1.6 kB
    assert isinstance(open_weights(write(layout, tmp_path / "x.pt", doubled)), WeightsFile)
    for body in (loop, wider):
        with pytest.raises(CheckpointError, match="without end"):
            open_weights(write(layout, tmp_path / "x.pt", body))
    long = whole(dictionary(**{"a" * 600: dictionary(**{"b" * 600: b"N"})}))
    with pytest.raises(CheckpointError, match="a tensor whose name is of 1201 characters"):
        open_weights(write(layout, tmp_path / "x.pt", long))
