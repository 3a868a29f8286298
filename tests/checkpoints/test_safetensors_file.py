"""safetensors' headers: those that lie are one sentence, those that do not are read, of every number type."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.checkpoints.test_weights_file import GENERATOR, packed, refused

from calotype.checkpoints import safetensors_file
from calotype.checkpoints.number_type import TYPES
from calotype.checkpoints.weights_file import open_weights

F32 = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


def lying(**changes: object) -> bytes:
    return packed({"w": F32 | changes}, bytes(16))


LIES = {
    "longer than the file": (packed({"w": F32}, length=10**6), "cut short or damaged: its header should"),
    "longest of all": (packed({"w": F32}, bytes(16), length=2**64 - 1), "its header should have 1844674"),
    "of no length": (packed({"w": F32}, bytes(16), length=0), "no JSON"),
    "too short": (packed({"w": F32}, bytes(16), length=20), "no JSON"),
    "into the numbers": (packed({"w": F32}, bytes(16), length=80), "no JSON"),
    "no JSON": (packed(b"{w: 1}"), "no JSON"),
    "not UTF-8": (packed(b'{"\xff": 1}'), "no JSON"),
    "endless lists": (packed(b'{"a":' + b"[" * 200_000), "no JSON"),
    "a number of 5000 digits": (packed(b'{"a":' + b"9" * 5000 + b"}"), "no JSON"),
    "two objects": (packed(b"{}{}"), "no JSON"),
    "an entry of text": (packed({"w": "F32"}), "'w' has no dtype, shape and two data_offsets"),
    "an entry of a list": (packed({"w": []}), "'w' has no dtype"),
    "no dtype": (packed({"w": {"shape": [1], "data_offsets": [0, 4]}}, bytes(4)), "'w' has no dtype"),
    "a dtype of number": (lying(dtype=32), "'w' has no dtype"),
    "a shape of text": (lying(shape="22"), "'w' has no dtype"),
    "one offset": (lying(data_offsets=[16]), "'w' has no dtype"),
    "three offsets": (lying(data_offsets=[0, 8, 16]), "'w' has no dtype"),
    "an unknown dtype": (lying(dtype="F4"), "stores 'w' as 'F4'"),
    "a fraction": (lying(shape=[2.0, 2]), "'w' has an impossible shape"),
    "a flag": (lying(shape=[True, 4]), "'w' has an impossible shape"),
    "a negative size": (lying(shape=[-2, -2]), "'w' has an impossible shape"),
    "2^63": (lying(shape=[2**63, 2]), "'w' has an impossible shape"),
    "2^64 in 4 bytes": (lying(shape=[2**32, 2**32]), "'w' has an impossible shape"),
    "2^64 + 4": (lying(shape=[2**62 + 1, 4]), "'w' has an impossible shape"),
    "nothing of 2^80": (lying(shape=[0, 2**40, 2**40], data_offsets=[0, 0]), "'w' has an impossible shape"),
    "40 sizes": (lying(shape=[1] * 39 + [4]), "'w' has an impossible shape"),
    "a fraction's offset": (lying(data_offsets=[0, 16.0]), "'w' has an impossible shape"),
    "an offset below": (lying(data_offsets=[-16, 0]), "'w' does not fill its place"),
    "offsets exchanged": (lying(data_offsets=[16, 0]), "'w' does not fill its place"),
    "too little room": (lying(data_offsets=[0, 12]), "'w' does not fill its place"),
    "too much room": (lying(data_offsets=[0, 20]), "'w' does not fill its place"),
    "2^63 as an offset": (lying(data_offsets=[2**63, 2**63 + 16]), "'w' leaves a hole before it"),
    "beyond the file": (packed({"w": F32}, bytes(15)), "its tensors take 16 bytes, but 15 follow"),
    "less than the file": (packed({"w": F32}, bytes(17)), "its tensors take 16 bytes, but 17 follow"),
    "no tensors but numbers": (packed({}, bytes(1)), "its tensors take 0 bytes, but 1 follow"),
    "overlapping": (
        packed({"a": F32, "b": F32 | {"data_offsets": [8, 24]}}, bytes(24)),
        "'b' overlaps another",
    ),
    "the same place": (packed({"a": F32, "b": F32}, bytes(16)), "'b' overlaps another"),
    "a hole": (packed({"a": F32, "b": F32 | {"data_offsets": [20, 36]}}, bytes(36)), "'b' leaves a hole"),
    "a hole at the start": (lying(data_offsets=[16, 32]), "'w' leaves a hole before it"),
    "a name twice": (
        packed(b'{"w":%b,"w":%b}' % ((json.dumps(F32).encode(),) * 2), bytes(16)),
        "names 'w' twice",
    ),
    "a field twice": (
        packed(b'{"w":{"dtype":"F16","dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}', bytes(16)),
        "names 'dtype' twice",
    ),
    "metadata of numbers": (packed({"__metadata__": {"a": 1}}), "metadata that are no texts"),
    "metadata of half a letter": (
        packed({"__metadata__": {"title": "\ud800"}}),
        "metadata that are no texts",
    ),
    "metadata of a list": (packed({"__metadata__": ["a"]}), "metadata that are no texts"),
}


@pytest.mark.parametrize("lie", LIES)
def test_lying_headers(lie: str, tmp_path: Path) -> None:
    content, message = LIES[lie]
    assert message in refused(tmp_path / "x.safetensors", content)


def test_headers_that_do_not_lie(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(packed({}))
    assert open_weights(path).shapes == {}
    empty = {"dtype": "F16", "shape": [0, 5], "data_offsets": [16, 16]}
    path.write_bytes(packed({"z": F32, "e": empty, "__metadata__": {"a": "b"}}, bytes(16)))
    file = open_weights(path)
    assert file.tensor("e").shape == (0, 5)
    assert file.tensor("z").shape == (2, 2)
    assert list(file.shapes) == ["z", "e"]


def test_a_header_of_17_million_bytes(tmp_path: Path) -> None:
    assert "far more than weights need" in refused(tmp_path / "x", packed(b"{" + b" " * (2**24 + 1)))


def test_every_dtype_of_safetensors(tmp_path: Path) -> None:
    dtypes = [TYPES[name].in_torch for name in safetensors_file._NAMES.values()]
    noise = torch.randint(0, 2, (8, 16), dtype=torch.uint8, generator=GENERATOR)
    tensors = {str(dtype): noise.clone().view(dtype) for dtype in dtypes}
    save_file(tensors, tmp_path / "x")
    file = open_weights(tmp_path / "x")
    for name, value in tensors.items():
        assert file.tensor(name).dtype == value.dtype
        assert torch.equal(file.tensor(name).view(torch.uint8), noise)
