"""Two things at once: the couples asked for, and how a picture is cut into its halves."""

from __future__ import annotations

from pathlib import Path

import torch

from calotype.data.folder import Record
from calotype.data.pairs import couple
from calotype.evaluation.composition import COUPLES, asked, halves, side_by_side, unseen_couples
from calotype.evaluation.concepts import chosen_concepts
from calotype.evaluation.content import both

WORDS = ("apple", "car", "owl", "tree", "house", "fish")


def records(kind: str = "emoji") -> list[Record]:
    return [
        Record(
            Path(f"{name}-{style}.png"), (name,), meta={"concept": name, "style": str(style), "kind": kind}
        )
        for name in WORDS
        for style in range(4)
    ]


def test_couples_are_unseen_and_each_concept_comes_first_once() -> None:
    concepts = chosen_concepts(records())
    couples = unseen_couples(concepts, records())
    assert [first for first, _ in couples] == list(concepts.names)
    assert len({couple(*pair) for pair in couples}) == len(WORDS) // 2
    seen = couple(*reversed(couples[0]))
    shown = Record(Path("pair.png"), (), meta={"concept": seen, "kind": "pair"})
    assert all(couple(*pair) != seen for pair in unseen_couples(concepts, [*records(), shown]))


def test_only_emoji_are_asked_for_and_no_more_than_fifty() -> None:
    assert unseen_couples(chosen_concepts(records("colour")), []) == []
    many = [
        Record(Path(f"{i}-{style}"), (), meta={"concept": f"thing {i}", "style": style, "kind": "emoji"})
        for i in range(200)
        for style in "abcd"
    ]
    assert len(unseen_couples(chosen_concepts(many), many)) == COUPLES


def test_the_prompt_says_where() -> None:
    assert asked("red apple", "owl") == "a red apple left of an owl"


def test_halves_are_cut_out_and_fitted() -> None:
    picture = torch.full((1, 3, 64, 64), 255, dtype=torch.uint8)
    picture[0, :, 30:40, 5:15] = torch.tensor([200, 0, 0], dtype=torch.uint8)[:, None, None]
    picture[0, :, 10:30, 50:60] = torch.tensor([0, 0, 200], dtype=torch.uint8)[:, None, None]
    left, right = halves(picture)
    assert (left[0, 0] == 200).all()  # a square fills the square
    assert (right[0, :, :, 16:48] == torch.tensor([0, 0, 200])[:, None, None]).all()
    assert (right[0, :, :, :15] == 255).all()  # a tall drawing keeps its proportions
    empty = torch.full((1, 3, 64, 64), 255, dtype=torch.uint8)
    assert (halves(empty)[0] == 255).all()


def test_what_is_put_side_by_side_is_found_again() -> None:
    random = torch.Generator().manual_seed(0)
    smooth = torch.randint(0, 230, (3, 3, 4, 4), generator=random).float()
    pictures = torch.nn.functional.interpolate(smooth, 64, mode="bilinear").byte()
    left, right = halves(side_by_side(pictures[:2], pictures[1:]))
    for found, real in ((left, pictures[:2]), (right, pictures[1:])):
        assert (found.float() - real.float()).abs().mean() < 4


def test_both_halves_must_hit() -> None:
    def features(pictures: torch.Tensor) -> torch.Tensor:
        return pictures.float().mean(dim=(2, 3))  # (N 3 H W) -> (N 3)

    pages = torch.full((2, 3, 32, 32), 255, dtype=torch.uint8)
    pages[:, 0, 8:24, 2:14] = 0  # cyan left
    pages[0, 1, 8:24, 18:30] = 0  # magenta right, in the first page alone
    pages[1, 2, 8:24, 18:30] = 0
    known = torch.tensor([[0.0, 1, 1]] + [[1.0, 0, 1]] * 5 + [[1.0, 1, 0]] * 5)
    owners = ["cyan"] + ["magenta"] * 5 + ["yellow"] * 5
    couples = [("cyan", "magenta")] * 2
    assert both(features, pages, couples, known, owners) == [True, False]  # type: ignore[arg-type]
