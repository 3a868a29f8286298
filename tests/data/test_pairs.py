"""Pictures of two things: what is paired, what the captions say, and that each lies where they say."""

import re

import numpy as np
from fixtures import stand_in
from test_icons import quiet, records

from calotype.data.icons import make_icons
from calotype.data.pairs import couple, pair_captions, pair_drawings
from calotype.data.pictures import read_picture
from calotype.data.plan import Drawing, make_drawing
from calotype.data.sources import EMOJI_SETS


def disc(colour: str, mark: str = "a") -> str:
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16" width="16" height="16">'
        f'<defs><linearGradient id="{mark}"><stop stop-color="{colour}"/></linearGradient></defs>'
        f'<circle cx="8" cy="8" r="8" fill="url(#{mark})"/></svg>'
    )


def drawings(count: int = 12) -> list[Drawing]:
    names = ("apple", "car", "owl", "tree", "house", "fish", "sun", "moon", "hat", "cup", "bell", "key")
    return [
        make_drawing(EMOJI_SETS[0], n, disc(f"#{i:02x}0000"), n, (n, f"a {n}"))
        for i, n in enumerate(names[:count])
    ]


def test_every_pair_is_there_once_and_of_two_things() -> None:
    pairs = pair_drawings(drawings(), 60)
    assert len(pairs) == 60
    assert len({pair.file_name for pair in pairs}) == 60
    for pair in pairs:
        one, other = pair.record["concept"].split(" + ")
        assert one != other
        assert pair.record["kind"] == "pair"
        assert pair.record["split"] == "train"
    assert pair_drawings(drawings(), 60) == pairs
    assert len(pair_drawings(drawings(3), 1000)) <= 3 * 2 * 2  # no more than there are


def test_held_out_concepts_are_in_no_pair() -> None:
    chosen = drawings()
    for drawing in chosen[::2]:
        drawing.record["split"] = "test"
    allowed = {drawing.record["concept"] for drawing in chosen[1::2]}
    for pair in pair_drawings(chosen, 30):
        assert set(pair.record["concept"].split(" + ")) <= allowed


def test_captions_say_which_lies_where() -> None:
    texts = pair_captions(("apple", "苹果"), ("owl", "猫头鹰"), "flat style", beside=True)
    assert texts[:2] == ("an apple left of an owl", "an owl right of an apple")
    assert "左边是苹果，右边是猫头鹰" in texts
    above = pair_captions(("apple",), ("owl", "猫头鹰"), "flat style", beside=False)
    assert above[:2] == ("an apple above an owl", "an owl below an apple")
    assert not any(re.search("[一-鿿]", text) for text in above)
    assert couple("owl", "apple") == couple("apple", "owl") == "apple + owl"


def test_each_is_drawn_in_its_place_in_its_own_colours(tmp_path, monkeypatch) -> None:
    stand_in(monkeypatch, tmp_path)
    make_icons(tmp_path / "icons", tmp_path / "cache", 64, None, 1, quiet, pairs=8)
    pairs = [entry for entry in records(tmp_path / "icons") if entry["kind"] == "pair"]
    blank = [entry for entry in records(tmp_path / "icons") if "blank" in entry["file_name"]]
    assert pairs
    assert not blank  # of a pair with a blank half, too, nothing is left
    for entry in pairs:
        pixels = read_picture(tmp_path / "icons" / entry["file_name"]).astype(int)
        ink = np.abs(pixels - 255).max(axis=2) > 20
        beside = "-beside-" in entry["file_name"]
        first, second = (ink[:, :32], ink[:, 32:]) if beside else (ink[:32], ink[32:])
        assert first.any()
        assert second.any()
        assert ("left of" in entry["text"]) == beside


def test_the_names_inside_two_drawings_do_not_meet() -> None:
    from calotype.data.svg import draw

    red, blue = (
        make_drawing(EMOJI_SETS[0], name, disc(colour), name, (name,))
        for name, colour in (("red disc", "#ff0000"), ("blue disc", "#0000ff"))
    )
    for drawing in (red, blue):
        drawing.record["split"] = "train"
    for pair in pair_drawings([red, blue], 2):
        pixels = draw(pair.payload, 64)
        colours = {tuple(colour) for colour in pixels.reshape(-1, 3)}
        assert {(255, 0, 0), (0, 0, 255)} <= colours
