"""What a drawing is called: emoji looked up in emojibase, other icons named by their own slug."""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

SKIN_TONES = ("1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff")
_TONE_NAME = re.compile(r"skin tone|\btone ?[1-5]\b|(?<= )(medium )?(light|dark)$|(?<= )medium$")
SMILEYS, PEOPLE, ANIMALS, FOOD, TRAVEL, OBJECTS, SYMBOLS, FLAGS = 0, 1, 3, 4, 5, 7, 8, 9  # Unicode's groups
_TRUE_FLAGS = {
    "chequered flag",
    "triangular flag",
    "crossed flags",
    "black flag",
    "white flag",
    "pirate flag",
}


@dataclass(frozen=True)
class Emoji:
    """One emoji: its English and Chinese label and tags, its group in Unicode's order."""

    label: str
    tags: tuple[str, ...]
    label_zh: str
    tags_zh: tuple[str, ...]
    group: int


def normal(text: str) -> str:
    """Lower-case words separated by single blanks: `Red-Apple` and `red_apple` are both `red apple`."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return " ".join(re.findall(r"[a-z0-9]+", plain.replace("'", "")))


def code_key(code: str) -> str:
    """A code point sequence without variation selectors, lower-case: the same emoji, the same key."""
    return "-".join(part for part in code.lower().split("-") if part not in ("fe0f", "fe0e"))


def has_skin_tone(name: str, code: str = "") -> bool:
    """Whether a name (normalised) or code point sequence is a skin-tone variant."""
    return any(part in SKIN_TONES for part in code.split("-")) or bool(_TONE_NAME.search(name))


class EmojiBook:
    """Finds an emoji by code point sequence, by name, or by a name written without blanks."""

    def __init__(self, english: Iterable[Mapping[str, Any]], chinese: Iterable[Mapping[str, Any]]) -> None:
        zh = {entry["hexcode"]: entry for entry in chinese}
        self._by_code: dict[str, Emoji] = {}
        self._by_name: dict[str, Emoji] = {}
        self._by_glued: dict[str, Emoji] = {}
        self._words: set[str] = set()
        self._unwanted: set[str] = set()
        for entry in english:
            label, other = entry["label"], zh.get(entry["hexcode"], {})
            key = code_key(entry["hexcode"])
            national = entry.get("group") == FLAGS and label not in _TRUE_FLAGS
            if national or "group" not in entry or label.endswith(("skin tone", "skin-tone")):
                self._unwanted |= {key, normal(label)}
                continue
            label_zh = str(other.get("label", "")).replace(": ", "：")
            tags, tags_zh = tuple(entry.get("tags", ())), tuple(other.get("tags", ()))
            emoji = Emoji(spoken(label), tags, label_zh, tags_zh, entry["group"])
            self._by_code[key] = emoji
            self._add_name(normal(label), emoji)
            self._words |= {word for tag in emoji.tags for word in normal(tag).split()}

    def _add_name(self, name: str, emoji: Emoji) -> None:
        self._by_name.setdefault(name, emoji)
        self._by_glued.setdefault(name.replace(" ", ""), emoji)
        self._words |= set(name.split())

    def learn(self, chars: Mapping[str, str]) -> None:
        """Takes over the names a set gives to code points: other sets use the same names without codes."""
        for code, slug in sorted(chars.items()):
            emoji = self._by_code.get(code_key(code))
            if emoji:
                self._add_name(normal(slug), emoji)

    def is_unwanted(self, name: str, code: str = "") -> bool:
        """Whether this is a national flag, a bare component or a skin-tone variant."""
        return (
            code_key(code) in self._unwanted or name in self._unwanted or has_skin_tone(name, code_key(code))
        )

    def find(self, name: str, code: str = "") -> Emoji | None:
        """The emoji with this code point sequence or, failing that, this normalised name."""
        return (
            self._by_code.get(code_key(code))
            or self._by_name.get(name)
            or self._by_glued.get(name.replace(" ", ""))
        )

    def knows(self, name: str) -> bool:
        """Whether emoji names and tags hold every word of the name: then it is no interface jargon."""
        return all(word in self._words for word in name.split())

    def words_of(self, glued: str) -> str | None:
        """`blackpushpin` as `black pushpin`: the fewest known words that spell it, or None."""
        best: list[list[str] | None] = [[]]
        for end in range(1, len(glued) + 1):
            found = None
            for start in range(max(0, end - 16), end):
                head, word = best[start], glued[start:end]
                known = len(word) > 2 and word in self._words
                if head is not None and known and (found is None or len(head) + 1 < len(found)):
                    found = [*head, word]
            best.append(found)
        return " ".join(best[-1]) if best[-1] else None


def spoken(label: str) -> str:
    """An emojibase label as one would say it: `man: red hair` becomes `man with red hair`."""
    label = label.translate({0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"'})
    head, colon, tail = label.partition(": ")
    if not colon:
        return label
    if head == "keycap":
        return f"keycap {tail}"
    if tail.endswith("hair") or tail == "beard":
        return f"{head} with {tail}"
    if tail == "bald":
        return f"bald {head}"
    if tail == "facing right":
        return f"{head} facing right"
    if head in ("family", "couple with heart", "kiss"):
        *others, last = tail.split(", ")
        return f"{head} of {', '.join(others)} and {last}" if others else f"{head} of {last}"
    return f"{head}, {tail}"


_TAIL = re.compile(
    r"( (flat|duo|fill|filled|bold|colou?rs?|alternate|alt|remix|one|two|three|four|five|six|\d{1,2}))+$"
)


def without_number(name: str) -> str:
    """`hamburger 2` as `hamburger`: some sets number the drawings of one thing."""
    return re.sub(r" \d+$", "", name)


def icon_name(slug: str) -> str:
    """A plain icon's name from its slug: style, size and running numbers at the end are dropped."""
    return _TAIL.sub("", normal(slug))
