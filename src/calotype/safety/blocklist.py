"""Words that are not drawn: a text file that its owner edits.

One word or phrase a line; what follows # is a remark.  Case, accents, compatibility forms (full width,
ligatures) and characters that cannot be seen make no difference.  Words match whole, "ass" not in "glass";
scripts that part no words (Chinese, Japanese, Thai …) match anywhere.
"""

from __future__ import annotations

import logging
import re
import threading
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from calotype.errors import BlockedPromptError, InputError

log = logging.getLogger("calotype.safety")

LONGEST = 200  # characters of an entry

_UNPARTED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x31FF),  # Han radicals, Japanese kana, Bopomofo
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)
"""Scripts whose words stand without spaces between them."""


_ACCENTS = re.compile("[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]")
"""Marks that do not make another letter; those of Indian, Thai and Japanese scripts do."""

_HIDDEN = re.compile("[\ufe00-\ufe0f\u115f\u1160\u3164\uffa0]")
"""Variation selectors and fillers; format characters are known by their category."""


def folded(text: str) -> str:
    """The text as it is compared: without case, accents, invisible characters; white space is one space."""
    apart = unicodedata.normalize("NFKD", _HIDDEN.sub("", text))
    bare = "".join(letter for letter in _ACCENTS.sub("", apart) if unicodedata.category(letter) != "Cf")
    # case folding may bring new marks and forms
    return " ".join(unicodedata.normalize("NFKC", bare.casefold()).split())


def pattern_of(entry: str) -> str:
    """A regular expression for a folded entry, whole words where its script parts them."""
    words = r"[\s_]+".join(map(re.escape, entry.split()))
    before = r"(?<![^\W_])" if _bounded(entry[0]) else ""
    after = r"(?![^\W_])" if _bounded(entry[-1]) else ""
    return before + words + after


def _bounded(letter: str) -> bool:
    code = ord(letter)
    return letter.isalnum() and not any(first <= code <= last for first, last in _UNPARTED)


class BlockList:
    """The entries of a file, read again whenever it has changed, so that a server needs no restart."""

    def __init__(self, path: str | Path) -> None:
        """Raises InputError where the file cannot be read or an entry says nothing."""
        self.path = Path(path).expanduser()
        self._lock = threading.Lock()
        self._seen = self._stamp()
        self._pattern = self._read()

    def refuse(self, texts: Iterable[str]) -> None:
        """BlockedPromptError where one of the texts holds an entry."""
        pattern = self._current()
        for text in texts:
            found = None if pattern is None else pattern.search(folded(text))
            if found is not None:
                raise BlockedPromptError(
                    f"The prompt asks for {found.group()!r}, which the block list here refuses; "
                    "say it without."
                )

    def _current(self) -> re.Pattern[str] | None:
        with self._lock:
            try:
                now = self._stamp()
                if now != self._seen:
                    self._pattern, self._seen = self._read(), now
            except InputError as error:  # in the midst of an edit: the last list that could be read holds
                log.warning("%s The list as it was holds on.", error)
            return self._pattern

    def _stamp(self) -> tuple[int, int]:
        try:
            state = self.path.stat()
        except OSError as error:
            raise self._unreadable(error.strerror) from None
        return state.st_mtime_ns, state.st_size

    def _read(self) -> re.Pattern[str] | None:
        try:
            lines = self.path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise self._unreadable(getattr(error, "strerror", None) or "it is not UTF-8") from None
        entries = set()
        for number, line in enumerate(lines, 1):
            told = line.partition("#")[0].strip()
            entry = folded(told)
            if told and not any(letter.isalnum() for letter in entry):
                raise InputError(f"{self.path}, line {number}: {told!r} is no word; take it out.")
            if len(entry) > LONGEST:
                raise InputError(
                    f"{self.path}, line {number} has {len(entry)} characters; give at most {LONGEST}."
                )
            if entry:
                entries.add(entry)
        if not entries:
            return None
        return re.compile("|".join(map(pattern_of, sorted(entries, key=len, reverse=True))))

    def _unreadable(self, why: str | None) -> InputError:
        return InputError(f"The block list {self.path} cannot be read ({why}); name a text file in UTF-8.")
