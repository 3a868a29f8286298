"""What all commands that train share: their options, and the way from a folder to the end of a run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from calotype.cli import forecasts

if TYPE_CHECKING:
    from calotype.training.config import TrainConfig
    from calotype.training.fit import Run
    from calotype.training.plan import Plan
    from calotype.training.sessions import DataSet

C = TypeVar("C")
Watch = Callable[[str, int, int], None]

Folder = Annotated[Path, typer.Argument(help="Folder of pictures, captioned or not.")]
Out = Annotated[Path, typer.Option(help="The run's folder: metrics, samples, checkpoints, weights.")]
Preset = Annotated[str, typer.Option("--model", help="Preset that gives the networks' sizes.")]
Recipe = Annotated[str | None, typer.Option(help="Training recipe; the model's own if not given.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change one training option: --set batch=16 --set steps=500."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, to the bit.")]


def shipped_or_path(name: str) -> Path:
    """The file of that name, else of a shipped model, as `icons`."""
    from calotype.checkpoints import shelf

    return Path(name) if Path(name).exists() else shelf.shipped().get(name, Path(name))


InitFrom = Annotated[
    Path | None,
    typer.Option(
        parser=shipped_or_path,
        metavar="FILE",
        help="Start a new run from these weights, or from a shipped model's, by its name.",
    ),
]
Coder = Annotated[
    Path | None,
    typer.Option(
        "--autoencoder",
        parser=shipped_or_path,
        metavar="FILE",
        help="Checkpoint that holds the autoencoder; a shipped model's name will do.",
    ),
]
Minutes = Annotated[float, typer.Option(help="Stop after so many minutes, with a checkpoint.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads.")]
Inexact = Annotated[bool, typer.Option("--inexact", help="Resume although threads or versions differ.")]
Strict = Annotated[
    bool, typer.Option("--strict", help="Stop at the first file that is not a usable picture.")
]
Device = Annotated[str | None, typer.Option(help="cpu to keep off the GPU.")]
Fsdp = Annotated[
    bool, typer.Option("--fsdp", help="Of several processes (torchrun), each holds a part of the weights.")
]
Foretell = Annotated[
    bool, typer.Option("--plan", help="Say what the run would cost, into --out, and do not begin it.")
]


def named_recipe(
    name: str | None, model: str, recipes: dict[str, Callable[[], C]], plain: Callable[[], C]
) -> C:
    """The recipe asked for, else the model's own, else plain options."""
    if name is None:
        return recipes.get(model, plain)()
    return named("training recipe", name, recipes)()


def named(what: str, name: str, things: dict[str, C]) -> C:
    import difflib

    from calotype.errors import InputError

    if name not in things:
        near = difflib.get_close_matches(name, things, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(things)}."
        raise InputError(f"There is no {what} {name!r}; {hint}")
    return things[name]


@contextmanager
def watching() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar for each thing that is prepared before the first step."""
    from rich.console import Console
    from rich.progress import Progress, TaskID

    tasks: dict[str, TaskID] = {}
    # without a terminal a transient bar leaves an empty line before an error's one sentence
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:

        def watch(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done, total=total)

        yield watch


def _read(
    folder: Path, size: int, strict: bool, watch: Watch, shapes: tuple[tuple[int, int], ...] = ()
) -> DataSet:
    """The data set in memory; what had to be left out is named on standard error."""
    from calotype.training.sessions import read_data

    data = read_data(folder, size, strict=strict, watch=watch, shapes=shapes)
    if data.skipped:
        named = "; ".join(f"{path.name} {reason}" for path, reason in data.skipped[:5])
        more = f"; and {len(data.skipped) - 5} more" if len(data.skipped) > 5 else ""
        print(
            f"calotype: left out {len(data.skipped)} unusable file(s) of {folder} ({named}{more}); "
            "--strict stops instead.",
            file=sys.stderr,
        )
    return data


def go(
    prepare: Callable[[Any, DataSet, Plan, Watch], Run],
    config: TrainConfig,
    folder: Path,
    size: int,
    plan: Plan,
    *,
    strict: bool,
    foretell: bool,
    shapes: tuple[tuple[int, int], ...] = (),
) -> None:
    """Read the folder and complete the run, or only say what that would cost."""
    if foretell:
        from calotype.training.few import read_few
        from calotype.training.forecast import forecast

        told = forecast(prepare, read_few(folder, size, strict=strict, shapes=shapes), config, plan)
        told.write(plan.folder)
        print(forecasts.of_run(told, config, plan))
        return
    with watching() as watch:
        data = _read(folder, size, strict, watch, shapes)
        run = prepare(config, data, plan, watch)
    _complete(run, data, plan)


def _complete(run: Run, data: DataSet, plan: Plan) -> None:
    from calotype.training.api import complete

    report = complete(run, progress=True, extra={"skipped_files": len(data.skipped)})
    if not run.main:
        return
    state = "finished" if report["finished"] else "stopped early; go on with --resume"
    print(f"{plan.folder / run.objective.product}  step {report['step']} of {report['steps']}, {state}")
