"""The figures on content, on pictures whose content is known."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import PIL.Image
import pytest
import torch

from calotype.data.folder import PictureFolder, Record
from calotype.errors import DataError
from calotype.evaluation import concepts
from calotype.evaluation.colour import ASKED, TABLE, dominant, lab, unseen_pairs
from calotype.evaluation.concepts import (
    chinese_name,
    chosen_concepts,
    hits,
    left_out_style,
    other_wordings,
    share,
)
from calotype.evaluation.content import content, stack
from calotype.evaluation.features import Features
from calotype.evaluation.kid import kid, mmd

LISTED = json.loads((Path(concepts.__file__).parent / "wordings.json").read_text(encoding="utf-8"))


def record(name: str, **meta: object) -> Record:
    return Record(Path(name), (name,), meta=meta)


def test_concepts_are_chosen_by_their_hash_alone() -> None:
    records = [
        record(f"{name}-{style}.png", concept=name, style=str(style))
        for name in ("apple", "car", "owl", "tree")
        for style in range(3 if name == "owl" else 5)
    ]
    found = chosen_concepts(records, count=2)
    enough = sorted(("apple", "car", "tree"), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    assert found.names == tuple(enough[:2])
    assert {r.meta["concept"] for r in found.records} == set(enough[:2])
    assert len(found.records) == 10
    assert left_out_style(found) == "0"


def test_a_hit_is_one_of_five_nearest() -> None:
    references = torch.eye(8)
    owners = list("abcdefgh")
    query = torch.tensor([[8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]])
    assert hits(query, ["e"], references, owners) == [True]
    assert hits(query, ["f"], references, owners) == [False]
    assert hits(100 * query, ["e"], references, owners) == [True]  # lengths do not matter


def test_other_wordings_are_a_hundred_and_in_no_caption() -> None:
    assert len(LISTED) == 100
    assert len(set(LISTED.values())) == 100
    assert not any(name == text for name, text in LISTED.items())
    records = [
        Record(Path(f"{name}-{style}.png"), captions, meta={"concept": name, "style": str(style)})
        for style in range(4)
        for name, captions in (("owl", ("owl", "Owls")), ("violin", ("violin",)), ("yarn", ("yarn",)))
    ]
    # "owls" is listed, but a caption here; "yarn" has no other wording
    assert other_wordings(chosen_concepts(records)) == {"violin": LISTED["violin"]}


def test_wilson_interval() -> None:
    found = share([True] * 8 + [False] * 2)
    assert found["share"] == 0.8
    assert found["low"] == pytest.approx(0.4902, abs=1e-3)  # Brown, Cai, DasGupta 2001
    assert found["high"] == pytest.approx(0.9433, abs=1e-3)


def test_chinese_captions_are_told_by_their_letters() -> None:
    assert chinese_name(Record(Path("a"), ("apple", "苹果", "苹果，红色"))) == "苹果"
    assert chinese_name(Record(Path("a"), ("apple",))) is None


def test_mmd_of_a_set_and_its_mirror_by_hand() -> None:
    a, b = torch.tensor([[1.0], [1.0]]), torch.tensor([[-1.0], [-1.0]])
    assert mmd(a, b) == pytest.approx(8 + 8 - 0)  # kernel 8 within, 0 between
    assert mmd(a, a) == pytest.approx(0)


def test_kid_is_about_nothing_for_one_law_and_clear_for_two() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 300, 16, generator=generator)
    same, other = kid(a, b), kid(a, b + 0.5)
    assert same["low"] < 0 < same["high"]
    assert other["low"] > same["high"]


def test_lab_of_known_colours() -> None:
    known = torch.tensor([[255.0, 255, 255], [0, 0, 0], [255, 0, 0], [0, 0, 255]])
    wanted = torch.tensor([[100.0, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20], [32.30, 79.19, -107.86]])
    assert torch.allclose(lab(known).float(), wanted, atol=0.1)


def painted(code: str) -> PIL.Image.Image:
    picture = PIL.Image.new("RGB", (32, 32), "white")
    picture.paste(code, (8, 8, 24, 20))
    return picture


def test_dominant_colours() -> None:
    assert dominant(stack([painted(code) for code in TABLE.values()])) == list(TABLE)
    assert dominant(stack([PIL.Image.new("RGB", (32, 32), (252, 252, 252))])) == [""]


def test_pairs_are_unseen() -> None:
    records = [record("a", kind="glyph", concept="owl", colour="red"), record("b", kind="emoji", concept="x")]
    pairs = unseen_pairs(records)
    assert ("red", "owl") not in pairs
    assert {colour for colour, _ in pairs} == set(ASKED) - {"red"}
    assert {name for _, name in pairs} == {"owl"}


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve concepts, each a pattern of stripes, in five styles that tint them slightly."""
    folder = tmp_path_factory.mktemp("drawings")
    lines = []
    for number in range(12):
        for style in range(5):
            picture = pattern(number, style)
            name = f"{number}-{style}.png"
            picture.save(folder / name)
            split = "train" if style < 4 else "test"
            lines.append(
                {"file_name": name, "text": f"thing {number}", "texts": [f"thing {number}", f"东西{number}"]}
                | {"concept": f"thing {number}", "style": str(style), "kind": "emoji", "split": split}
            )
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    return folder


def pattern(number: int, style: int) -> PIL.Image.Image:
    picture = PIL.Image.new("RGB", (32, 32), "white")
    for place in range(4):
        if (number + 1) >> place & 1:
            picture.paste((40 * place, 200 - 50 * place, 90 + style), (8 * place, 0, 8 * place + 8, 32))
    return picture


@pytest.mark.verify
def test_a_perfect_model_and_a_deaf_one(drawings: Path) -> None:
    training = PictureFolder(drawings, 32, "train")
    held_out = PictureFolder(drawings, 32, "test")

    def perfect(prompts: Sequence[str], seed: int) -> list[PIL.Image.Image]:
        assert seed == 0
        return [pattern(int("".join(filter(str.isdigit, prompt))), 9) for prompt in prompts]

    def deaf(prompts: Sequence[str], seed: int) -> list[PIL.Image.Image]:
        del seed
        return [pattern(3, 9)] * len(prompts)

    captions = [r.captions[0] for r in held_out.records]
    found = content(perfect, training, held_out.load_all(), captions)
    assert found["recall"]["share"] == 1
    assert found["recall_chinese"]["share"] == 1
    assert found["ceiling"]["share"] == 1
    assert found["recall"]["missed"] == []
    assert abs(found["effnet_lite0_kid"]["kid"]) < 0.05
    assert "colour" not in found  # no one-colour icons here
    worse = content(deaf, training, held_out.load_all(), captions)
    assert worse["recall"]["share"] <= 5 / 12
    assert worse["effnet_lite0_kid"]["kid"] > found["effnet_lite0_kid"]["kid"]


def test_a_folder_that_does_not_tell_is_refused(tmp_path: Path) -> None:
    painted("#ff0000").save(tmp_path / "a.png")
    folder = PictureFolder(tmp_path, 32)

    def never(prompts: Sequence[str], seed: int) -> list[PIL.Image.Image]:
        raise AssertionError(f"{prompts} were drawn from seed {seed} for nothing")

    with pytest.raises(DataError, match="names only 0 concepts"):
        content(never, folder, folder.load_all(), [""])


def test_features_tell_pictures_apart() -> None:
    pictures = stack([pattern(3, 0), pattern(3, 1), pattern(12, 0)])
    a, b, c = torch.nn.functional.normalize(Features()(pictures), dim=1)
    assert a.shape == (1280,)
    assert a @ b > a @ c
