"""The names people may rely on, and what importing them costs."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import calotype

NAMES = [
    "BlockList",
    "CalotypeError",
    "CheckpointError",
    "DataError",
    "FetchError",
    "InputError",
    "OutputError",
    "Request",
    "Safety",
    "Studio",
    "TrainingError",
    "__version__",
    "evaluate",
    "load",
    "train",
    "tune",
]


def test_the_public_names() -> None:
    assert calotype.__all__ == NAMES
    for name in NAMES:
        assert getattr(calotype, name) is not None
        assert name in dir(calotype)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        calotype.nonsense  # noqa: B018


def test_the_version_is_the_packages() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert calotype.__version__ == project["version"]


def test_importing_is_free() -> None:
    """`import calotype` loads no library at all; the command line's own import none of the heavy ones."""
    code = """
import sys
import calotype
assert not {"torch", "numpy", "PIL", "pydantic"} & set(sys.modules), "import calotype loads a library"
import calotype.cli.main
loaded = {"torch", "numpy", "pydantic", "rich", "tokenizers", "accelerate"} & set(sys.modules)
assert not loaded, f"the command line loads {loaded} before it knows the command"
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
