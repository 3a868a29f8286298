"""The options of `calotype generate` that name ControlNets and their pictures."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from calotype.errors import InputError

Nets = Annotated[
    list[str] | None,
    typer.Option("--control", help="A ControlNet, file or diffusers folder; may be given again."),
]
Pictures = Annotated[
    list[str] | None,
    typer.Option("--control-image", help="What it looks at: edges, depth, a pose …; one for each --control."),
]
Scales = Annotated[
    list[float] | None, typer.Option("--control-scale", help="How much of what it says is taken.")
]
Starts = Annotated[
    list[float] | None, typer.Option("--control-start", help="When it begins to speak, 0 to 1 of the steps.")
]
Ends = Annotated[
    list[float] | None, typer.Option("--control-end", help="When it stops, 0 to 1 of the steps.")
]
Guess = Annotated[
    bool, typer.Option("--control-guess", help="Guess mode: the picture speaks, the prompt may be poor.")
]


def controls(
    nets: list[str] | None,
    pictures: list[str] | None,
    scales: list[float] | None,
    starts: list[float] | None,
    ends: list[float] | None,
    guess: bool,
) -> list[dict[str, Any]]:
    """The request's `controls`: the first net with the first picture, scale …, and so on.

    A single scale, start or end is for all.  Raises InputError where their numbers do not agree.
    """
    nets, pictures = nets or [], pictures or []
    count = len(nets)
    if len(pictures) != count:
        raise InputError(
            f"--control is given {count} times and --control-image {len(pictures)}; give each ControlNet "
            "its picture."
        )
    numbers = {"scale": scales or [1.0], "start": starts or [0.0], "end": ends or [1.0]}
    for name, values in numbers.items():
        if len(values) not in (1, count):
            raise InputError(
                f"--control-{name} is given {len(values)} times for {count} ControlNets; give it once for "
                "all, or once for each."
            )
    return [
        {"net": net, "picture": picture, "guess": guess}
        | {name: values[i % len(values)] for name, values in numbers.items()}
        for i, (net, picture) in enumerate(zip(nets, pictures, strict=True))
    ]
