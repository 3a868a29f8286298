"""Names and captions: what is said of a drawing, and what must not be said."""

import pytest

from calotype.data.captions import glyph_captions, icon_captions, with_article, without_colour
from calotype.data.chinese import WORDS, chinese_name
from calotype.data.names import Emoji, EmojiBook, has_skin_tone, icon_name, normal, spoken, without_number
from calotype.data.sources import COLOUR_SETS, COLOURS, EMOJI_SETS, FLUENT_3D_SET, GLYPH_SETS
from calotype.data.unwanted import is_abstract, is_brand, is_interface, is_national

HEART = Emoji("red heart", ("love",), "红心", ("爱",), 0)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("red apple", "a red apple"),
        ("owl", "an owl"),
        ("unicorn", "a unicorn"),
        ("grapes", "grapes"),
        ("octopus", "an octopus"),
        ("glass of milk", "a glass of milk"),
        ("face with tears of joy", "a face with tears of joy"),
        ("bread", "bread"),
        ("hourglass", "an hourglass"),
        ("1st place medal", "1st place medal"),
    ],
)
def test_articles(name, said):
    assert with_article(name) == said


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("man: red hair", "man with red hair"),
        ("person: bald", "bald person"),
        ("keycap: 1", "keycap 1"),
        ("woman walking: facing right", "woman walking facing right"),
        ("family: man, woman, boy", "family of man, woman and boy"),
        ("kiss: woman, man", "kiss of woman and man"),
        ("woman’s hat", "woman's hat"),
        ("owl", "owl"),
    ],
)
def test_labels_as_one_would_say_them(label, said):
    assert spoken(label) == said


@pytest.mark.parametrize(
    ("slug", "name"),
    [
        ("hamburger-2-flat", "hamburger"),
        ("cat-24", "cat"),
        ("Chicken_Leg", "chicken leg"),
        ("3d-cube-1", "3d cube"),
    ],
)
def test_icon_names(slug, name):
    assert icon_name(slug) == name


def test_small_name_rules():
    assert normal("Piñata  & Woman’s") == "pinata womans"
    assert without_number("fox face 2") == "fox face"
    assert has_skin_tone("owl medium dark skin tone")
    assert has_skin_tone("artist medium light")
    assert has_skin_tone("", "1f44d-1f3fb")
    assert not has_skin_tone("light bulb")
    assert is_national("franceflag", True)
    assert is_national("flag for italy", False)
    assert not is_national("crossed flags", True)
    assert not is_national("flag in hole", False)
    assert is_brand("pac man")
    assert is_brand("apple logo")
    assert not is_brand("red apple")
    assert is_interface("align left")
    assert is_abstract("arrow up")


def test_book_finds_by_code_name_and_glued_name():
    book = EmojiBook(
        [
            {"hexcode": "2764-FE0F", "label": "red heart", "tags": ["love"], "group": 0},
            {"hexcode": "1F1EE-1F1F9", "label": "flag: Italy", "group": 9},
            {"hexcode": "1F1E6", "label": "regional indicator A"},
        ],
        [{"hexcode": "2764-FE0F", "label": "红心", "tags": ["爱"]}],
    )
    assert book.find("", "2764") == book.find("red heart") == book.find("redheart") == HEART
    book.learn({"2764": "heavy-heart"})
    assert book.find("heavy heart") == HEART
    assert book.words_of("redlove") == "red love"
    assert book.words_of("redlovq") is None
    assert book.is_unwanted("", "1f1ee-1f1f9")
    assert book.is_unwanted("flag italy")
    assert not book.is_unwanted("red heart", "2764")
    assert book.knows("love heart")
    assert not book.knows("love align")


def test_a_red_heart_in_green_is_a_green_heart():
    green = next(colour for colour in COLOURS if colour.name == "green")
    texts = glyph_captions("red heart", GLYPH_SETS[0], green, HEART)
    assert texts[0] == "a green heart icon"
    assert "绿色的心图标" in texts
    assert not any("red" in text or "红" in text for text in texts)


def test_colour_words_go_only_where_something_stays():
    assert without_colour("light blue heart") == "heart"
    assert without_colour("orange") == "orange"
    assert without_colour("blackboard") == "blackboard"


def test_plain_icons_get_chinese_where_it_is_known():
    flat = COLOUR_SETS[-1]
    assert "购物车图标" in icon_captions("shopping cart", flat, None)
    assert chinese_name("fish bowl") == "鱼碗"
    assert chinese_name("quantum fish") is None
    assert all(normal(word) == word and zh and not zh.isascii() for word, zh in WORDS.items())


def test_styles_are_each_one_phrase_in_both_languages():
    sets = (*EMOJI_SETS, FLUENT_3D_SET, *COLOUR_SETS, *GLYPH_SETS)
    assert all(s.styles and s.styles_zh for s in sets)
    translated: dict[str, str] = {}
    for s in sets:
        assert translated.setdefault(s.styles[0], s.styles_zh[0]) == s.styles_zh[0]
    allowed = {"Apache-2.0", "MIT", "ISC", "CC0-1.0", "CC-BY-3.0", "CC-BY-4.0"}
    assert {s.licence for s in sets} <= allowed
