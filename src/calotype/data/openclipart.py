"""Debian's openclipart-svg as a further source: clip art by many hands, in the public domain.

Only drawings are taken that say so themselves and whose title is made of words an emoji is described by:
the rest are titled in several languages, by their author's name, or not at all.
"""

import html
import io
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

from calotype.data.captions import icon_captions
from calotype.data.names import EmojiBook, icon_name, normal
from calotype.data.plan import Drawing, make_drawing
from calotype.data.sources import OPENCLIPART, OPENCLIPART_SET
from calotype.data.unwanted import is_brand
from calotype.errors import FetchError

_ROOT = "./usr/share/openclipart/svg/"
_FOLDERS = re.compile(
    r"(animals|buildings|containers|education/books|electronics|food|geography/astronomy|office|people|plants|"
    r"recreation/(?!games/cards)|science|tools|transportation/vehicles)\b"
)
_WORK = re.compile(r"<cc:Work.*?<dc:title>(.*?)</dc:title>", re.DOTALL)
_KEYWORD = re.compile(r"<rdf:li[^>]*>(.*?)</rdf:li>", re.DOTALL)
_EMPTY_WORDS = frozenset(
    ("hash", "unsorted", "menu", "people", "tool", "tools", "office", "mammal", "festive")
)


def clipart_drawings(archive: Path, book: EmojiBook) -> Iterator[Drawing]:
    """The drawings of the Debian package at `archive`; FetchError where it is damaged."""
    for name, svg in _drawings(archive):
        head, _, _ = svg.partition("</metadata>")
        title = _WORK.search(head)
        subject = icon_name(html.unescape(title.group(1))) if title else ""
        words = subject.split()
        if "PublicDomain" not in head or not words or len(words) > 4 or max(map(len, words)) < 3:
            continue
        if not book.knows(subject) or is_brand(subject) or book.is_unwanted(subject):
            continue
        emoji = book.find(subject)
        texts = icon_captions(subject, OPENCLIPART_SET, emoji)
        keywords = dict.fromkeys(normal(html.unescape(word)) for word in _KEYWORD.findall(head))
        told = [word for word in keywords if word and word not in _EMPTY_WORDS and book.knows(word)]
        if told:
            texts = (*texts, ", ".join(dict.fromkeys([subject, *told[:4]])))
        slug = normal(name.removeprefix(_ROOT).removesuffix(".svg")).replace(" ", "-")
        concept = normal(emoji.label) if emoji else subject
        yield make_drawing(OPENCLIPART_SET, slug, _viewed(svg), concept, texts, OPENCLIPART, trim=True)


def _drawings(archive: Path) -> Iterator[tuple[str, str]]:
    """(name, text) of the wanted SVG files, sorted by name."""
    found: dict[str, str] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data_member(archive.read_bytes())), mode="r|*") as tar:
            for member in tar:
                name = member.name
                # Links to drawings are repetitions, and would make the stream go back.
                wanted = member.isfile() and name.startswith(_ROOT) and name.endswith(".svg")
                if wanted and _FOLDERS.match(name, len(_ROOT)) and (file := tar.extractfile(member)):
                    found[name] = file.read().decode("utf-8", "replace")
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise FetchError(f"{archive} cannot be unpacked ({error}): delete it and fetch it again.") from error
    yield from sorted(found.items())


def data_member(package: bytes) -> bytes:
    """The archive of files in a Debian package, itself an `ar` archive: 60-byte heads, even offsets."""
    position = len(b"!<arch>\n")
    while position + 60 <= len(package):
        name, size = package[position : position + 16], int(package[position + 48 : position + 58])
        if name.startswith(b"data.tar"):
            return package[position + 60 : position + 60 + size]
        position += 60 + size + size % 2
    raise ValueError("no data.tar in it")


def _viewed(svg: str) -> str:
    """The drawing with a viewBox, made of its width and height where it has none, and without a prolog."""
    svg = re.sub(r"^\s*<\?xml.*?\?>", "", svg, count=1, flags=re.DOTALL)
    root = re.search(r"<svg\b[^>]*>", svg)
    if root is None or "viewBox" in root.group():
        return svg
    sides = [
        re.search(rf'\b{side}="([\d.]+)(px|pt|mm|cm|in)?"', root.group()) for side in ("width", "height")
    ]
    if not all(sides):
        return svg
    box = " ".join(f"{float(side.group(1)) * _PIXELS[side.group(2)]:g}" for side in sides if side)
    return f'{svg[: root.start()]}<svg viewBox="0 0 {box}"{svg[root.start() + 4 :]}'


# The Inkscape of that time drew 90 pixels to the inch.
_PIXELS = {None: 1.0, "px": 1.0, "pt": 90 / 72, "mm": 90 / 25.4, "cm": 90 / 2.54, "in": 90.0}
