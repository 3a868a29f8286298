"""Every rule is tripped by figures that break it, and by none that do not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from calotype.evaluation.verdicts import Verdict, of_audit, of_figures, of_run

FLAT = [(step, 0.5) for step in range(0, 1000, 10)]
CONVERGED = [(100 * i, 1 / (1 + 5 * i)) for i in range(1, 11)]
GAINING = [(100 * i, 1 - 0.05 * i) for i in range(1, 11)]
LOST = [(100 * i, 0.5 + 0.01 * (i - 4) ** 2) for i in range(1, 11)]


def bad(verdicts: Iterable[Verdict]) -> list[str]:
    return [verdict.rule for verdict in verdicts if not verdict.good]


def test_a_good_run_is_called_good() -> None:
    found = list(of_run(1000, 1000, FLAT, {"loss": CONVERGED}))
    assert [(verdict.rule, verdict.good) for verdict in found] == [("converged", True)]


@pytest.mark.parametrize(
    ("rule", "done", "loss", "held_out", "words"),
    [
        ("unfinished", 900, FLAT, {"loss": CONVERGED}, "step 900 of 1000; go on with --resume"),
        ("unstable", 1000, [*FLAT[:50], *((s, 0.9) for s, _ in FLAT[50:])], {"loss": CONVERGED}, "halve"),
        ("not converged", 1000, FLAT, {"loss": GAINING}, "last fifth of the run still brought 22 %"),
        ("overfitted", 1000, FLAT, {"loss": LOST}, "best at step 400 (0.5) and is now 0.86"),
        ("no gain", 1000, FLAT, {"loss": [(s, 2 - v) for s, v in GAINING]}, "never became better"),
        ("unmeasured", 1000, FLAT, {}, "set evaluate_every"),
    ],
)
def test_each_rule_of_a_run(rule: str, done: int, loss: Any, held_out: dict[str, Any], words: str) -> None:
    found = [verdict for verdict in of_run(done, 1000, loss, held_out) if not verdict.good]
    assert [verdict.rule for verdict in found] == [rule]
    assert words in found[0].words


def test_of_psnr_more_is_better() -> None:
    rising = [(step, 30 - value) for step, value in CONVERGED]
    assert bad(of_run(1000, 1000, FLAT, {"psnr": rising})) == []
    assert bad(of_run(1000, 1000, FLAT, {"loss": rising})) == ["no gain"]


def interval(name: str, value: float) -> dict[str, float]:
    return {name: value, "low": value - 0.05, "high": value + 0.05}


def test_each_rule_of_figures() -> None:
    assert bad(of_figures({"reconstruction": {"psnr": 31.0, "latent_std": 1.0}})) == []
    assert bad(of_figures({"reconstruction": {"psnr": 20.0, "latent_std": 1.0}})) == ["blurred"]
    assert bad(of_figures({"reconstruction": {"psnr": 31.0, "latent_std": 0.2}})) == ["latents not unit"]
    real = {name: interval(name, 0.8) for name in ("precision", "recall")}
    for low in ("precision", "recall"):
        mine = {name: interval(name, 0.3 if name == low else 0.75) for name in real}
        assert bad(of_figures({"samples": {**mine, "real": real}})) == [low]


def test_each_rule_of_an_audit() -> None:
    def audited(share: float, auc: float) -> dict[str, Any]:
        copies = interval("share", share) | {"expected": 0.01}
        return {
            "memorisation": {"pixels": {"near_copies": copies}},
            "membership": {"captioned": interval("auc", auc)},
        }

    assert bad(of_audit(audited(0.01, 0.5))) == []
    assert bad(of_audit(audited(0.30, 0.5))) == ["copies"]
    assert bad(of_audit(audited(0.01, 0.6))) == ["membership"]
