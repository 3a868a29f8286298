"""Which drawings the icons data set holds, and what is known of each: everything but the pixels."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from calotype.data.archives import Sources
from calotype.data.captions import emoji_captions, glyph_captions, icon_captions
from calotype.data.names import Emoji, icon_name, normal, without_number
from calotype.data.sources import (
    COLOUR_SETS,
    COLOURS,
    EMOJI_SETS,
    FLUENT_3D,
    FLUENT_3D_SET,
    GLYPH_SETS,
    ICONIFY,
    Colour,
    Package,
    PictureSet,
)
from calotype.data.svg import icon_svg
from calotype.data.unwanted import is_abstract, is_brand, is_interface, is_national

GLYPH_PICTURES = 12_000
SET_NAMES = tuple(dict.fromkeys(s.name for s in (*EMOJI_SETS, *COLOUR_SETS, *GLYPH_SETS)))


@dataclass(frozen=True)
class Drawing:
    """One picture to be made: its file name, what to draw it from, and its metadata record."""

    file_name: str
    payload: str | bytes
    record: dict[str, Any]
    trim: bool = False  # the drawing may lie anywhere on its page
    parts: tuple[str, ...] = ()  # the file names of the drawings that this one is made of


def split_of(concept: str) -> str:
    """train (94 %), validation or test (3 % each): a concept is in one of them whole, whoever draws it."""
    share = int.from_bytes(hashlib.sha256(concept.encode()).digest()[:4], "big") / 2**32
    return "train" if share < 0.94 else "validation" if share < 0.97 else "test"


def plan_drawings(sources: Sources) -> list[Drawing]:
    """Every drawing of the data set, in a fixed order: emoji, coloured icons, recoloured glyphs."""
    drawings: list[Drawing] = []
    for picture_set in EMOJI_SETS:
        drawings += _emoji_set(picture_set, sources)
    drawings += _rendered_set(sources)
    for picture_set in COLOUR_SETS:
        drawings += _colour_set(picture_set, sources)
    drawings += _glyphs(sources)
    return drawings


def make_drawing(
    picture_set: PictureSet,
    slug: str,
    payload: str | bytes,
    concept: str,
    texts: tuple[str, ...],
    package: Package = ICONIFY,
    colour: Colour | None = None,
    trim: bool = False,
) -> Drawing:
    """A drawing with its record; the colour is part of its file's name."""
    file_name = f"{picture_set.name}/{slug}{f'_{colour.name}' if colour else ''}.png"
    record = {
        "file_name": file_name,
        "text": texts[0],
        "texts": list(texts),
        "concept": concept,
        "style": picture_set.styles[0],
        "set": picture_set.name,
        "kind": picture_set.kind,
        "licence": picture_set.licence,
        "colour": colour.name if colour else None,
        "split": split_of(concept),
        "source": f"{package.name}@{package.version} {picture_set.name}:{slug}",
    }
    return Drawing(file_name, payload, record, trim)


def _concept(name: str, emoji: Emoji | None) -> str:
    """What the split goes by: the emoji's label where there is one, so that all its drawings agree."""
    spoken = emoji.label if emoji else name
    return normal(spoken) or spoken


def _icons(picture_set: PictureSet, sources: Sources) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(slug, the part that names the subject, icon) of a set's icons, only the largest of each subject."""
    pattern = re.compile(picture_set.slug)
    largest: dict[str, tuple[int, str]] = {}
    icons = sources.icons[picture_set.name]["icons"]
    for slug, icon in sorted(icons.items()):
        found = pattern.fullmatch(slug)
        # A class without its style sheet leaves a drawing black.
        if found and not icon.get("hidden") and ' class="' not in icon["body"]:
            size = re.search(r"-(\d+)(-filled)?$", slug)
            rank = (int(size.group(1)) if size else 0, slug)
            largest[found.group(1)] = max(rank, largest.get(found.group(1), rank))
    for subject, (_, slug) in sorted(largest.items(), key=lambda entry: entry[1][1]):
        yield slug, subject, icons[slug]


def _codes(data: dict[str, Any]) -> dict[str, str]:
    return {slug: code for code, slug in sorted(data.get("chars", {}).items())}


def _category(data: dict[str, Any], *names: str) -> set[str]:
    return {slug for name in names for slug in data.get("categories", {}).get(name, ())}


def _emoji_set(picture_set: PictureSet, sources: Sources) -> Iterator[Drawing]:
    data, book = sources.icons[picture_set.name], sources.book
    codes, flags = _codes(data), _category(data, "Flags")
    for slug, _, icon in _icons(picture_set, sources):
        name, code = normal(slug), codes.get(slug, "")
        if book.is_unwanted(name, code) or is_national(name, slug in flags):
            continue
        emoji = book.find(name, code) or book.find(without_number(name))
        spoken: str | None = emoji.label if emoji else without_number(name)
        if not emoji and picture_set.name == "fxemoji":
            spoken = book.words_of(name.replace(" ", ""))  # this set writes its names without blanks
        if spoken:
            texts = emoji_captions(spoken, picture_set, emoji)
            yield make_drawing(picture_set, slug, icon_svg(icon, data), _concept(spoken, emoji), texts)


def _rendered_set(sources: Sources) -> Iterator[Drawing]:
    for code, payload in sorted(sources.rendered.items()):
        emoji = sources.book.find("", code)
        if emoji and not sources.book.is_unwanted("", code):
            texts = emoji_captions(emoji.label, FLUENT_3D_SET, emoji)
            yield make_drawing(FLUENT_3D_SET, code, payload, _concept("", emoji), texts, FLUENT_3D)


def _colour_set(picture_set: PictureSet, sources: Sources) -> Iterator[Drawing]:
    data = sources.icons[picture_set.name]
    logos = _category(data, "Brand", "Logos")
    for slug, subject, icon in _icons(picture_set, sources):
        name = icon_name(subject)
        if slug in logos or not re.search("[a-z]{2}", name) or is_brand(name) or is_interface(name):
            continue
        emoji = sources.book.find(name)
        texts = icon_captions(name, picture_set, emoji)
        yield make_drawing(picture_set, slug, icon_svg(icon, data), _concept(name, emoji), texts)


def _glyphs(sources: Sources) -> Iterator[Drawing]:
    """One-colour icons of nameable things, first each in one colour, then those of emoji in more."""
    entries = [entry for picture_set in GLYPH_SETS for entry in _glyph_set(picture_set, sources)]
    turns = [(0, entry) for entry in entries]
    turns += [(turn, entry) for turn in range(1, len(COLOURS)) for entry in entries if entry[3]]
    seen: set[str] = set()
    for turn, (picture_set, slug, name, emoji) in turns:
        dice = hashlib.sha256(f"{picture_set.name}/{slug}".encode()).digest()[0]
        colour = COLOURS[(dice + 4 * turn) % len(COLOURS)]
        data = sources.icons[picture_set.name]
        svg = icon_svg(data["icons"][slug], data, colour.value)
        if svg in seen:  # one heart stands for the hearts of all colours
            continue
        seen.add(svg)
        texts = glyph_captions(name, picture_set, colour, emoji)
        yield make_drawing(picture_set, slug, svg, _concept(name, emoji), texts, colour=colour)
        if len(seen) == GLYPH_PICTURES:
            return


def _glyph_set(
    picture_set: PictureSet, sources: Sources
) -> Iterator[tuple[PictureSet, str, str, Emoji | None]]:
    data, book = sources.icons[picture_set.name], sources.book
    codes, flags = _codes(data), _category(data, "Flags")
    for slug, subject, icon in _icons(picture_set, sources):
        name, code = icon_name(subject), codes.get(slug, "")
        unwanted = book.is_unwanted(name, code) or is_brand(name) or is_national(name, slug in flags)
        if unwanted or not _one_colour(icon["body"]):
            continue
        emoji = book.find(name, code)
        if emoji and "hair" not in emoji.label:
            yield picture_set, slug, emoji.label, emoji
        elif re.search("[a-z]{3}", name) and not is_abstract(name) and book.knows(name):
            yield picture_set, slug, name, None


def _one_colour(body: str) -> bool:
    """Whether a drawing is painted in `currentColor` alone, nowhere see-through."""
    paints = set(re.findall(r'(?:fill|stroke|stop-color)="([^"]+)"', body))
    return "currentColor" in paints and paints <= {"currentColor", "none"} and "opacity" not in body
