"""Reads out of the fetched archives what the icons data set needs."""

import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calotype.data.names import EmojiBook
from calotype.errors import FetchError

_CODED = ("noto", "twemoji", "fluent-emoji-flat")  # sets that say which code point each slug draws


@dataclass(frozen=True)
class Sources:
    """`icons`: each set's file in Iconify's layout; `rendered`: picture files by code point sequence."""

    icons: dict[str, dict[str, Any]]
    book: EmojiBook
    rendered: dict[str, bytes]


def read_sources(sets: Sequence[str], iconify: Path, emojibase: Path, fluent_3d: Path) -> Sources:
    """Reads the named sets, the emoji labels in both languages and the rendered emoji.

    FetchError where an archive is damaged or lacks something.
    """
    wanted = {f"package/json/{name}.json": name for name in sets}
    icons = {wanted[name]: json.loads(data) for name, data in members(iconify, lambda n: n in wanted)}
    labels = dict(members(emojibase, lambda n: n in ("package/en/data.json", "package/zh/data.json")))
    if missing := sorted(set(sets) - set(icons)):
        raise FetchError(f"{iconify} holds no set named {missing[0]}: delete the file and fetch it again.")
    if len(labels) < 2:
        raise FetchError(f"{emojibase} holds no labels in en and zh: delete the file and fetch it again.")
    book = EmojiBook(*(json.loads(labels[f"package/{tongue}/data.json"]) for tongue in ("en", "zh")))
    for name in _CODED:
        book.learn(icons.get(name, {}).get("chars", {}))
    rendered = {Path(n).stem: data for n, data in members(fluent_3d, lambda n: n.endswith(".webp"))}
    return Sources(icons, book, rendered)


def members(archive: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of the files in a .tgz that are wanted; FetchError where it is damaged."""
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                file = tar.extractfile(member) if wanted(member.name) else None
                if file:
                    yield member.name, file.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise FetchError(f"{archive} cannot be unpacked ({error}): delete it and fetch it again.") from error
