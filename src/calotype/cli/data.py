"""`calotype data icons`: the shipped model's training pictures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def icons(
    folder: Annotated[Path, typer.Argument(help="Where the data set goes: a new or empty folder.")],
    size: Annotated[int, typer.Option(help="Side of the pictures in pixels.")] = 128,
    limit: Annotated[int | None, typer.Option(help="Only so many pictures, of all sets.")] = None,
    extra: Annotated[
        list[str] | None,
        typer.Option("--with", help="A further source: openclipart (through apt, on Debian 12)."),
    ] = None,
    pairs: Annotated[
        int, typer.Option(help="So many pictures more that show two things, with captions that say where.")
    ] = 0,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder for the fetched packages. Default: calotype/packages in the user's cache."),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that draw. Default: one a core.")] = None,
) -> None:
    """Fetch icon packages (126 MB through npm) and build captioned pictures of them; run again to go on."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from calotype.data.icons import make_icons
    from calotype.errors import InputError

    if workers is not None and workers < 1:
        raise InputError(f"workers is {workers}: give the number of processes, at least 1.")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def show(stage: str, done: int, total: int) -> None:
            bar.update(task, description=stage, completed=done, total=total or None)

        workers = workers or os.cpu_count() or 1
        summary = make_icons(folder, cache or _cache(), size, limit, workers, show, extra or (), pairs)
    splits = ", ".join(f"{count} {name}" for name, count in summary["split"].items())
    left_out = ", ".join(f"{count} {reason}" for reason, count in summary["left_out"].items()) or "none"
    print(f"{folder}: {summary['pictures']} pictures of {summary['concepts']} concepts ({splits})")
    print(f"left out: {left_out}")
    print(f"content: {summary['content']}")


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "calotype" / "packages"
