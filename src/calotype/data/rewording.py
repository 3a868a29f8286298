"""A caption as somebody else might write it: other articles, a plural, a sentence, a word more or less.

The subject stays named and nothing untrue of the picture is said of its colours or its place.
"""

import re
from random import Random

_DETERMINERS = ("the", "this", "my", "one", "some", "another", "your", "every")
_ADJECTIVES = (
    *("nice", "lovely", "typical", "simple", "pretty", "good", "little", "beautiful", "fine", "funny"),
    *("big", "small", "old", "new", "real", "single", "famous", "friendly", "ordinary", "great"),
)
_COUNTS = ("two", "three", "some", "many", "a few", "several", "a pair of", "lots of", "different")
_FRAMES = (
    "a picture of {}",
    "a drawing of {}",
    "an image of {}",
    "an icon of {}",
    "a symbol for {}",
    "this is {}",
    "there is {} here",
    "i see {}",
    "here you see {}",
    "draw {}",
    "show me {}",
    "please draw {}",
    "i would like {}",
    "what {} looks like",
    "something like {}",
)
_TAILS = (
    *("on a white background", "in the middle", "seen from the side", "for a child", "for my friend"),
    *("at home", "in the world", "in the morning", "of our time", "that i like", "as everybody knows it"),
    *("in a story", "on my desk", "from a book", "by itself", "standing there", "waiting", "at work"),
    *("to look at", "for the weekend", "in a shop", "in the park", "of the neighbours", "on holiday"),
)
_FRAMES_ZH = (
    "一张{}的图片",
    "画一个{}",
    "这是{}",
    "{}的图案",
    "{}的画",
    "我想要{}",
    "一个{}",
    "请画{}",
    "可爱的{}",
)
_IRREGULAR = {
    "man": "men",
    "woman": "women",
    "person": "people",
    "child": "children",
    "foot": "feet",
    "tooth": "teeth",
    "mouse": "mice",
    "goose": "geese",
    "sheep": "sheep",
    "fish": "fish",
    "leaf": "leaves",
    "knife": "knives",
    "wolf": "wolves",
    "loaf": "loaves",
    "scarf": "scarves",
}
_SPACE = re.compile(r"\s+")


def reworded(caption: str, random: Random) -> str:
    """One of many other wordings of an English or Chinese caption, chosen by `random`."""
    if re.search("[一-鿿]", caption):
        return random.choice(_FRAMES_ZH).format(_listed(caption, "，", random))
    text = _listed(caption, ", ", random)
    words = text.split()
    if len(words) > 3 and random.random() < 0.3:
        words.pop(random.randrange(len(words)))
        text = " ".join(words)
    if random.random() < 0.7:
        text = random.choice((_determined, _described, _many))(text, random)
    if random.random() < 0.4:
        text = random.choice(_FRAMES).format(text)
    if random.random() < 0.4:
        text = f"{text} {random.choice(_TAILS)}"
    return _SPACE.sub(" ", text).strip()


def plural(name: str) -> str:
    """`two apples`, `boxes`, `cherries`: the name with its head noun in the plural."""
    words = name.split()
    if not words:
        return name
    head = next((i - 1 for i, word in enumerate(words) if i and word in _LINKS), len(words) - 1)
    return " ".join((*words[:head], _plural_word(words[head]), *words[head + 1 :]))


_LINKS = ("with", "of", "in", "on", "for", "at", "holding", "left", "right", "above", "below", "and", "under")


def _plural_word(word: str) -> str:
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if not word.isalpha() or (word.endswith("s") and not word.endswith("ss")):
        return word
    if word.endswith(("ss", "x", "ch", "sh", "z")):
        return word + "es"
    if word.endswith("y") and word[-2:-1] not in tuple("aeiou"):
        return word[:-1] + "ies"
    return word + "s"


def _bare(text: str) -> str:
    return re.sub(r"^(?:a|an|the) ", "", text)


def _listed(caption: str, comma: str, random: Random) -> str:
    """Of a list the first item and some of the others, or, now and then, only the others."""
    first, *others = caption.split(comma)
    kept = [item for item in others if random.random() < 0.6]
    random.shuffle(kept)
    if len(kept) > 1 and random.random() < 0.3:
        return random.choice((comma, " ")).join(kept)
    return comma.join((first, *kept))


def _determined(text: str, random: Random) -> str:
    return f"{random.choice(_DETERMINERS)} {_bare(text)}"


def _described(text: str, random: Random) -> str:
    adjective = random.choice(_ADJECTIVES)
    return f"{'an' if adjective[0] in 'aeiou' else 'a'} {adjective} {_bare(text)}"


def _many(text: str, random: Random) -> str:
    first, comma, rest = _bare(text).partition(",")
    return f"{random.choice(_COUNTS)} {plural(first)}{comma}{rest}"
