"""`calotype inspect` of a picture: its record, its invisible mark, its content credentials."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calotype.errors import printable

if TYPE_CHECKING:
    from calotype.safety.provenance import Credentials
    from calotype.safety.watermark import Detection

HEADS = {b"\x89PNG\r\n\x1a\n": 0, b"\xff\xd8\xff": 0, b"WEBP": 8}
"""How pictures begin, and at which byte."""


def is_picture(file: str) -> bool:
    try:
        with open(file, "rb") as opened:
            start = opened.read(12)
    except (OSError, ValueError):
        return False
    return any(start[place:].startswith(head) for head, place in HEADS.items())


def inspect_picture(path: Path, as_json: bool) -> int:
    """InputError where it is no readable picture, or its record is damaged."""
    from calotype.safety import provenance, watermark
    from calotype.tasks import picture as files

    image, text = files.opened(path)
    record = None if text is None else files.stored(text)
    found = watermark.detect(image)
    signed = provenance.read(path) if provenance.installed() else None
    if as_json:
        told = dict(record or {})
        told |= {
            "mark": asdict(found) | {"found": found.found},
            "credentials": None if signed is None else asdict(signed),
        }
        print(json.dumps(told, indent=2))
        return 0
    rows = [("what", f"a picture of {image.width}x{image.height}"), *_record(record, path)]
    rows += [("watermark", _mark(found)), ("credentials", _credentials(signed, provenance.installed()))]
    print(printable(str(path)))
    for name, value in rows:
        print(printable(f"  {name:<17} {value}"))
    return 0


def _record(record: dict[str, Any] | None, path: Path) -> list[tuple[str, str]]:
    if record is None:
        return [("record", "none")]
    full = "request" in record
    rows = [
        ("record", f"made by Calotype {record['calotype_version']}{'' if full else ', shareable'}"),
        ("model", f"{record['model_name']}, weights {record['weights_sha256']}"),
    ]
    if "content" in record:
        rows.append(
            ("content check", ", ".join(f"{key} {value}" for key, value in record["content"].items()))
        )
    for name, value in record["request" if full else "settings"].items():
        if value not in (None, {}, "", []):
            rows.append((name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    drawn = full and "prompts" in record["request"]  # a restoration is made from its photograph
    return [*rows, ("again", f"calotype replay {path}")] if drawn else rows


def _mark(found: Detection) -> str:
    if not found.found:
        return "not found"
    return (
        f"Calotype's, at scale {found.scale:.2f}; an unmarked one looks like this with a chance of at most "
        f"{found.false_alarm:.1g}"
    )


def _credentials(signed: Credentials | None, installed: bool) -> str:
    if not installed:
        return "not looked for; install the reader with pip install 'calotype[safety]'"
    if signed is None:
        return "no C2PA manifest"
    known = {"Valid": "unchanged since it was signed, by a signer nobody vouches for", "Trusted": "unchanged"}
    return f"C2PA, {known.get(signed.state, 'INVALID: changed or damaged')}: {signed.signer}, {signed.maker}"
