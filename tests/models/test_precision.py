"""What a device computes in, by what it says of itself."""

from __future__ import annotations

import pytest
import torch

from calotype.errors import InputError
from calotype.models import precision
from calotype.networks import processor


@pytest.mark.parametrize(
    ("units", "expected"),
    [
        ({"avx2": True, "avx512_f": True}, None),
        ({"avx2": True, "avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
        ({"neon": True, "bf16": True}, "bf16"),
        ({"neon": True, "bf16": False}, None),
    ],
)
def test_a_cpu_is_asked_for_its_units(
    units: dict[str, bool], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {**units, "cpu_name": "bf16", "l2_cache_size": 1}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told)
    monkeypatch.setattr(processor, "UNITS", processor.told())
    assert precision.reduced("cpu") == expected
    assert precision.for_training("cpu") == (expected or "float32")


def test_an_older_torch_is_asked_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(processor, "UNITS", processor.told())
    assert not processor.multiplies_bf16_in_vectors()  # it may have tiles
    assert precision.reduced("cpu") == "bf16"
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    monkeypatch.setattr(processor, "UNITS", processor.told())
    assert precision.reduced("cpu") is None


@pytest.mark.parametrize(
    ("units", "there"),
    [
        ({"avx512_bf16": True}, False),
        ({"avx512_bf16": True, "avx512_fp16": True}, True),
        ({"neon": True, "fp16_arith": True}, True),
    ],
)
def test_fp16_has_units_of_its_own(
    units: dict[str, bool], there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units)
    monkeypatch.setattr(processor, "UNITS", processor.told())
    assert processor.multiplies(torch.float16) == there
    assert processor.multiplies(torch.float32)


@pytest.mark.parametrize(("supported", "expected"), [(True, "bf16"), (False, "fp16")])
def test_gpus(supported: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: supported)
    assert precision.reduced("cuda") == expected
    assert precision.for_training("cuda") == ("bf16" if supported else "float32")
    assert precision.reduced("mps") == "fp16"
    assert precision.for_training("mps") == "float32"


def test_names() -> None:
    assert [precision.parse(name) for name in precision.DTYPES] == list(precision.DTYPES)
    with pytest.raises(InputError, match="precision is 'half'; give auto, float32, bf16, fp16"):
        precision.parse("half")
