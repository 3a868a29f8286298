"""The block list: what is one word, what is the same word, and a file that is edited."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calotype.errors import BlockedPromptError, InputError
from calotype.safety.blocklist import BlockList, folded, pattern_of

LIST = """\
# words that are not drawn
ass
Straße
red   apple      # two words
café
裸体
ちち
พระ
c++
"""


@pytest.fixture
def words(tmp_path: Path) -> BlockList:
    path = tmp_path / "words.txt"
    path.write_text(LIST, encoding="utf-8")
    return BlockList(path)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "an ass",
            "ASS",
            "ass, grass",
            "my_ass",
            "(ass:1.2)",
            "a\u200bs\u00ads",
            "ａｓｓ",
            "ａ𝐬𝕤",
            "ass\ufe0f",
        ),
        *("STRASSE", "strasse", "Straße 5", "a red\n apple", "red_apple", "CAFÉ", "cafe\u0301", "cafe"),
        *("一个裸体的人", "裸体", "ちちと", "xพระy", "in c++ code"),
    ],
)
def test_refused(words: BlockList, text: str) -> None:
    with pytest.raises(BlockedPromptError, match="which the block list here refuses"):
        words.refuse(["a green pear", text])


@pytest.mark.parametrize(
    "text",
    [
        *("glass", "assess", "grass", "ass1", "red apples", "redapple", "cafés", "裸 体", "はち", "c+", ""),
        "一个红苹果",
    ],
)
def test_let_through(words: BlockList, text: str) -> None:
    words.refuse([text])


def test_it_is_read_again_when_it_has_changed(words: BlockList, caplog: pytest.LogCaptureFixture) -> None:
    words.refuse(["a pear"])
    words.path.write_text("pear\n", encoding="utf-8")
    with pytest.raises(BlockedPromptError, match="'pear'"):
        words.refuse(["a PEAR"])
    words.refuse(["an ass"])
    words.path.unlink()
    with caplog.at_level(logging.WARNING, logger="calotype.safety"), pytest.raises(BlockedPromptError):
        words.refuse(["a pear"])
    assert "The list as it was holds on" in caplog.text
    words.path.write_text("# nothing\n\n")
    os.utime(words.path, ns=(1, 1))
    words.refuse(["a pear"])


def test_what_is_no_list(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    with pytest.raises(InputError, match="cannot be read"):
        BlockList(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8"):
        BlockList(path)
    path.write_text("fine\n!!!\n")
    with pytest.raises(InputError, match="line 2: '!!!' is no word"):
        BlockList(str(path))
    path.write_text("x" * 201)
    with pytest.raises(InputError, match="at most 200"):
        BlockList(path)


@settings(max_examples=50)
@given(st.text(min_size=1, max_size=30))
def test_folding_is_done_once(text: str) -> None:
    assert folded(folded(text)) == folded(text)


@settings(max_examples=50)
@given(st.text(min_size=1, max_size=20), st.text(max_size=5), st.text(max_size=5))
def test_every_entry_matches_itself_between_blanks(entry: str, before: str, after: str) -> None:
    import re

    told = folded(entry)
    if any(letter.isalnum() for letter in told):
        assert re.search(pattern_of(told), folded(f"{before} {entry} {after}"))
