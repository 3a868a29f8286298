"""A caption in other words keeps its subject and stays one line."""

from random import Random

from calotype.data.rewording import plural, reworded

CAPTIONS = ("owl", "a red apple", "face with tears of joy", "monkey, animal, banana", "an owl in flat style")


def test_the_subject_stays_and_words_vary() -> None:
    for caption in ("owl", "a red apple", "mirror ball, noto style"):
        made = {reworded(caption, Random(seed)) for seed in range(200)}
        assert len(made) > 60
        noun = caption.split(",")[0].split()[-1]
        assert sum(noun in text for text in made) > 0.8 * len(made)
        assert all(text == text.strip() and "  " not in text and text for text in made)


def test_the_same_random_numbers_give_the_same_words() -> None:
    for caption in (*CAPTIONS, "猫头鹰，鸟"):
        assert reworded(caption, Random(3)) == reworded(caption, Random(3))


def test_chinese_stays_chinese() -> None:
    made = {reworded("猫头鹰，鸟", Random(seed)) for seed in range(50)}
    assert len(made) > 8
    assert not any(letter.isascii() and letter.isalpha() for text in made for letter in text)


def test_plurals() -> None:
    pairs = {
        "owl": "owls",
        "red apple": "red apples",
        "box": "boxes",
        "cherry": "cherries",
        "key": "keys",
        "woman": "women",
        "maple leaf": "maple leaves",
        "glass of milk": "glasses of milk",
        "face with tears of joy": "faces with tears of joy",
        "grapes": "grapes",
        "apple left of a car": "apples left of a car",
        "": "",
    }
    for one, many in pairs.items():
        assert plural(one) == many
