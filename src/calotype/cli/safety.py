"""The options by which the owner guards pictures; all that draw or restore, and `serve`, share them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from calotype.safety.policy import Safety

ContentCheck = Annotated[
    str | None,
    typer.Option(
        "--content-check",
        help="withhold, report, off, or auto: withhold for models that do not come with Calotype. "
        "Default: CALOTYPE_CONTENT_CHECK, or auto.",
    ),
]
Threshold = Annotated[
    float | None, typer.Option("--content-threshold", help="Score, 0 to 1, from which a picture is withheld.")
]
Words = Annotated[
    Path | None, typer.Option("--block-list", help="A text file of words that are refused, one a line.")
]
Metadata = Annotated[
    str, typer.Option("--metadata", help="full: the whole request; shareable: no words, no file names.")
]
Mark = Annotated[bool, typer.Option("--watermark", help="Mark pictures invisibly; `inspect` finds the mark.")]
Sign = Annotated[
    str | None,
    typer.Option(
        "--sign",
        metavar="FOLDER",
        help="Sign pictures (C2PA) with chain.pem and key.pem there; self: with a key made on first use.",
    ),
]


def safety(
    check: str | None,
    threshold: float | None,
    words: Path | None,
    metadata: str,
    mark: bool = False,
    sign: str | None = None,
) -> Safety:
    """InputError where one of them is wrong."""
    from calotype.safety.blocklist import BlockList
    from calotype.safety.content import THRESHOLD
    from calotype.safety.policy import Safety
    from calotype.safety.provenance import Signer

    return Safety(
        content_check=check,  # type: ignore[arg-type]  # Safety says what is wrong with it
        threshold=THRESHOLD if threshold is None else threshold,
        block_list=None if words is None else BlockList(words.expanduser()),
        metadata=metadata,  # type: ignore[arg-type]
        watermark=mark,
        signer=None if sign is None else Signer.named(sign),
    )
