"""What a run's figures say in plain words: each verdict follows from one rule, and says what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

Points = Sequence[tuple[int, float]]
Figures = Mapping[str, Any]

STILL_GAINING = 0.05
"""Of a curve's whole gain, what the last fifth of a run may add before the run is called unfinished."""
LOST_AGAIN = 0.05
"""Of a curve's whole gain, what may be lost after the best point before a run is said to overfit."""
UNSTABLE = 1.5
"""Times its lowest level that the training loss may end at."""
BLURRED = 25.0
"""dB of PSNR below which an autoencoder's pictures are plainly not the originals."""
UNIT = (0.8, 1.25)
"""Deviation of latents that noise levels, which are made for 1, still fit."""


@dataclass(frozen=True)
class Verdict:
    """`rule` names what found it; `good` is whether all is well; `words` say what is so and what to do."""

    rule: str
    good: bool
    words: str


def of_run(steps: int, planned: int, loss: Points, held_out: Mapping[str, Points]) -> Iterator[Verdict]:
    """Of a run at `steps` of `planned`, its training loss by step, and its held-out curves by name."""
    if steps < planned:
        words = f"The run ended at step {steps} of {planned}; go on with --resume."
        yield Verdict("unfinished", False, words)
    yield from _stability(loss)
    for name, points in held_out.items():
        yield from _convergence(name, points)
    if not held_out:
        yield Verdict(
            "unmeasured",
            False,
            "Nothing was measured on held-out pictures, so nobody can say whether the model learned or "
            "merely remembers; give the data a validation split and set evaluate_every.",
        )


def _stability(loss: Points) -> Iterator[Verdict]:
    values = [value for _, value in loss]
    size = len(values) // 10
    if not size:
        return
    levels = [median(values[start : start + size]) for start in range(0, size * 10, size)]
    if levels[-1] > UNSTABLE * min(levels):
        yield Verdict(
            "unstable",
            False,
            f"The training loss ended at {levels[-1]:.4g} after it had been at {min(levels):.4g}: training "
            "became unstable; halve learning_rate.",
        )


def _convergence(name: str, points: Points) -> Iterator[Verdict]:
    if len(points) < 5:
        return
    up = name.startswith(("psnr", "ssim"))
    steps, values = [step for step, _ in points], [value if up else -value for _, value in points]
    gain = max(values) - values[0]
    best = values.index(max(values))
    fifth = values[max(i for i, step in enumerate(steps) if step <= 0.8 * steps[-1] or i == 0)]
    if gain <= 0:
        yield Verdict(
            "no gain",
            False,
            f"Held-out {name} never became better than at step {steps[0]}; look at the data and lower "
            "learning_rate.",
        )
    elif max(values) - values[-1] > LOST_AGAIN * gain:
        yield Verdict(
            "overfitted",
            False,
            f"Held-out {name} was best at step {steps[best]} ({points[best][1]:.4g}) and is now "
            f"{points[-1][1]:.4g}: the model learns its training pictures by heart; stop at step "
            f"{steps[best]} or train on more pictures.",
        )
    elif values[-1] - fifth > STILL_GAINING * gain:
        yield Verdict(
            "not converged",
            False,
            f"Held-out {name} has not converged: the last fifth of the run still brought "
            f"{100 * (values[-1] - fifth) / gain:.0f} % of its whole gain; train for more steps.",
        )
    else:
        words = f"Held-out {name} has converged, at {points[-1][1]:.4g}."
        yield Verdict("converged", True, words)


def of_figures(found: Figures) -> Iterator[Verdict]:
    """Of what `calotype evaluate` measured."""
    autoencoder = found.get("reconstruction", {})
    if autoencoder.get("psnr", BLURRED) < BLURRED:
        yield Verdict(
            "blurred",
            False,
            f"The autoencoder gives pictures back at {autoencoder['psnr']:.1f} dB, below {BLURRED:.0f}: "
            "whatever is drawn will be blurred; train the autoencoder longer before the diffusion model.",
        )
    if not UNIT[0] <= autoencoder.get("latent_std", 1.0) <= UNIT[1]:
        yield Verdict(
            "latents not unit",
            False,
            f"The latents' deviation is {autoencoder['latent_std']:.3g}, not 1, so noise levels do not mean "
            "what they say; measure with pictures like the training's, or train the autoencoder again.",
        )
    samples = found.get("samples", {})
    for name, fault, remedy in (
        ("precision", "draws pictures unlike real ones", "train longer or raise guidance"),
        ("recall", "does not reach the variety of real ones", "lower guidance or train longer"),
    ):
        if name not in samples:
            continue
        mine, real = samples[name], samples["real"][name]
        if mine["high"] < real["low"]:
            yield Verdict(
                name,
                False,
                f"The model {fault}: {name} is {mine[name]:.2f}, where real pictures have {real[name]:.2f}; "
                f"{remedy}.",
            )
        else:
            words = f"{name.capitalize()} is {mine[name]:.2f}, within the interval of real pictures' own."
            yield Verdict(name, True, words)


def of_audit(found: Figures) -> Iterator[Verdict]:
    """Of what `calotype audit` found."""
    for space, nearness in found.get("memorisation", {}).items():
        copies = nearness["near_copies"]
        share = f"{100 * copies['share']:.1f} %"
        if copies["low"] > copies["expected"]:
            yield Verdict(
                "copies",
                False,
                f"{share} of the drawn pictures lie nearer to a training picture, by {space}, than "
                f"{100 * (1 - copies['expected']):.0f} % of unseen ones do: the model repeats its training; "
                "look at the sheet, drop duplicates, train shorter or on more pictures.",
            )
        else:
            words = f"Near copies by {space}: {share} of the drawn pictures, no more than chance gives."
            yield Verdict("copies", True, words)
    for name, told in found.get("membership", {}).items():
        area = f"AUC {told['auc']:.3f} ({told['low']:.3f} to {told['high']:.3f})"
        if told["low"] > 0.5:
            yield Verdict(
                "membership",
                False,
                f"Whether a picture was trained on can be guessed from the {name} loss better than by "
                f"chance, {area}; for private pictures train shorter or on more of them.",
            )
        else:
            words = f"The {name} loss does not tell training pictures from others, {area}."
            yield Verdict("membership", True, words)
