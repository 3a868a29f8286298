"""Pickles are read as data: what real checkpoints hold comes out, and nothing that is called ever runs."""

from __future__ import annotations

import argparse
import collections
import pathlib
import pickle
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch_files import (
    LAYOUTS,
    dictionary,
    old,
    storage,
    tensor,
    text,
    whole,
    write,
)

from calotype.checkpoints.pickled import read_pickle
from calotype.checkpoints.pickled_values import Inert, Pickle
from calotype.checkpoints.weights_file import open_weights
from calotype.errors import CheckpointError


def read(body: bytes) -> Pickle:
    return read_pickle(body, 0, len(body), "x.ckpt")


def save(value: object, path: Path, layout: str) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=layout == "zip")
    return path


def raw(value: Tensor) -> list[int]:
    return value.detach().contiguous().flatten().view(torch.uint8).tolist()


# What torch.save writes comes back.

DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    *(torch.uint16, torch.uint32, torch.uint64),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_dtype_to_the_bit(layout: str, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    values = {}
    for dtype in DTYPES:
        count = 2 if dtype == torch.bool else 256
        noise = torch.randint(0, count, (3, 5 * dtype.itemsize), dtype=torch.uint8, generator=generator)
        values[str(dtype)] = noise.view(dtype)  # any bits, not only those of rounded numbers
        values[f"{dtype} empty"] = torch.zeros(0, 3, dtype=dtype)
        values[f"{dtype} single"] = noise.view(dtype)[1, 2]
    file = open_weights(save(values, tmp_path / "x.pt", layout))
    assert list(file.shapes) == list(values)
    assert file.scalars == {}
    for name, value in values.items():
        assert file.shapes[name].dtype.in_torch == value.dtype
        assert file.shapes[name].shape == tuple(value.shape)
        found = file.tensor(name)
        assert found.dtype == value.dtype
        assert found.shape == value.shape
        assert raw(found) == raw(value), name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_views_and_shared_storages(layout: str, tmp_path: Path) -> None:
    base = torch.arange(120, dtype=torch.float32).reshape(10, 12)
    values = {
        "base": base,
        "again": base,
        "columns": base[2:8, 1::3],
        "turned": base.T,
        "row": base[3],
        "overlapping": base.flatten().as_strided((5, 4), (2, 1), 7),
        "expanded": torch.ones(1).expand(3, 4),
        "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "parameter": nn.Parameter(torch.randn(3)),
    }
    path = save(values, tmp_path / "x.pt", layout)
    file = open_weights(path)
    for name, value in values.items():
        assert torch.equal(file.tensor(name), value), name
        assert file.tensor(name).stride() == value.stride(), name
        assert file.tensor(name).requires_grad is False
    if layout == "zip":  # aligned, so nothing is copied
        assert file.tensor("row").data_ptr() == file.tensor("base").data_ptr() + 3 * 12 * 4


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_module_and_its_names(layout: str, tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    state = module.state_dict()  # an OrderedDict with an attribute _metadata
    state["weight with attributes"] = nn.Parameter(torch.ones(2))
    state["weight with attributes"].note = "kept by the training"
    file = open_weights(save(state, tmp_path / "x.pt", layout))
    assert list(file.shapes) == list(state)
    assert all(torch.equal(file.tensor(name), value) for name, value in state.items())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nested_values_keep_their_names(layout: str, tmp_path: Path) -> None:
    values = {
        "params": {"a": torch.ones(1), "deep": {"b": torch.ones(2)}},
        768: [torch.ones(3), (torch.ones(4), 5)],  # as hypernetworks are kept
        "string_to_param": nn.ParameterDict({"*": nn.Parameter(torch.ones(5))}),  # as embeddings are
        "string_to_token": {"*": 265},
        "name": "style",
        "step": 10,
        "shape": torch.Size([1, 2]),
        "rate": 1e-4,
        "on": True,
        "none": None,
    }
    file = open_weights(save(values, tmp_path / "x.pt", layout))
    assert {name: info.shape for name, info in file.shapes.items()} == {
        "params.a": (1,),
        "params.deep.b": (2,),
        "768.0": (3,),
        "768.1.0": (4,),
        "string_to_param.*": (5,),
    }
    assert file.scalars == {
        "768.1.1": 5,
        "string_to_token.*": 265,
        "name": "style",
        "step": 10,
        "shape.0": 1,
        "shape.1": 2,
        "rate": 1e-4,
        "on": True,
        "none": None,
    }


@pytest.fixture
def training_modules() -> Iterator[types.SimpleNamespace]:
    """The classes that Lightning and OmegaConf leave in checkpoints; they exist only within this fixture."""
    classes = {}
    for full, base in (
        ("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint", object),
        ("pytorch_lightning.callbacks.early_stopping.EarlyStopping", object),
        ("pytorch_lightning.utilities.parsing.AttributeDict", dict),
        ("omegaconf.dictconfig.DictConfig", object),
        ("omegaconf.listconfig.ListConfig", object),
        ("omegaconf.base.ContainerMetadata", object),
        ("omegaconf.nodes.AnyNode", object),
        ("ldm.modules.ema.LitEma", object),
    ):
        module_name, _, name = full.rpartition(".")
        made = type(name, (base,), {"__module__": module_name})
        classes[name] = made
        for parent in [module_name[:i] for i in range(len(module_name)) if module_name[i] == "."] + [
            module_name
        ]:
            sys.modules.setdefault(parent, types.ModuleType(parent))
        setattr(sys.modules[module_name], name, made)
    yield types.SimpleNamespace(**classes)
    forget()


def forget() -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] in {"pytorch_lightning", "omegaconf", "ldm"}:
            del sys.modules[name]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_checkpoint_of_lightning(
    layout: str, tmp_path: Path, training_modules: types.SimpleNamespace
) -> None:
    made = training_modules

    def filled(kind: type, **state: object) -> object:
        value = kind()
        value.__dict__.update(state)
        return value

    hyper = made.AttributeDict(parameterization="v", lr=1e-4)
    hyper["config"] = filled(
        made.DictConfig,
        _metadata=filled(made.ContainerMetadata, ref_type=int, flags={"allow": True}),
        _content={"a": filled(made.AnyNode, _val=3), "b": filled(made.ListConfig, _content=[1, 2])},
    )
    checkpoint = {
        "epoch": 13,
        "global_step": 470000,
        "pytorch-lightning_version": "1.4.2",
        "state_dict": collections.OrderedDict(
            {"model.diffusion_model.out.weight": torch.randn(2, 2), "betas": torch.rand(4).double()}
        ),
        "callbacks": {
            made.ModelCheckpoint: {  # the class itself is the key
                "monitor": "val/loss",
                "best_model_score": np.float64(0.25),
                "best_k_models": {"a.ckpt": np.float32(0.5), "b.ckpt": torch.tensor(1.5)},
                "count": np.int64(7),
                "kept": np.arange(300),
                "when": np.datetime64("2022-08-22"),
                "current": filled(made.EarlyStopping, patience=3, wait={"deep": [1]}),
            }
        },
        "optimizer_states": [{"state": {0: {"step": 1, "exp_avg": torch.ones(2, 2)}}, "param_groups": []}],
        "lr_schedulers": [{"milestones": collections.Counter([3, 3]), "lr_lambdas": [{}]}],
        "hyper_parameters": hyper,
        "average": made.LitEma,  # a global that is only named
        "arguments": argparse.Namespace(seed=3, out=pathlib.PurePosixPath("logs")),
        "device": torch.device("cuda", 0),
        "kinds": {"a", "b"},
        "frozen": frozenset({1}),
        "torch": torch.__version__,
        "counts": collections.defaultdict(list, {"a": [1]}),
        "complex": 1j,
        "bytes": b"x" * 100,
        "none": b"",
        "number type": np.dtype("float16"),
        "precision": torch.float16,
    }
    path = save(checkpoint, tmp_path / "last.ckpt", layout)
    forget()
    file = open_weights(path)
    assert list(file.shapes) == ["model.diffusion_model.out.weight", "betas"]  # no optimizer's
    for name, value in checkpoint["state_dict"].items():
        assert torch.equal(file.tensor(name), value)
    callback = "callbacks.pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"
    assert file.scalars == {
        "epoch": 13,
        "global_step": 470000,
        "pytorch-lightning_version": "1.4.2",
        f"{callback}.monitor": "val/loss",
        f"{callback}.best_model_score": 0.25,
        f"{callback}.best_k_models.a.ckpt": 0.5,
        f"{callback}.count": 7,
        "hyper_parameters.parameterization": "v",
        "hyper_parameters.lr": 1e-4,
    }
    assert not {"pytorch_lightning", "omegaconf", "ldm"} & sys.modules.keys()


def test_numpy_scalars_are_their_numbers() -> None:
    for kind in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1"):
        value = np.dtype(kind).type(1)
        for protocol in (2, 4):
            assert read(pickle.dumps(value, protocol)).value == value.item()
    assert read(pickle.dumps(np.datetime64(1, "D"), 2)).value == Inert("numpy.M8")
    with pytest.raises(CheckpointError, match="big-endian"):
        read(pickle.dumps(np.dtype(">f8"), 2))


def test_all_protocols_give_what_python_reads() -> None:
    value = {
        "numbers": [0, 255, 256, 65536, -1, -(2**31), 2**40, -(2**200), 2.5, float("inf"), True, False, None],
        "texts": ["", "a", "é" * 300, "\n\0"],
        "bytes": [b"ab", b"c" * 60],
        "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        "again": {},
        3: {"x": {"y": [[[]]]}},
        -7: [1] * 3000,
    }
    value["again"] = value["numbers"]
    for protocol in range(2, 6):
        assert read(pickle.dumps(value, protocol)).value == value
    assert read(pickle.dumps({"t": b"x" * 70_000}, 4)).value == {"t": b"x" * 70_000}
    # Python 2's texts, and a dictionary and a list made from the mark
    assert read(b"\x80\x02(U\x01aT\x01\x00\x00\x00bd.").value == {"a": "b"}
    assert read(b"(U\x01aU\x01blp5\n0g5\n.").value == ["a", "b"]


# A tensor lies within its storage.


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("shape", "stride", "offset", "fits"),
    [
        ((4,), (1,), 0, True),
        ((2, 2), (1, 2), 0, True),
        ((2, 2), (2, 1), 0, True),
        ((3, 2), (1, 1), 0, True),
        ((), (), 3, True),
        ((0, 7), (7, 1), 4, True),
        ((5,), (1,), 0, False),
        ((4,), (1,), 1, False),
        ((2,), (4,), 0, False),
        ((2, 2), (2, 2), 0, False),
        ((), (), 4, False),
        ((4,), (1,), -1, False),
        ((4,), (-1,), 3, False),
        ((-4,), (1,), 0, False),
        ((4,), (1, 1), 0, False),
        ((4,), (), 0, False),
        ((2**62,), (1,), 0, False),
        ((2**40, 2**40), (0, 0), 0, False),
        ((2**31, 2**31), (0, 0), 0, False),
        ((0, 2**40, 2**40), (1, 1, 1), 0, False),
        ((4,), (2**63,), 0, False),
        ((4,), (1,), 2**64, False),
        ((1,) * 40, (1,) * 40, 0, False),
    ],
)
def test_only_within_its_storage(
    shape: tuple[int, ...], stride: tuple[int, ...], offset: int, fits: bool, layout: str, tmp_path: Path
) -> None:
    body = whole(dictionary(w=tensor(storage(), shape, stride, offset)))
    path = write(layout, tmp_path / "x.ckpt", body, torch.arange(4, dtype=torch.float32).numpy().tobytes())
    if fits:
        expected = torch.arange(4.0).as_strided(shape, stride, offset)
        assert torch.equal(open_weights(path).tensor("w"), expected)
        return
    with pytest.raises(CheckpointError, match=r"x\.ckpt .*its tensor 'w'"):
        open_weights(path)


def test_views_of_old_files(tmp_path: Path) -> None:
    """Before torch 1.6 a storage could itself be a view: three elements from the second on."""
    stored = storage("torch.FloatStorage", "0", 6, b"(" + text("0") + b"K\x01K\x03t")
    numbers_ = torch.arange(6.0).numpy().tobytes()
    path = tmp_path / "x.pt"
    path.write_bytes(old(whole(dictionary(w=tensor(stored, (2,), (1,), 1))), {"0": (6, numbers_)}))
    assert open_weights(path).tensor("w").tolist() == [2.0, 3.0]
    path.write_bytes(old(whole(dictionary(w=tensor(stored, (3,), (1,), 1))), {"0": (6, numbers_)}))
    with pytest.raises(CheckpointError, match="beyond its storage"):
        open_weights(path)


def test_one_storage_of_two_types(tmp_path: Path) -> None:
    """The second name for a storage may not claim more of it than the file holds."""
    body = whole(
        dictionary(
            a=tensor(storage("torch.ByteStorage", "0", 4), (4,), (1,)),
            b=tensor(storage("torch.FloatStorage", "0", 4), (4,), (1,)),
        )
    )
    path = tmp_path / "x.pt"
    path.write_bytes(old(body, {"0": (4, bytes(4))}))
    with pytest.raises(CheckpointError, match="'b' is smaller than the file says"):
        open_weights(path)
