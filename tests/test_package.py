"""What is installed with the package: every file of its own, and the licences of what it holds."""

import tomllib
from pathlib import Path

import calotype

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGE = Path(calotype.__file__).parent


def test_every_file_that_is_not_python_is_named() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["calotype"]
    named = {path for pattern in patterns for path in PACKAGE.glob(pattern)}
    there = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert there == named


def test_who_made_what_the_weights_learned_from_comes_along() -> None:
    licences = {path for pattern in PROJECT["project"]["license-files"] for path in ROOT.glob(pattern)}
    assert ROOT / "LICENSE" in licences
    for weights in (PACKAGE / "weights").glob("*.safetensors"):
        assert ROOT / "recipes" / weights.stem / "ATTRIBUTION.md" in licences
