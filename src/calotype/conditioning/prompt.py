"""Prompts as people write them: the attention syntax of AUTOMATIC1111's web UI, and long prompts in chunks.

    (word)       1.1 times the weight          \\( \\) \\[ \\] \\\\   the character itself
    (word:1.3)   1.3 times                     BREAK            what follows begins a new chunk
    [word]       1 / 1.1 times                 <lora:name:0.8>  no text: a low-rank addition to load

Brackets nest, round and square ones independently; what is left open closes at the end, and a bracket that
closes nothing is text.  https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/Features
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from calotype.conditioning.tokenizer import WORD_END, Tokenizer
from calotype.errors import InputError

COMMA_REACH = 20
"""Tokens after a comma that move to the next chunk together rather than be parted."""

_NETWORK = re.compile(r"<(\w+):([^>]+)>")
_BREAK = re.compile(r"\bBREAK\b")
_AND = re.compile(r"\bAND\b")
_TOKEN = re.compile(
    r"""\\(?P<escaped>[()\[\]\\]?)          # a backslash before anything else vanishes
      | (?P<open>[(\[])
      | :\s*(?P<weight>[+-]?[.\d]+)\s*\)    # closes a round bracket
      | (?P<close>[)\]])
      | (?P<text>[^\\()\[\]:]+|:)""",
    re.VERBOSE,
)
# At the end of a square bracket, and anywhere in it: other features of the same brackets.
_EDITING = re.compile(r"(?<!\\):\s*(\d+\.?\d*|\.\d+)\s*$")
_ALTERNATION = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True)
class Piece:
    """A stretch of text under one weight."""

    text: str
    weight: float


@dataclass(frozen=True)
class Lora:
    """A low-rank addition that a prompt asks for, and how strongly."""

    name: str
    weight: float


@dataclass(frozen=True)
class Prompt:
    """What a text means: its pieces, in sections that BREAK parts, and the LoRAs it names."""

    sections: tuple[tuple[Piece, ...], ...]
    loras: tuple[Lora, ...] = ()


@dataclass(frozen=True)
class Chunk:
    """One reading of the text encoder, without START, END and padding: token numbers and their weights."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass
class _Item:
    """A piece while its brackets are still open; no text stands for BREAK."""

    text: str | None
    weight: float = 1.0


def parse(text: str) -> Prompt:
    """A text in AUTOMATIC1111's syntax.

    Weights multiply from the inside out, as there, to the last bit.  Otherwise than there, BREAK within
    brackets breaks too (there it turns into a word).

    Raises InputError for a weight that is no number, and for what the same letters mean there and is not
    done here: prompts edited or alternating over the steps, prompts joined by AND, networks but LoRAs.
    """
    loras = tuple(_lora(match) for match in _NETWORK.finditer(text))
    text = _NETWORK.sub("", text)
    if _AND.search(text):
        raise InputError(
            "AND joins several prompts in AUTOMATIC1111's syntax, which Calotype does not do; "
            "write it in small letters, or use the prompt syntax plain."
        )
    sections: list[list[_Item]] = [[]]
    for item in _weighted(text):
        if item.text is None:
            sections.append([])
        else:
            sections[-1].append(item)
    return Prompt(tuple(tuple(_merged(section)) for section in sections), loras)


def chunks(prompt: Prompt, tokenizer: Tokenizer) -> list[Chunk]:
    """The prompt in chunks of at most the tokenizer's context less START and END; at least one.

    BREAK ends a chunk, even an empty one.  Where a chunk is full and a comma is among its last COMMA_REACH
    tokens, what follows that comma goes to the next chunk.  The vectors of a taught word are never parted.
    """
    room = tokenizer.context_length - 2
    comma = tokenizer.vocab.get("," + WORD_END)
    done: list[Chunk] = []
    row: list[tuple[int, float]] = []
    after_comma: int | None = None  # in `row`; one that found it full is not noticed, as there
    for number, section in enumerate(prompt.sections):
        if number > 0:
            done.append(_chunk(row))
            row, after_comma = [], None
        for unit, weight in _units(section, tokenizer):
            if len(row) == room:
                kept = room
                if unit != (comma,) and after_comma is not None and room - after_comma < COMMA_REACH:
                    kept = after_comma
                done.append(_chunk(row[:kept]))
                row, after_comma = row[kept:], None
            elif unit == (comma,):
                after_comma = len(row) + 1
            if len(row) + len(unit) > room:
                done.append(_chunk(row))
                row, after_comma = [], None
            row += [(token, weight) for token in unit]
    if row or not done:
        done.append(_chunk(row))
    return done


def _weighted(text: str) -> list[_Item]:
    items: list[_Item] = []
    opened: dict[str, list[tuple[int, int]]] = {"(": [], "[": []}  # places in `items` and in the text

    def multiply(start: int, factor: float) -> None:
        for item in items[start:]:
            item.weight *= factor

    for match in _TOKEN.finditer(text):
        found = match.group()
        if match["open"]:
            opened[found].append((len(items), match.end()))
        elif match["weight"] and opened["("]:
            multiply(opened["("].pop()[0], _number(match["weight"], found))
        elif found == ")" and opened["("]:
            multiply(opened["("].pop()[0], 1.1)
        elif found == "]" and opened["["]:
            start, place = opened["["].pop()
            _check_square(text[place : match.start()])
            multiply(start, 1 / 1.1)
        elif match["escaped"] is not None:
            items.append(_Item(match["escaped"]))
        else:
            first, *others = _BREAK.split(found)
            items.append(_Item(first.rstrip() if others else first))
            for i, part in enumerate(others, start=1):  # without the blanks beside BREAK
                items += [_Item(None), _Item(part.strip() if i < len(others) else part.lstrip())]
    for start, _ in opened["("]:
        multiply(start, 1.1)
    for start, _ in opened["["]:
        multiply(start, 1 / 1.1)
    return items


def _merged(items: list[_Item]) -> Iterator[Piece]:
    # Neighbours of one weight are one text: they are tokenized together.
    for weight, run in itertools.groupby(items, key=lambda item: item.weight):
        text = "".join(item.text or "" for item in run)
        if text:
            yield Piece(text, weight)


def _units(section: tuple[Piece, ...], tokenizer: Tokenizer) -> Iterator[tuple[tuple[int, ...], float]]:
    for piece in section:
        for unit in tokenizer.units(piece.text):
            yield unit, piece.weight


def _chunk(row: list[tuple[int, float]]) -> Chunk:
    return Chunk(tuple(token for token, _ in row), tuple(weight for _, weight in row))


def _lora(match: re.Match[str]) -> Lora:
    kind, (name, *weights) = match[1], match[2].split(":")
    if kind not in {"lora", "lyco"}:
        raise InputError(f"The prompt asks for {_short(match[0])}, but Calotype knows only <lora:name:0.8>.")
    if len(weights) > 1:
        raise InputError(f"The prompt's {_short(match[0])} has too many parts; write it as <lora:name:0.8>.")
    return Lora(name.strip(), _number(weights[0], match[0]) if weights else 1.0)


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"The weight in the prompt's {_short(where)} is no number; write it as 0.8 or 1.2.")
    return value


def _check_square(inside: str) -> None:
    kind = "edits" if _EDITING.search(inside) else "alternates" if _ALTERNATION.search(inside) else None
    if kind is not None:
        raise InputError(
            f"{_short(f'[{inside}]')} {kind} the prompt over the steps in AUTOMATIC1111's syntax, which "
            "Calotype does not do; write (word:0.9) for less weight, \\[ for a bracket, or use the prompt "
            "syntax plain."
        )


def _short(text: str) -> str:
    # A message is one line.
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:40]} … {line[-15:]}"
