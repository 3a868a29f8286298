"""What a U-Net puts out, noise or velocity: its shapes do not tell, so it is asked of whoever may know.

In this order: an explicit choice, the file's own keys, its metadata, a folder's scheduler_config, the
training step that some files remember, and last a default that is logged.  Never the weights' statistics.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from calotype.checkpoints.detect import Family
from calotype.errors import CheckpointError, shown

Parameterization = Literal["eps", "x0", "v"]

NAMES: dict[str, Parameterization] = {
    "epsilon": "eps",
    "eps": "eps",
    "noise": "eps",
    "v_prediction": "v",
    "v-prediction": "v",
    "vpred": "v",
    "v": "v",
    "sample": "x0",
    "x0": "x0",
}

METADATA = ("modelspec.predict_key", "modelspec.prediction_type", "prediction_type")

GLOBAL_STEPS: dict[str, tuple[Parameterization, str]] = {
    "875000": ("eps", "2.0-base"),
    "220000": ("eps", "2.1-base"),
    "110000": ("v", "2.1 at 768 pixels"),
}
"""Training steps at which the published SD 2 files stopped."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """kind  what the network puts out
    zero_terminal_snr  whether its schedule ends in pure noise
    decided  by what, in words
    """

    kind: Parameterization
    zero_terminal_snr: bool
    decided: str


def decide(
    path: Path,
    family: Family,
    *,
    explicit: str | None = None,
    names: Collection[str] = (),
    metadata: Mapping[str, str] | None = None,
    scheduler: Mapping[str, Any] | None = None,
) -> Prediction:
    """Asks everyone in turn.

    explicit   eps, v or x0
    names      of all tensors in the file
    scheduler  a folder's scheduler_config.json

    Raises CheckpointError where an answer is none.
    """
    metadata, scheduler = metadata or {}, scheduler or {}
    zero = "ztsnr" in names or bool(scheduler.get("rescale_betas_zero_snr"))
    if explicit is not None:
        return Prediction(named(path, explicit), zero, "asked for")
    if "v_pred" in names:
        return Prediction("v", zero, "by the file's key v_pred")
    for key in METADATA:
        if key in metadata:
            return Prediction(named(path, metadata[key]), zero, f"by the file's metadata {key}")
    if "prediction_type" in scheduler:
        kind = named(path, str(scheduler["prediction_type"]))
        return Prediction(kind, zero, "by scheduler_config.json")
    if family.name == "sd2" and metadata.get("global_step") in GLOBAL_STEPS:
        kind, which = GLOBAL_STEPS[metadata["global_step"]]
        return Prediction(kind, zero, f"by global_step {metadata['global_step']}, that of {which}")
    return _default(path, family, zero)


def _default(path: Path, family: Family, zero: bool) -> Prediction:
    if zero:
        kind: Parameterization = "v"  # noise cannot be predicted from pure noise
        decided = "by default: a schedule that ends in pure noise needs v"
    elif family.name in ("sd2", "sd-upscaler"):
        kind = "v"
        decided = f"by default: most of {family.title} predict v, the 512-pixel base models eps"
        if family.name == "sd2":
            logger.warning("%s does not say what it predicts; taken as v. A base model needs eps.", path)
    else:
        kind = "eps"
        decided = f"by default: {family.title} predicts eps unless it says otherwise"
    logger.info("%s predicts %s, %s.", path, kind, decided)
    return Prediction(kind, zero, decided)


def named(path: Path, name: str) -> Parameterization:
    """Ours for any name that people and files use; CheckpointError for one they do not."""
    if name.lower() not in NAMES:
        raise CheckpointError(f"{path} is said to predict {shown(name)}; it should be one of eps, v and x0.")
    return NAMES[name.lower()]
