"""`calotype report`: a run as one page that stands alone: verdicts, curves, samples, figures, neighbours."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError

from calotype import durable
from calotype.checkpoints import native
from calotype.data.folder import PictureFolder
from calotype.errors import InputError, OutputError
from calotype.evaluation.curves import curve
from calotype.evaluation.evaluate import thinned
from calotype.evaluation.protocol import read
from calotype.evaluation.sheets import sheet
from calotype.evaluation.verdicts import Points, Verdict, of_audit, of_figures, of_run
from calotype.networks.autoencoder import Autoencoder

SHEETS = 6
"""Sheets of samples shown, evenly over the run, the last one among them."""
RECONSTRUCTED = 8
WITHOUT_INTERVAL = ("expected", "threshold", "caught")
"""What stands beside a figure with an interval and has none."""
ASIDE = frozenset(("step", "seconds", "learning_rate", "images_per_second"))


@dataclass(frozen=True)
class Report:
    """`title`; `verdicts`; `facts` and `rows` (figure, value, interval) of tables; `curves` by name;
    `pictures`, (caption, PNG) in the order they are shown.
    """

    title: str
    verdicts: list[Verdict]
    facts: Mapping[str, Any]
    curves: Mapping[str, Points]
    rows: list[tuple[str, str, str]] = field(default_factory=list)
    pictures: list[tuple[str, bytes]] = field(default_factory=list)


def report(
    run: str | Path,
    *,
    figures: str | Path | None = None,
    audit: str | Path | None = None,
    pictures: str | Path | None = None,
    out: str | Path | None = None,
) -> Path:
    """Write a run folder's page, `out` or RUN/report.html, and beside it, as Markdown, verdicts and figures.

    `figures` and `audit` are what `calotype evaluate --out` and `calotype audit --out` wrote, the sheet of
    nearest training pictures beside the latter; `pictures` is the data set, of whose validation split some
    are shown through the model's autoencoder.  Returns the page's path; InputError, DataError,
    CheckpointError or OutputError.
    """
    folder = Path(run)
    found = gathered(folder, *(Path(path) if path else None for path in (figures, audit, pictures)))
    page = Path(out) if out else folder / "report.html"
    notes = page.with_name(page.stem + "-verdicts.md")
    for path, text in ((page, as_html(found)), (notes, as_markdown(found))):
        partial = path.with_name(path.name + ".tmp")
        try:
            partial.write_text(text, encoding="utf-8")
            durable.rename(partial, path)
        except OSError as error:
            raise OutputError(
                f"{path} cannot be written ({error.strerror}); choose another --out."
            ) from error
    return page


def gathered(folder: Path, figures: Path | None, audit: Path | None, pictures: Path | None) -> Report:
    """Everything that the page shows."""
    facts, history = _config(folder), _history(folder)
    training, held_out = _split(history)
    planned = int(facts["config"]["steps"])
    done = max((int(record["step"]) for record in history), default=0)
    verdicts = list(of_run(done, planned, training.get("loss", []), held_out))
    rows, shown = [], list(_samples(folder))
    if pictures is not None:
        shown.append(
            ("Held-out pictures, and below each what the autoencoder gives back", _again(folder, pictures))
        )
    if figures is not None:
        measured = _of_this_run(figures, folder)
        verdicts += of_figures(measured)
        rows += list(_rows(measured))
    if audit is not None:
        audited = _of_this_run(audit, folder)
        verdicts += of_audit(audited)
        rows += list(_rows(audited))
        neighbours = audit.with_suffix(".png")
        if neighbours.is_file():
            shown.append(
                ("Drawn pictures nearest to a training picture, each followed by that", _png(neighbours))
            )
    told = {name: value for name, value in facts.items() if name != "config"}
    curves = {**training, **{f"held-out {name}": points for name, points in held_out.items()}}
    return Report(folder.resolve().name, verdicts, told | facts["config"], curves, rows, shown)


def _of_this_run(path: Path, folder: Path) -> dict[str, Any]:
    """Figures of the run's own weights; InputError where they are of others."""
    found, model = read(path), folder / "model.safetensors"
    if not model.is_file():
        raise InputError(f"{folder} has no model.safetensors yet, so {path} is not of it; leave it out.")
    mine, theirs = native.describe(model).weights_hash, found["protocol"].get("weights_sha256")
    if mine != theirs:
        raise InputError(
            f"{path} is of the weights {str(theirs)[:8]} and {model} has {str(mine)[:8]}; measure that again."
        )
    return found


def _config(folder: Path) -> dict[str, Any]:
    try:
        facts = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        int(facts["config"]["steps"])
    except OSError:
        raise InputError(f"{folder} holds no run (no config.json); name a training's --out.") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{folder}/config.json is no run's; name a training's --out.") from None
    return dict(facts)


def _history(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl: a run that is going on may be writing the last."""
    path = folder / "metrics.jsonl"
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return [record for record in records if isinstance(record, dict) and "step" in record]


def _split(history: list[dict[str, Any]]) -> tuple[dict[str, Points], dict[str, Points]]:
    """Curves of training, whose records tell the learning rate, and of held-out pictures."""
    curves: tuple[dict[str, list[tuple[int, float]]], ...] = ({}, {})
    for record in history:
        mine = curves[0] if "learning_rate" in record else curves[1]
        for name, value in record.items():
            if name not in ASIDE:
                mine.setdefault(name, []).append((int(record["step"]), float(value)))
    return dict(curves[0]), dict(curves[1])


def _samples(folder: Path) -> Iterator[tuple[str, bytes]]:
    sheets = sorted((folder / "samples").glob("step-*.png"))
    places = torch.linspace(0, len(sheets) - 1, min(SHEETS, len(sheets))).round().int().tolist()
    for place in places:
        path = sheets[place]
        yield f"Samples at step {int(path.stem.removeprefix('step-'))}", _png(path)


def _png(path: Path) -> bytes:
    """The picture anew, so that no byte of a foreign file gets into the page."""
    try:
        with Image.open(path) as picture:
            return _encoded(picture.convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"{path} is not a readable picture; remove it or make it again.") from error


def _encoded(picture: Image.Image) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, "PNG", exif=b"")
    return buffer.getvalue()


@torch.no_grad()
def _again(folder: Path, pictures: Path) -> bytes:
    model = folder / "model.safetensors"
    size = native.describe(model).config.size
    held_out = PictureFolder(pictures, size, "validation")
    held_out.records = thinned(held_out.records, RECONSTRUCTED)
    originals = held_out.load_all(size)
    parameters = native.describe(model).parameters
    whole = native.load(model).autoencoder if parameters.get("denoiser") else native.load_autoencoder(model)
    if not isinstance(whole, Autoencoder):
        raise InputError(f"{model} has no autoencoder to show; leave --pictures out.")
    given = whole.decode(whole.encode(originals.float() / 127.5 - 1).mode())  # (N 3 H W)
    again = ((given.clamp(-1, 1) + 1) * 127.5).round().byte()
    return _encoded(sheet(torch.cat([originals, again]), columns=len(originals)))


def _rows(found: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Every figure with its interval, where it has one, its name the way to it."""
    intervals = found.get("intervals", {})
    for name, value in found.items():
        if name in ("low", "high", "count", "intervals"):
            continue
        if isinstance(value, Mapping):
            yield from _rows(value, f"{prefix}{name}.")
        elif "low" in found and name not in WITHOUT_INTERVAL:
            # one figure's own mapping bears its name; "near_copies.share" keeps both
            way = prefix[:-1] if prefix.endswith(f"{name}.") else f"{prefix}{name}"
            yield way, *_told(value, (found["low"], found["high"]))
        elif isinstance(value, int | float):
            yield f"{prefix}{name}", *_told(value, intervals.get(name))
        else:
            yield f"{prefix}{name}", str(value), ""


def _told(value: float, interval: Any) -> tuple[str, str]:
    return f"{value:.5g}", f"{interval[0]:.4g} to {interval[1]:.4g}" if interval else ""


_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
li.good::marker { content: "✓ "; } li.bad::marker { content: "✗ "; }
.curves { display: flex; flex-wrap: wrap; gap: 1rem; }
svg text { font-size: 11px; fill: currentColor; } svg .title { font-size: 13px; font-weight: 600; }
.axis { stroke: currentColor; opacity: .4; fill: none; }
.line { stroke: #2b6cb0; stroke-width: 1.5; fill: none; }
figure { margin: 1rem 0; } img { max-width: 100%; background: white; }
table { border-collapse: collapse; }
td { padding: .1rem .8rem .1rem 0; vertical-align: top; overflow-wrap: anywhere; }
"""


def as_html(found: Report) -> str:
    """One page without scripts or addresses: pictures lie in it."""
    marks = "".join(
        f'<li class="{"good" if verdict.good else "bad"}">{escape(verdict.words)}</li>'
        for verdict in found.verdicts
    )
    curves = "".join(curve(name, points) for name, points in found.curves.items())
    figures = "".join(
        f"<figure><figcaption>{escape(caption)}</figcaption>"
        f'<img alt="{escape(caption)}" src="data:image/png;base64,{base64.b64encode(png).decode()}"></figure>'
        for caption, png in found.pictures
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(found.title)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{escape(found.title)}</h1><h2>Verdicts</h2><ul>{marks}</ul>"
        f'<h2>Curves</h2><div class="curves">{curves}</div><h2>Pictures</h2>{figures}'
        + (f"<h2>Figures, with 95 % intervals</h2>{_table(found.rows)}" if found.rows else "")
        + f"<h2>The run</h2>{_table([(name, str(value), '') for name, value in found.facts.items()])}"
        "</body></html>\n"
    )


def _table(rows: list[tuple[str, str, str]]) -> str:
    lines = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows)
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def as_markdown(found: Report) -> str:
    """Verdicts and figures."""
    lines = [f"# {found.title}", "", "## Verdicts", ""]
    lines += [f"- {'✓' if verdict.good else '✗'} {verdict.words}" for verdict in found.verdicts]
    if found.rows:
        lines += ["", "## Figures", "", "| figure | value | 95 % interval |", "| --- | ---: | --- |"]
        lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in found.rows]
    return "\n".join(lines) + "\n"
