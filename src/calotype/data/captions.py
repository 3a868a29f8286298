"""Captions of a drawing, the plainest first, in English and Chinese."""

from calotype.data.names import Emoji
from calotype.data.sources import Colour, PictureSet

_UNCOUNTED = frozenset(
    "fog rice bread cheese bacon butter salt honey meat garlic ginger soap fire tea ice money fire confetti "
    "sunrise mathematics music weather water snow rain hail sleet thunder lightning".split()
)
_SINGULAR_S = ("ss", "us", "is", "os", "as")


def with_article(name: str) -> str:
    """`a red apple`, `an owl`, `grapes`: the article an English speaker would write, or none."""
    words = name.split()
    head = name.split(" with ")[0].split(" of ")[0].split(" in ")[0].split()[-1]
    plural = head.endswith("s") and not head.endswith(_SINGULAR_S)
    if plural or words[0] in ("a", "an", "the", "no") or head in _UNCOUNTED or name[0].isdigit():
        return name
    vowel = words[0][0].lower() in "aeiou" and not words[0].lower().startswith(("uni", "eu", "use", "one"))
    return f"{'an' if vowel or words[0].lower().startswith(('hour', 'honest')) else 'a'} {name}"


def drawing_captions(name: str, picture_set: PictureSet, emoji: Emoji | None) -> tuple[str, ...]:
    """Captions of a drawing in its own colours."""
    noun = with_article(name)
    texts = [name, noun]
    for style in picture_set.styles:
        texts += [f"{name}, {style}", f"{noun} in {style}"]
    if emoji:
        tags = [tag for tag in emoji.tags if tag.lower() != name.lower()]
        if tags:
            texts += [f"{name}, {', '.join(tags[:4])}", ", ".join(tags[:5])]
        texts.append(f"{name} emoji")
        if emoji.label_zh:
            texts += [emoji.label_zh, *(f"{emoji.label_zh}，{style}" for style in picture_set.styles_zh)]
            if emoji.tags_zh:
                texts += [f"{emoji.label_zh}，{'，'.join(emoji.tags_zh[:4])}", "，".join(emoji.tags_zh[:5])]
    return unique(texts)


def glyph_captions(name: str, picture_set: PictureSet, colour: Colour, emoji: Emoji | None) -> tuple[str, ...]:
    """Captions of a one-colour drawing: each says its colour, which is exactly the colour of its pixels."""
    style, style_zh = picture_set.styles[0], picture_set.styles_zh[0]
    plain = f"{colour.name} {name}"
    texts = [
        with_article(f"{plain} icon"),
        f"{plain} {style}",
        f"{plain} silhouette" if style == "solid icon" else f"{plain} outline",
        f"{name} icon in {colour.name}",
        f"{name}, {style}, {colour.name}",
    ]
    if emoji and emoji.label_zh:
        texts += [
            f"{colour.zh}的{emoji.label_zh}图标",
            f"{colour.zh}{style_zh}，{emoji.label_zh}",
            f"{emoji.label_zh}，{colour.zh}，{style_zh}",
        ]
    return unique(texts)


def unique(texts: list[str]) -> tuple[str, ...]:
    """The texts without repetitions, in order."""
    return tuple(dict.fromkeys(text.strip() for text in texts if text.strip()))
