"""`calotype inspect`: what a file of weights is, what ails it, what mends it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from calotype.cli.inspect_picture import inspect_picture, is_picture
from calotype.errors import CheckpointError, printable

if TYPE_CHECKING:
    from calotype.checkpoints.doctor import Report
    from calotype.tasks.probe import Answer

LONGEST = 100  # characters of one text of the metadata
MOST = 8  # keys, hashes and texts of each kind, of which --json shows all


def inspect(
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help="A checkpoint, LoRA, folder, hub id, or a picture."),
    ],
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every byte: hashes, and numbers that are NaN or infinite.")
    ] = False,
    probe: Annotated[
        bool, typer.Option("--probe", help="Run the network once to see what it predicts.")
    ] = False,
    prediction: Annotated[
        str | None, typer.Option(help="What its U-Net predicts, where the file is wrong: eps, v or x0.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, for machines.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Fetch nothing, even for a hub id.")] = False,
    device: Annotated[str | None, typer.Option(help="For --probe: cpu, cuda …. Default: the best.")] = None,
) -> int:
    """Say what a file of weights is, whether it is whole, and how to mend it; draws nothing.

    Of a picture: how it was made, whether it has Calotype's invisible mark, and its C2PA credentials.

    Exit code 0 if it can be used as it is, 1 if not.
    """
    logging.getLogger("calotype").setLevel(logging.ERROR)  # the report says what would be logged
    if is_picture(file):
        return inspect_picture(Path(file), as_json)
    from calotype.checkpoints import doctor, shelf

    path = shelf.find(file, fetch=not offline)
    report = doctor.examine(path, prediction, deep=deep)
    answer = None
    if probe:
        report, answer = _probed(path, report, prediction, device)
    if as_json:
        told = {} if answer is None else {"probe": vars(answer)}
        print(json.dumps(_plain(report) | told, indent=2))  # in ASCII: texts of files can hold anything
    else:
        print("\n".join(map(printable, _lines(report, answer))))
    return 0 if report.problem is None else 1


def _probed(path: Path, report: Report, prediction: str | None, device: str | None) -> tuple[Report, Answer]:
    import dataclasses

    from calotype.checkpoints import shelf
    from calotype.checkpoints.doctor import beside, command
    from calotype.tasks.probe import probe
    from calotype.tasks.studio import pick_device

    if report.kind != "model":
        raise CheckpointError(f"{path} is no whole model, whose network could be run; leave --probe out.")
    answer = probe(shelf.load(path, pick_device(device), prediction=prediction))
    if answer.kind is None or answer.kind == report.prediction or report.problem is not None:
        return report, answer
    mended = dataclasses.replace(
        report,
        problem=f"Its U-Net predicts {answer.kind}, but is taken for one that predicts {report.prediction}; "
        "its pictures would be noise or burnt.",
        mend=command("convert", path, beside(path, answer.kind), "--prediction", answer.kind),
    )
    return mended, answer


def _lines(report: Report, answer: Answer | None) -> list[str]:
    """The report for people."""
    rows: list[tuple[str, str]] = [("what", _what(report))]
    if report.decided is not None:
        rows.append(("predicts", f"{report.prediction}, {report.decided}"))
    if answer is not None:
        said = answer.kind or "neither eps nor v nor x0"
        shares = (
            f"of the noise, {answer.high:.2f} comes out at the highest level and {answer.low:.2f} at a low"
        )
        rows.append(("probe", f"{said}: {shares} one, where {answer.picture:.2f} of the picture does"))
    rows += _contents(report)
    rows += _changes(report)
    rows += [("keys", line) for line in _keys(report)]
    if report.memory is not None:
        need = report.memory
        spared = need.least is not None and need.least < need.weights
        least = f" ({_size(need.least or 0)} on a CPU where memory is short)" if spared else ""
        rows.append(
            (
                "memory",
                f"{_size(need.weights)} of weights in float32{least}, and an estimated "
                f"{_size(need.drawing)} while drawing, {_size(need.decoding)} while decoding one picture",
            )
        )
    if report.config is not None:
        own, side = report.config.defaults, report.config.size
        rows.append(
            (
                "draws",
                f"{side}x{side}, {own.sampler} on {own.grid}, {own.steps} steps, guidance {own.guidance:g}",
            )
        )
    rows += _metadata(report)
    rows += _deep(report)
    rows += [("note", note) for note in report.notes]
    rows.append(("verdict", report.problem or "It can be used as it is."))
    if report.mend is not None:
        rows.append(("mend", report.mend))
    return [str(report.path), *(f"  {label:<10} {text}" for label, text in rows)]


def _what(report: Report) -> str:
    family = report.family or "for a model that its names do not tell"
    what = {"model": family, "part": family, "autoencoder": f"an autoencoder, {family}"}.get(
        report.kind, f"a {report.kind}, {family}"
    )
    return f"{what} ({report.format})"


def _contents(report: Report) -> list[tuple[str, str]]:
    rows = []
    if report.parameters:
        parts = ", ".join(f"{name} {_count(count)}" for name, count in report.parameters.items())
        rows.append(("parameters", f"{_count(sum(report.parameters.values()))}: {parts}"))
    precisions = ", ".join(f"{name} ({count})" for name, count in report.precisions.items())
    rows.append(("tensors", f"{report.tensors} in {_size(report.size)}: {precisions or 'none'}"))
    if report.averaged is not None:
        count, size = report.averaged
        rows.append(("EMA", f"an averaged copy of the U-Net, {count} tensors, {_size(size)}, not used"))
    return rows


def _changes(report: Report) -> list[tuple[str, str]]:
    """Of a LoRA or a textual inversion."""
    if report.embedding is not None:
        return [("stands for", f"{report.embedding.tokens} tokens")]
    if report.lora is None:
        return []
    lora = report.lora
    ranks = ", ".join(f"{rank or 'whole matrices'} ({count} layers)" for rank, count in lora.ranks.items())
    rows = [("method", lora.method + (", with alphas" if lora.alphas else "")), ("rank", ranks)]
    for network, kinds in lora.targets.items():
        rows.append(
            ("changes", f"{network}: " + ", ".join(f"{count} {kind}" for kind, count in kinds.items()))
        )
    return rows


def _keys(report: Report) -> list[str]:
    wrong = report.misfit
    if report.config is not None and not wrong:
        return ["all there, none unknown, none misshapen"]
    misshapen = [f"{name} {there} instead of {wanted}" for name, there, wanted in wrong.misshapen]
    return [
        f"{len(names)} {verb}: {_some(names)}"
        for verb, names in (("missing", wrong.missing), ("unknown", wrong.unknown), ("misshapen", misshapen))
        if names
    ]


def _metadata(report: Report) -> list[tuple[str, str]]:
    rows = [("metadata", f"{key} = {_short(text)}") for key, text in sorted(report.metadata.items())]
    more = len(rows) - MOST
    return rows if more <= 0 else [*rows[:MOST], ("metadata", f"and {more} more; --json shows all")]


def _deep(report: Report) -> list[tuple[str, str]]:
    if report.deep is None:
        return []
    rows = []
    for place, found in report.deep.hashes.items():
        named = "" if len(report.deep.hashes) == 1 else f"{Path(place).relative_to(report.path)} "
        body = "" if found.autov3 is None else f", AutoV3 {found.autov3}"
        rows.append(("SHA-256", named + found.sha256))
        rows.append(("short", f"{named}AutoV1 {found.autov1}, AutoV2 {found.autov2}{body}"))
    sick = report.deep.not_finite
    told = [f"{name} (NaN {count.nan}, infinite {count.infinite})" for name, count in sick.items()]
    rows.append(("numbers", f"not finite in {len(told)} tensors: {_some(told)}" if told else "all finite"))
    return rows


def _plain(report: Report) -> dict[str, Any]:
    """The report as JSON has it."""
    import dataclasses

    told = dataclasses.asdict(report) | {"path": str(report.path)}
    if report.deep is not None:
        for place, found in report.deep.hashes.items():
            told["deep"]["hashes"][place]["autov2"] = found.autov2
    if report.memory is not None:
        told["memory"]["peak"] = report.memory.peak
    return told


def _some(names: Any) -> str:
    shown = ", ".join(list(names)[:MOST])
    return shown if len(names) <= MOST else f"{shown} and {len(names) - MOST} more (--json shows all)"


def _short(text: str) -> str:
    one = " ".join(text.split())
    return one if len(one) <= LONGEST else f"{one[:LONGEST]}… ({len(text)} characters)"


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _count(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e5 else str(count)
