"""The progress bar of a run: loss, images per second, time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from calotype.training.fit import Progress


@contextmanager
def bar(steps: int, done: int, *, visible: bool) -> Iterator[Callable[[Progress], None]]:
    """A bar on standard error; the function it gives takes each step's Progress."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Rich

    columns = (
        TextColumn("step"),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TextColumn("{task.fields[speed]:.1f} images/s"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]} left"),
    )
    with Rich(*columns, console=Console(stderr=True), disable=not visible) as rich:
        task = rich.add_task("", total=steps, completed=done, loss=float("nan"), speed=0.0, left="--:--")
        average = None

        def show(progress: Progress) -> None:
            nonlocal average
            loss = progress.report.parts["loss"]
            average = loss if average is None else 0.95 * average + 0.05 * loss
            minutes, seconds = divmod(round(progress.seconds_left), 60)
            left = f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
            rich.update(
                task,
                completed=progress.report.step,
                loss=average,
                speed=progress.images_per_second,
                left=left,
            )

        yield show
