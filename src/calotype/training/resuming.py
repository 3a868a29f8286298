"""What a run that goes on has to share with the one that was broken off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from calotype.errors import TrainingError
from calotype.training.config import TrainConfig, differences
from calotype.training.plan import Plan

REMEDY = {
    "threads": "set the same number with --threads, or give --inexact to accept other last bits",
    "processes": "start as many as before, or give --inexact to accept other last bits",
    "fsdp": "give or leave out --fsdp as before, or give --inexact to accept other last bits",
    "torch": "install that version, or give --inexact to accept other last bits",
}
"""Facts on which only the last bits hang, and what to do where they differ."""


def refuse_another(
    plan: Plan, config: TrainConfig, facts: Mapping[str, Any], stored: Mapping[str, Any]
) -> None:
    """TrainingError, naming the fields, where the checkpoint's facts `stored` are not this run's."""
    changed = differences(config, stored["config"])
    if changed:
        raise TrainingError(
            f"The run in {plan.folder} was made with another {', '.join(changed)}; "
            "resume with the same options, or start a new run with --init-from."
        )
    for name, value in ({"fsdp": False} | dict(facts)).items():
        exempt = name == "config" or (plan.inexact and name in REMEDY)
        before = stored.get(name, False)  # a run from before there was FSDP had none
        if not exempt and before != value:
            remedy = REMEDY.get(name, "use the same again, or start a new run with --init-from")
            raise TrainingError(
                f"The run in {plan.folder} has {name} {before} and this one {value}, "
                f"so it cannot go on to the same bits; {remedy}."
            )
