"""`calotype evaluate`, `calotype compare`, `calotype audit` and `calotype report`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from PIL.Image import Image

Folder = Annotated[Path, typer.Argument(help="Folder of pictures, captioned or not.")]
Out = Annotated[Path | None, typer.Option(help="Write the figures here as JSON.")]


def evaluate(
    model: Annotated[str, typer.Argument(help="A model's name or checkpoint, or an autoencoder's.")],
    folder: Folder,
    split: Annotated[str, typer.Option(help="Which split to measure on.")] = "test",
    kinds: Annotated[
        list[str] | None, typer.Option("--kind", help="Only pictures of this kind (emoji, colour, …).")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="At most so many pictures.")] = 1000,
    out: Out = None,
    content: Annotated[
        bool, typer.Option("--content", help="Also draw pictures and measure what they show.")
    ] = False,
    samples: Annotated[
        int, typer.Option(min=0, help="Also draw so many pictures and measure them as a set.")
    ] = 0,
    clip: Annotated[
        Path | None,
        typer.Option(help="Folder of a CLIP as transformers writes it: adds CLIPScore to --samples."),
    ] = None,
    labels: Annotated[
        bool,
        typer.Option(
            "--labels", help="Are drawn classes recognised by a classifier that the training split teaches?"
        ),
    ] = False,
    alignment: Annotated[
        bool,
        typer.Option(
            "--alignment", help="Do drawn pictures fit their words, by a dual encoder taught alike?"
        ),
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first file that is not a usable picture.")
    ] = False,
) -> None:
    """Measure a model on pictures it was not trained on."""
    import json

    from calotype.checkpoints.shelf import find
    from calotype.evaluation import evaluate as measure

    path = find(model)
    shown: list[Image] = []
    found = measure(
        path,
        folder,
        split=split,
        kinds=kinds or (),
        count=count,
        strict=strict,
        out=out,
        draw=drawing(path, shown) if content or samples else None,
        content=content,
        samples=samples,
        clip=clip,
        labels=labels,
        alignment=alignment,
    )
    print(json.dumps(found, indent=1))
    if out is not None and shown:
        from calotype.tasks.picture import contact_sheet

        contact_sheet(shown).save(out.with_suffix(".png"))


def compare(
    first: Annotated[Path, typer.Argument(help="Figures that `evaluate --out` wrote.")],
    second: Annotated[Path, typer.Argument(help="Another model's, measured alike.")],
) -> None:
    """Put two models' figures beside each other; refused where they were not measured alike."""
    from calotype.evaluation.compare import compare as beside

    rows = beside(first, second)
    width = max((len(row.name) for row in rows), default=0)
    print(f"{'':{width}}  {first.name[-24:]:>24}  {second.name[-24:]:>24}  the second is")
    for row in rows:
        one, other = (
            f"{value:.5g}" + (f" ({low_high[0]:.4g} to {low_high[1]:.4g})" if low_high else "")
            for value, low_high in ((row.first, row.first_interval), (row.second, row.second_interval))
        )
        print(f"{row.name:{width}}  {one:>24}  {other:>24}  {row.verdict}".rstrip())


def audit(
    model: Annotated[str, typer.Argument(help="A model's name or checkpoint.")],
    folder: Annotated[Path, typer.Argument(help="The data set it was trained on, with its splits.")],
    count: Annotated[int, typer.Option(min=1, help="Pictures drawn, and pictures of each other kind.")] = 400,
    training: Annotated[
        int | None, typer.Option(min=1, help="Look through so many training pictures only.")
    ] = None,
    out: Out = None,
) -> None:
    """Look for what a model gives away of its training pictures: near copies, membership by the loss."""
    import json

    from calotype.checkpoints.shelf import find
    from calotype.cli.runs import watching
    from calotype.evaluation.audit import audit as look

    path = find(model)
    with watching() as watch:
        found = look(
            path,
            folder,
            drawing(path, []),
            samples=count,
            members=count,
            training=training,
            out=out,
            watch=watch,
        )
    print(json.dumps(found.figures, indent=1))
    if out is not None:
        from calotype.evaluation.sheets import save_sheet

        save_sheet(out.with_suffix(".png"), found.sheet, columns=8)


def report(
    run: Annotated[Path, typer.Argument(help="A training's folder.")],
    figures: Annotated[Path | None, typer.Option(help="What `evaluate --out` wrote.")] = None,
    audited: Annotated[Path | None, typer.Option("--audit", help="What `audit --out` wrote.")] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="The data set: shows held-out pictures through the autoencoder.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The page; RUN/report.html if not given.")] = None,
) -> None:
    """Tell how a training went, on one page: verdicts, curves, samples, figures, nearest pictures."""
    from calotype.evaluation.report import report as tell

    print(tell(run, figures=figures, audit=audited, pictures=pictures, out=out))


SHOWN = 64
"""Pictures on the sheet beside the figures: the first that were asked for."""


def drawing(path: Path, shown: list[Image]) -> Callable[[Sequence[str], int], list[Image]]:
    """A function that draws by the model in `path` and puts its first pictures into `shown`."""
    from calotype.tasks.studio import load

    studio = load(str(path))

    def draw(prompts: Sequence[str], seed: int) -> list[Image]:
        pictures = studio.generate(list(prompts), seed=seed)
        shown.extend(pictures[: SHOWN - len(shown)])
        return pictures

    return draw
