"""Only like is compared with like; a difference is called one only where the intervals are apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from calotype.cli.main import run
from calotype.errors import InputError
from calotype.evaluation.compare import compare


def figures(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "protocol": {"model": "a", "torch": "2", "pictures": 100, "reference_sha256": "ab" * 32},
        "denoising": {"loss": 0.5, "intervals": {"loss": [0.4, 0.6]}},
        "reconstruction": {"psnr": 30.0, "latent_std": 1.0, "intervals": {"psnr": [29, 31]}},
        "samples": {
            "protocol": {"drawn": 50},
            "effnet_lite0_kid": {"kid": 0.2, "low": 0.1, "high": 0.3},
            "precision": {"precision": 0.5, "low": 0.4, "high": 0.6, "count": 50},
        },
    }
    for name, value in changes.items():
        section, _, key = name.partition("__")
        found[section][key] = value
    return found


def written(folder: Path, name: str, found: Any) -> Path:
    path = folder / name
    path.write_text(json.dumps(found))
    return path


def verdicts(folder: Path, **changes: Any) -> dict[str, str]:
    rows = compare(written(folder, "a.json", figures()), written(folder, "b.json", figures(**changes)))
    return {row.name: row.verdict for row in rows}


def test_what_is_better_depends_on_the_figure(tmp_path: Path) -> None:
    same = verdicts(tmp_path, protocol__model="b", protocol__torch="3")
    assert same["denoising.loss"] == same["samples.precision.precision"] == "within the intervals"
    assert same["reconstruction.latent_std"] == same["samples.precision.count"] == ""
    down = {"loss": 0.1, "intervals": {"loss": [0.05, 0.15]}}
    up = {"psnr": 40, "intervals": {"psnr": [39, 41]}}
    far = {"kid": 0.9, "low": 0.8, "high": 1.0}
    found = verdicts(tmp_path, denoising__loss=0.1, denoising__intervals=down["intervals"])
    assert found["denoising.loss"] == "better"
    found = verdicts(tmp_path, reconstruction__psnr=40, reconstruction__intervals=up["intervals"])
    assert found["reconstruction.psnr"] == "better"
    assert verdicts(tmp_path, samples__effnet_lite0_kid=far)["samples.effnet_lite0_kid.kid"] == "worse"


def test_unlike_protocols_are_refused_by_name(tmp_path: Path) -> None:
    one = written(tmp_path, "a.json", figures())
    other = written(
        tmp_path, "b.json", figures(protocol__pictures=99, protocol__size=64, samples__protocol={"drawn": 51})
    )
    with pytest.raises(InputError) as refused:
        compare(one, other)
    assert "pictures: 100 against 99; size: not stated against 64; samples.drawn: 50 against 51" in str(
        refused.value
    )


def test_a_section_that_only_one_has_is_no_difference(tmp_path: Path) -> None:
    less = figures()
    del less["samples"]
    rows = compare(written(tmp_path, "a.json", figures()), written(tmp_path, "b.json", less))
    assert [row.name.split(".")[0] for row in rows] == ["denoising", "reconstruction", "reconstruction"]


def test_files_without_figures_are_refused(tmp_path: Path) -> None:
    good = written(tmp_path, "a.json", figures())
    with pytest.raises(InputError, match="cannot be read"):
        compare(good, tmp_path / "absent.json")
    with pytest.raises(InputError, match="holds no protocol"):
        compare(written(tmp_path, "b.json", [1]), good)
    (tmp_path / "c.json").write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        compare(good, tmp_path / "c.json")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = written(tmp_path, "a.json", figures()), written(tmp_path, "b.json", figures())
    assert run(["compare", str(one), str(other)]) == 0
    assert "denoising.loss" in capsys.readouterr().out
    written(tmp_path, "b.json", figures(protocol__pictures=7))
    assert run(["compare", str(one), str(other)]) == 2
    assert "pictures: 100 against 7" in capsys.readouterr().err
