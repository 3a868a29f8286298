"""Two drawings on one page, with captions that say which lies where."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from calotype.data.captions import unique, with_article
from calotype.data.plan import Drawing

SIDE = 128
"""Units of a page; a drawing of a pair takes a square of less than half of it."""

_DRAWN = 58
_NEAR, _FAR = (SIDE // 2 - _DRAWN) // 2, SIDE // 2 + (SIDE // 2 - _DRAWN) // 2
_MIDDLE = (SIDE - _DRAWN) // 2


def pair_drawings(drawings: Sequence[Drawing], count: int) -> list[Drawing]:
    """`count` pairs of the training split's emoji, both by the same hand: three in four side by side, the
    others one above the other.  Which are paired hangs on their names alone.
    """
    by_set: dict[str, list[Drawing]] = defaultdict(list)
    for drawing in drawings:
        record = drawing.record
        if record["kind"] == "emoji" and record["split"] == "train" and isinstance(drawing.payload, str):
            by_set[record["set"]].append(drawing)
    turns = zip_longest(*(_pairs_of(members) for members in by_set.values() if len(members) > 1))
    pairs = (pair for turn in turns for pair in turn if pair is not None)
    return [pair for pair, _ in zip(pairs, range(count), strict=False)]


def _pairs_of(members: Sequence[Drawing]) -> Iterator[Drawing]:
    """Pairs of one set, each member once on the first side before any is there again."""
    seen: set[str] = set()
    for turn in range(len(members) - 1):
        first = sorted(members, key=lambda drawing: _mark(f"{turn} first {drawing.file_name}"))
        second = sorted(members, key=lambda drawing: _mark(f"{turn} second {drawing.file_name}"))
        for one, other in zip(first, second, strict=True):
            pair = _pair(one, other, beside=_mark(f"{one.file_name} {other.file_name}")[0] % 4 > 0)
            if one.record["concept"] != other.record["concept"] and pair.file_name not in seen:
                seen.add(pair.file_name)
                yield pair


def _mark(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _pair(one: Drawing, other: Drawing, beside: bool) -> Drawing:
    a, b = one.record, other.record
    names = [f"{record['file_name'].split('/')[1].removesuffix('.png')}" for record in (a, b)]
    texts = pair_captions(a["texts"], b["texts"], a["style"], beside)
    places = ((_NEAR, _MIDDLE), (_FAR, _MIDDLE)) if beside else ((_MIDDLE, _NEAR), (_MIDDLE, _FAR))
    record = {
        "file_name": f"pairs/{a['set']}-{names[0]}-{'beside' if beside else 'above'}-{names[1]}.png",
        "text": texts[0],
        "texts": list(texts),
        "concept": couple(a["concept"], b["concept"]),
        "style": a["style"],
        "set": a["set"],
        "kind": "pair",
        "licence": a["licence"],
        "colour": None,
        "split": "train",
        "source": f"{a['source']} + {b['source']}",
    }
    payload = "".join(
        _placed(str(drawing.payload), mark, *place)
        for drawing, mark, place in zip((one, other), "ab", places, strict=True)
    )
    page = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIDE} {SIDE}">{payload}</svg>'
    return Drawing(record["file_name"], page, record, parts=(one.file_name, other.file_name))


def couple(one: str, other: str) -> str:
    """The name under which two concepts are known together, whichever comes first."""
    return " + ".join(sorted((one, other)))


def pair_captions(one: Sequence[str], other: Sequence[str], style: str, beside: bool) -> tuple[str, ...]:
    """What two drawings with these captions, the plainest first, are together; `beside` as against above."""
    a, b = with_article(one[0]), with_article(other[0])
    first, second = ("left of", "right of") if beside else ("above", "below")
    texts = [f"{a} {first} {b}", f"{b} {second} {a}", f"{a} {first} {b}, {style}", f"{a} and {b}"]
    texts.append(f"{a} next to {b}" if beside else f"{b} under {a}")
    zh_a, zh_b = _chinese(one), _chinese(other)
    if zh_a and zh_b:
        where = ("左边是{}，右边是{}" if beside else "上面是{}，下面是{}").format(zh_a, zh_b)
        texts += [where, f"{zh_a}和{zh_b}"]
    return unique(texts)


def _chinese(captions: Sequence[str]) -> str | None:
    return next((text for text in captions if re.search("[一-鿿]", text)), None)


def _placed(svg: str, mark: str, x: int, y: int) -> str:
    """An SVG document as a part of another, its names made its own by `mark`."""
    opening, rest = svg.split(">", 1)
    opening = re.sub(r' (?:width|height)="[^"]*"', "", opening)
    rest = re.sub(r'\bid="', f'id="{mark}-', rest)
    rest = re.sub(r"url\((['\"]?)#", rf"url(\1#{mark}-", rest)
    rest = re.sub(r'href="#', f'href="#{mark}-', rest)
    return f'{opening} x="{x}" y="{y}" width="{_DRAWN}" height="{_DRAWN}">{rest}'
