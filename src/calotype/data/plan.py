"""Which drawings the icons data set holds, and what is known of each: everything but the pixels."""

import hashlib
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calotype.data.captions import drawing_captions, glyph_captions
from calotype.data.names import Emoji, EmojiBook, code_key, has_skin_tone, icon_name, normal
from calotype.data.sources import (
    COLOUR_SETS,
    COLOURS,
    EMOJI_SETS,
    FLUENT_3D_SET,
    GLYPH_SETS,
    Colour,
    PictureSet,
)
from calotype.data.svg import icon_svg
from calotype.errors import FetchError

GLYPH_PICTURES = 12_000


@dataclass(frozen=True)
class Drawing:
    """One picture to be made: its file name, what to draw it from, and its metadata record."""

    file_name: str
    payload: str | bytes
    record: dict[str, Any]


@dataclass(frozen=True)
class Sources:
    """What was read out of the fetched archives; `rendered` maps code points to picture files."""

    icons: dict[str, dict[str, Any]]
    book: EmojiBook
    rendered: dict[str, bytes]


def read_sources(iconify: Path, emojibase: Path, fluent_3d: Path) -> Sources:
    """Reads the wanted members of the three archives."""
    names = [s.name for s in (*EMOJI_SETS, *COLOUR_SETS, *GLYPH_SETS)]
    wanted = {f"package/json/{name}.json": name for name in names}
    icons = {wanted[name]: json.loads(data) for name, data in _members(iconify, lambda n: n in wanted)}
    labels = dict(_members(emojibase, lambda n: n in ("package/en/data.json", "package/zh/data.json")))
    if missing := sorted(set(names) - set(icons)):
        raise FetchError(f"{iconify.name} holds no set named {missing[0]}: delete the file and fetch it again.")
    if len(labels) < 2:
        raise FetchError(f"{emojibase.name} holds no labels in en and zh: delete the file and fetch it again.")
    book = EmojiBook(*(json.loads(labels[f"package/{tongue}/data.json"]) for tongue in ("en", "zh")))
    for name in ("noto", "twemoji", "fluent-emoji-flat"):
        book.learn(icons[name].get("chars", {}))
    rendered = {Path(n).stem: data for n, data in _members(fluent_3d, lambda n: n.endswith(".webp"))}
    return Sources(icons, book, rendered)


def _members(archive: Path, wanted: Any) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                if member.isfile() and wanted(member.name):
                    file = tar.extractfile(member)
                    if file:
                        yield member.name, file.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise FetchError(f"{archive.name} cannot be unpacked ({error}): delete it and fetch it again.") from error


def split_of(concept: str) -> str:
    """train, validation or test: a concept is in one of them whole, whoever draws it."""
    share = int.from_bytes(hashlib.sha256(concept.encode()).digest()[:4], "big") / 2**32
    return "train" if share < 0.94 else "validation" if share < 0.97 else "test"


def plan_drawings(sources: Sources) -> list[Drawing]:
    """Every drawing of the data set, in a fixed order."""
    drawings: list[Drawing] = []
    for picture_set in EMOJI_SETS:
        drawings += _emoji_set(picture_set, sources)
    drawings += _rendered_set(sources)
    for picture_set in COLOUR_SETS:
        drawings += _colour_set(picture_set, sources)
    drawings += _glyphs(sources)
    return drawings


def _drawing(
    picture_set: PictureSet,
    slug: str,
    payload: str | bytes,
    concept: str,
    texts: tuple[str, ...],
    source: str,
    colour: Colour | None = None,
) -> Drawing:
    tail = f"_{colour.name}" if colour else ""
    file_name = f"{picture_set.name}/{slug}{tail}.png"
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
        "source": source,
    }
    return Drawing(file_name, payload, record)


def _icons(picture_set: PictureSet, sources: Sources) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(slug, the part that names the subject, icon) of a set's icons, in order of slug."""
    pattern = re.compile(picture_set.slug)
    for slug, icon in sorted(sources.icons[picture_set.name]["icons"].items()):
        found = pattern.fullmatch(slug)
        if found and not icon.get("hidden"):
            yield slug, found.group(1), icon


def _emoji_set(picture_set: PictureSet, sources: Sources) -> Iterator[Drawing]:
    data, book = sources.icons[picture_set.name], sources.book
    codes: dict[str, str] = {slug: code for code, slug in sorted(data.get("chars", {}).items())}
    flags = {slug for slug in data.get("categories", {}).get("Flags", ()) if not slug.endswith("-flag")}
    for slug, _, icon in _icons(picture_set, sources):
        name, code = normal(slug), codes.get(slug, "")
        if slug in flags - {"crossed-flags"} or book.is_unwanted(name, code) or _UNWANTED_EMOJI.search(name):
            continue
        emoji = book.find(name, code) or book.find(_NUMBER.sub("", name))
        spoken = emoji.label if emoji else _NUMBER.sub("", name)
        if not emoji and picture_set.name == "fxemoji":
            split = book.words_of(spoken.replace(" ", ""))
            if split is None:
                continue
            spoken = split
        if not spoken:
            continue
        texts = drawing_captions(spoken, picture_set, emoji)
        svg = icon_svg(icon, data)
        yield _drawing(picture_set, slug, svg, normal(spoken) or spoken, texts, f"@iconify/json:{slug}")


_NUMBER = re.compile(r" \d+$")
_UNWANTED_EMOJI = re.compile(r"\bflag (for|of)\b|^flag (?!in hole)|regional ?indicator|flag$(?<! flag)|ideograph")


def _rendered_set(sources: Sources) -> Iterator[Drawing]:
    for code, payload in sorted(sources.rendered.items()):
        emoji = sources.book.find("", code)
        if emoji is None or sources.book.is_unwanted("", code) or has_skin_tone("", code_key(code)):
            continue
        texts = drawing_captions(emoji.label, FLUENT_3D_SET, emoji)
        source = f"@lobehub/fluent-emoji-3d:{code}"
        yield _drawing(FLUENT_3D_SET, code, payload, normal(emoji.label) or emoji.label, texts, source)


_UNWANTED_ICON = re.compile(
    r"\b(logos?|brand|facebook|twitter|google|android|apple (logo|pay|music|intelligence|watch)|windows|github|gitlab"
    r"|instagram|youtube|linkedin|pinterest|paypal|visa|mastercard|amazon|spotify|skype|whatsapp|tiktok|snapchat"
    r"|bitcoin|ethereum|dropbox|slack|figma|adobe|photoshop|chrome|firefox|safari|reddit|telegram|wechat|qq|weibo"
    r"|alipay|airbnb|dribbble|behance|medium|messenger|meta|netflix|discord|uber|twitch|vimeo|openai|steve jobs"
    r"|microsoft|oracle|trello|zoom|xbox|playstation|nintendo|pokemon|kindle|wordpress|css3?|html5?|flags?"
    r"|sex|penis|condom|swastika)\b"
)


def _colour_set(picture_set: PictureSet, sources: Sources) -> Iterator[Drawing]:
    data = sources.icons[picture_set.name]
    brand = set(data.get("categories", {}).get("Brand", ())) | set(data.get("categories", {}).get("Logos", ()))
    largest: dict[str, tuple[str, dict[str, Any]]] = {}
    for slug, subject, icon in sorted(_icons(picture_set, sources), key=_by_size):
        largest[subject] = (slug, icon)
    for subject, (slug, icon) in sorted(largest.items()):
        name = icon_name(subject)
        if slug in brand or not re.search("[a-z]{2}", name) or _UNWANTED_ICON.search(name):
            continue
        emoji = sources.book.find(name)
        concept = normal(emoji.label) if emoji else name
        texts = drawing_captions(name, picture_set, emoji)
        yield _drawing(picture_set, slug, icon_svg(icon, data), concept, texts, f"@iconify/json:{slug}")


def _by_size(entry: tuple[str, str, dict[str, Any]]) -> tuple[str, int, str]:
    size = re.search(r"-(\d+)(-filled)?$", entry[0])
    return entry[1], int(size.group(1)) if size else 0, entry[0]


_ABSTRACT = re.compile(
    r"\b(arrows?|chevron|caret|align|format|text|sort|filter|off|plus|minus|check|remove|add|edit|cancel|refresh|sync"
    r"|settings?|menu|list|view|toggle|layout|grid|border|crop|select|cursor|move|rotate|expand|collapse|copy|paste"
    r"|undo|redo|share|download|upload|import|export|login|logout|signal|network|database|server|code|git|math|function"
    r"|variable|currency|letter|number|badge|multiple|dismiss|half|slash|lines?|dots?|ios|default|left|right|up|down"
    r"|top|bottom|center|horizontal|vertical|alert|question|info|error|warning|box|square|circle|a|b|x|lock|play"
    r"|search|clock|multi|small|large|alt|sim|wifi|on|off|no|not|question|status|user|account|app|data|file|folder)\b"
)


def _glyphs(sources: Sources) -> Iterator[Drawing]:
    """One-colour icons of nameable things: those that are an emoji's subject first, in more colours."""
    named: list[tuple[PictureSet, str, str, Emoji | None]] = []
    known: list[tuple[PictureSet, str, str, Emoji | None]] = []
    for picture_set in GLYPH_SETS:
        data, book = sources.icons[picture_set.name], sources.book
        codes: dict[str, str] = {slug: code for code, slug in sorted(data.get("chars", {}).items())}
        flags = set(data.get("categories", {}).get("Flags", ()))
        largest = {entry[1]: entry[0] for entry in sorted(_icons(picture_set, sources), key=_by_size)}
        for subject, slug in sorted(largest.items()):
            name, code = icon_name(subject), codes.get(slug, "")
            emoji = book.find(name, code)
            body = data["icons"][slug]["body"]
            if book.is_unwanted(name, code) or _UNWANTED_ICON.search(name) or slug in flags or not _one_colour(body):
                continue
            if emoji:
                named.append((picture_set, slug, emoji.label, emoji))
            elif re.search("[a-z]{3}", name) and not _ABSTRACT.search(name) and book.knows(name):
                known.append((picture_set, slug, name, None))
    chosen = [(entry, turn) for turn in range(len(COLOURS)) for entry in (named if turn else named + known)]
    for (picture_set, slug, name, emoji), turn in chosen[:GLYPH_PICTURES]:
        colour = COLOURS[(_dice(picture_set.name, slug) + 4 * turn) % len(COLOURS)]
        texts = glyph_captions(name, picture_set, colour, emoji)
        data = sources.icons[picture_set.name]
        svg = icon_svg(data["icons"][slug], data, colour.value)
        source = f"@iconify/json:{slug}"
        yield _drawing(picture_set, slug, svg, normal(name) or name, texts, source, colour)


def _one_colour(body: str) -> bool:
    """Whether a drawing is painted in `currentColor` alone."""
    paints = set(re.findall(r'(?:fill|stroke|stop-color)="([^"]+)"', body))
    return "currentColor" in paints and paints <= {"currentColor", "none"} and "opacity" not in body


def _dice(*parts: str) -> int:
    return int.from_bytes(hashlib.sha256("/".join(parts).encode()).digest()[:4], "big")
