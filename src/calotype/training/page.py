"""The end of a run: what it took, beside what was planned, and the report as a page (Markdown)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calotype.checkpoints.memory import peak
from calotype.training.config import TrainConfig, differences

PLAN = "plan.json"
"""The file in a run's folder in which `calotype plan` foretells it."""


def planned(folder: Path, config: TrainConfig) -> dict[str, Any] | None:
    """What was foretold of this very configuration in a run's folder; None where nothing was."""
    try:
        told = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        return None if differences(config, told["config"]) else dict(told)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def took(folder: Path, config: TrainConfig, step: int) -> dict[str, Any]:
    """Bytes that a run of `step` steps took, and its plan where there is one, as far as the run came."""
    files = (path for path in folder.rglob("*") if path.is_file())
    facts: dict[str, Any] = {"peak_memory": peak(), "disk": sum(path.stat().st_size for path in files)}
    plan = planned(folder, config)
    if plan is not None:
        facts["plan"] = {
            "seconds": round(step / config.steps * sum(plan["running"].values()), 1),
            "peak_memory": plan["memory"],
            "disk": sum(size for kind, size in plan["disk"].items() if kind != "caches"),
        }
    return facts


def markdown(report: Mapping[str, Any], history: list[dict[str, Any]]) -> str:
    """The end report as a page: facts, then the curve at about twenty points."""
    lines = ["# Training report", ""]
    for name, value in report.items():
        if name == "privacy":
            lines.append(f"- {name}: " + ", ".join(f"{part} {said}" for part, said in value.items()))
        elif name != "plan":
            lines.append(f"- {name}: {value}")
    if "plan" in report:
        lines += ["", "## Plan and what happened", "", "| | planned | was | was / planned |"]
        lines += ["| --- | ---: | ---: | ---: |"]
        for name, value in report["plan"].items():
            lines.append(f"| {name} | {value} | {report[name]} | {report[name] / max(value, 1e-9):.2f} |")
    for title, chosen in (
        ("Training", [r for r in history if "learning_rate" in r]),
        ("Held out", [r for r in history if "learning_rate" not in r]),
    ):
        if not chosen:
            continue
        thinned = chosen[:: max(1, len(chosen) // 20)]
        if thinned[-1] is not chosen[-1]:
            thinned.append(chosen[-1])
        names = list(chosen[-1])
        lines += ["", f"## {title}", "", "| " + " | ".join(names) + " |", "|" + " ---: |" * len(names)]
        lines += ["| " + " | ".join(f"{r.get(n, ''):.6g}" for n in names) + " |" for r in thinned]
    return "\n".join(lines) + "\n"
