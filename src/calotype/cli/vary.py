"""`calotype vary`: pictures like one that is there."""

from __future__ import annotations

from typing import Annotated

import typer

from calotype.cli import safety
from calotype.cli.clock import Clock
from calotype.cli.drawing import Places, draw


def vary(
    picture: Annotated[str, typer.Argument(help="A PNG that Calotype made; any picture with --prompt.")],
    output: Annotated[
        str | None, typer.Option("-o", "--output", help="PNG to write, numbered as by generate.")
    ] = None,
    amount: Annotated[float, typer.Option(help="How far from the picture, 0 to 1.")] = 0.2,
    count: Annotated[int, typer.Option(help="How many variations.")] = 4,
    seed: Annotated[int | None, typer.Option(help="Of the first variation. Default: a fresh one.")] = None,
    prompt: Annotated[
        str | None, typer.Option(help="What the picture shows: it is drawn anew by image to image.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Default: the picture's own, or icons.")] = None,
    sheet: Annotated[str | None, typer.Option(help="Also write all pictures on one PNG sheet.")] = None,
    content_check: safety.ContentCheck = None,
    content_threshold: safety.Threshold = None,
    block_list: safety.Words = None,
    metadata: safety.Metadata = "full",
    watermark: safety.Mark = False,
    sign: safety.Sign = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda …. Default: the best one here.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads. Default: torch's choice.")] = None,
) -> None:
    """Draw variations of a picture; prints the path of each."""
    clock = Clock()
    with clock.stage("imports"):
        from calotype.tasks import picture as files
        from calotype.tasks.vary import variations
    request = variations(picture, amount, count, seed, prompt, model)
    if output is not None:
        files.keep_sources(files.output_paths(output, count), [picture])
    # a name that only the picture gives is never fetched
    guards = safety.safety(content_check, content_threshold, block_list, metadata, watermark, sign)
    draw(request, Places(output, sheet), guards, None, None, device, threads, clock, offline=model is None)
