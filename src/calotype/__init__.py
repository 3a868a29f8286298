"""Calotype: Stable Diffusion as one whole.  Importing it is free: each name loads its room when used."""

from importlib import import_module
from typing import TYPE_CHECKING

from calotype.errors import (
    CalotypeError,
    CheckpointError,
    DataError,
    FetchError,
    InputError,
    OutputError,
    TrainingError,
)

if TYPE_CHECKING:
    from calotype.evaluation.evaluate import evaluate
    from calotype.safety.blocklist import BlockList
    from calotype.safety.policy import Safety
    from calotype.tasks.request import Request
    from calotype.tasks.studio import Studio, load
    from calotype.training import train, tune

__version__ = "0.1.0"

_HOMES = {
    "BlockList": "calotype.safety.blocklist",
    "Request": "calotype.tasks.request",
    "Safety": "calotype.safety.policy",
    "Studio": "calotype.tasks.studio",
    "evaluate": "calotype.evaluation",
    "load": "calotype.tasks.studio",
    "train": "calotype.training",
    "tune": "calotype.training",
}

__all__ = [
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


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'calotype' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
