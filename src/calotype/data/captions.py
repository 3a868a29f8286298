"""Captions of a drawing, the plainest first, in English and Chinese.

Every caption is true of the picture.  A style is always spoken of with the same words (sources.py), and a
colour word stands only where the drawing is in that one colour, or the emoji itself is named by it.
"""

import re

from calotype.data.chinese import chinese_name
from calotype.data.names import ANIMALS, FOOD, OBJECTS, PEOPLE, SMILEYS, SYMBOLS, TRAVEL, Emoji, normal
from calotype.data.sources import COLOURS, Colour, PictureSet

_UNCOUNTED = frozenset(
    (
        *(
            "bacon",
            "bread",
            "butter",
            "cheese",
            "confetti",
            "curry",
            "fire",
            "fog",
            "garlic",
            "ginger",
            "hail",
        ),
        *("honey", "ice", "lightning", "luggage", "mathematics", "meat", "milk", "money", "music", "people"),
        *("rain", "rice", "salt", "sleet", "snow", "soap", "spaghetti", "sushi", "tea", "teeth", "thunder"),
        *("water", "weather", "wood", "men", "women", "children", "feet", "dice", "clothing", "popcorn"),
    )
)
_SINGULAR_S = ("ss", "us", "is", "os", "as")
_COLOUR_EN = re.compile(
    r"\b(?:(?:light|dark) )?(?:white|gray|golden|" + "|".join(colour.name for colour in COLOURS) + r")\b"
)
_COLOUR_ZH = re.compile("^(?:浅|深|淡)?(?:粉红|[红橙黄绿青蓝紫棕黑白灰粉])色?的?")


def with_article(name: str) -> str:
    """`a red apple`, `an owl`, `grapes`: the article an English speaker would write, or none."""
    words = name.split()
    head = re.split(r" (?:with|of|in|on|for|at|holding) ", name)[0].split()[-1].strip(",")
    plural = head.endswith("s") and not head.endswith(_SINGULAR_S)
    if plural or words[0] in ("a", "an", "the", "no") or head in _UNCOUNTED or not name[0].isalpha():
        return name
    first = words[0].lower()
    vowel = first[0] in "aeiou" and not first.startswith(("uni", "eu", "use", "one"))
    return f"{'an' if vowel or first.startswith(('hour', 'honest')) else 'a'} {name}"


def emoji_captions(name: str, picture_set: PictureSet, emoji: Emoji | None) -> tuple[str, ...]:
    """Captions of an emoji in its own colours."""
    noun = name if emoji and emoji.group == SYMBOLS else with_article(name)
    texts = [name, noun]
    for style in picture_set.styles:
        texts += [f"{name}, {style}", f"{noun} in {style}"]
    texts.append(f"{name} emoji")
    if emoji:
        tags = [tag for tag in emoji.tags if tag.lower() != name.lower()]
        if tags:
            texts += [f"{name}, {', '.join(tags[:4])}", ", ".join(tags[:5])]
        if emoji.label_zh:
            texts.append(emoji.label_zh)
            texts += [f"{emoji.label_zh}，{style}" for style in picture_set.styles_zh]
            if emoji.group == SMILEYS:
                texts.append(f"{emoji.label_zh}表情")
            elif noun != name and emoji.group in (PEOPLE, ANIMALS, FOOD, TRAVEL, OBJECTS):
                texts.append(f"一个{emoji.label_zh}")
            if emoji.tags_zh:
                texts += [f"{emoji.label_zh}，{'，'.join(emoji.tags_zh[:4])}", "，".join(emoji.tags_zh[:5])]
    return unique(texts)


def icon_captions(name: str, picture_set: PictureSet, emoji: Emoji | None) -> tuple[str, ...]:
    """Captions of a plain icon in its own colours."""
    style, zh = picture_set.styles[0], _zh_of(name, emoji)
    texts = [name, f"{name} icon", f"{name}, {style}", f"{name} icon in {style}"]
    if emoji and emoji.tags:
        texts.append(f"{name}, {', '.join(emoji.tags[:4])}")
    if zh:
        texts += [zh, f"{zh}图标", f"{zh}，{picture_set.styles_zh[0]}"]
    return unique(texts)


def glyph_captions(
    name: str, picture_set: PictureSet, colour: Colour, emoji: Emoji | None
) -> tuple[str, ...]:
    """Captions of a one-colour drawing: each says its colour, which is exactly the colour of its ink.

    Colour words that belong to the name are left out: the red heart drawn in green is a green heart.
    """
    bare = without_colour(name)
    zh = _zh_of(name, emoji)
    if zh and bare != name:
        zh = _COLOUR_ZH.sub("", zh) if _COLOUR_ZH.match(zh) else None
    style, style_zh = picture_set.styles[0], picture_set.styles_zh[0]
    plain = f"{colour.name} {bare}"
    texts = [
        with_article(f"{plain} icon"),
        f"{plain} {style}",
        f"{plain} silhouette" if style == "solid icon" else f"{plain} outline",
        f"{bare} icon in {colour.name}",
        f"{bare}, {style}, {colour.name}",
    ]
    if zh:
        texts += [f"{colour.zh}的{zh}图标", f"{colour.zh}{style_zh}，{zh}", f"{zh}，{colour.zh}，{style_zh}"]
    return unique(texts)


def without_colour(name: str) -> str:
    """`red heart` is `heart`; a name that is nothing but a colour stays."""
    return " ".join(_COLOUR_EN.sub(" ", name).split()) or name


def _zh_of(name: str, emoji: Emoji | None) -> str | None:
    return (emoji.label_zh or None) if emoji else chinese_name(normal(name))


def unique(texts: list[str]) -> tuple[str, ...]:
    """The texts without repetitions, in order."""
    return tuple(dict.fromkeys(text.strip() for text in texts if text.strip()))
