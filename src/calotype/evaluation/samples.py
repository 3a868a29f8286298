"""Drawn pictures as a set against real ones: distances of distributions, fidelity, diversity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from calotype.evaluation.features import Features
from calotype.evaluation.frechet import frechet_distance
from calotype.evaluation.given import Clip
from calotype.evaluation.intervals import measured
from calotype.evaluation.kid import kid
from calotype.evaluation.manifold import manifold


def sample_figures(
    drawn: Tensor,
    asked: Sequence[str],
    real: Tensor,
    captions: Sequence[str],
    clip: Clip | None = None,
) -> dict[str, Any]:
    """Figures of drawn pictures uint8 (N 3 H W), `asked` for by N prompts, against real ones (M 3 H W).

    By EfficientNet-Lite0's features: "effnet_lite0_kid", "effnet_lite0_frechet", and precision, recall,
    density, coverage (see `manifold`); "real" has the same figures of one half of the real pictures against
    the other, which is what a perfect model would get.  "clip_score", for the pictures drawn and under
    "real", where a CLIP is given.
    """
    features = Features()
    mine, theirs = features(drawn), features(real)
    found = _against(mine, theirs, "effnet_lite0_")
    yardstick = _against(theirs[::2], theirs[1::2], "effnet_lite0_")
    if clip is not None:
        found["clip_score"] = measured("clip_score", clip(drawn, asked))
        yardstick["clip_score"] = measured("clip_score", clip(real, captions))
    protocol = {"drawn": len(drawn), "features": "EffNet-Lite0", "prompts": "evenly through the captions"}
    return {"protocol": protocol, **found, "real": yardstick}


def _against(mine: Tensor, theirs: Tensor, prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {f"{prefix}kid": kid(mine, theirs)}
    found[f"{prefix}frechet"] = frechet_distance(mine, theirs)
    return found | manifold(mine, theirs)
