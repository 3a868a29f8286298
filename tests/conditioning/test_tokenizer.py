"""The tokenizer against transformers' own, on one vocabulary."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calotype.conditioning.tokenizer import END, START, Tokenizer
from calotype.errors import CheckpointError

CAPTIONS = [
    "a red apple",
    "a green car, flat icon",
    "two men, a woman's hat",
    "the dog's bone & the cat's fish",
    "一个红苹果",
    "绿色的汽车",
    "红色的苹果图标",
    "smiling face with heart-eyes 😍",
    "3d printer, line style",
] * 4
TEXTS = [
    "",
    " ",
    "a red apple",
    "  A   Red\tAPPLE\n",
    "it's we'll they've I'm don't he'd you're",
    "IT'S DON'T",
    "10,000 words!!! ... (really?)",
    "一个红苹果",
    "红 apple 苹果，绿色。",
    "😍👩‍👩‍👧 apple🍎",
    "café café ñ ﬁ İ ß Ω",
    "<|endoftext|> inside a <|startoftext|> text",
    "zero\u200bwidth\u00a0space\u3000ideographic",
    "a" * 300,
    "word " * 100,
    "snake_case under__score -- dash",
    "١٢٣ ２３ ²",
]


@pytest.fixture(scope="module")
def ours() -> Tokenizer:
    return Tokenizer.train(CAPTIONS, size=700, context_length=32)


def reference(tokenizer: Tokenizer, folder: Path) -> object:
    from transformers import CLIPTokenizer

    tokenizer.save_clip_files(folder)
    merges = [
        tuple(line.split(" ")) for line in (folder / "merges.txt").read_text("utf-8").split("\n")[1:] if line
    ]
    vocab = json.loads((folder / "vocab.json").read_text("utf-8"))
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=tokenizer.context_length)


def test_agrees_with_transformers(ours: Tokenizer, tmp_path: Path) -> None:
    theirs = reference(ours, tmp_path)
    expected = theirs(TEXTS, padding="max_length", truncation=True)["input_ids"]  # type: ignore[operator]
    for text, row, want in zip(TEXTS, ours.encode(TEXTS).tolist(), expected, strict=True):
        assert row == want, text


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60))
def test_agrees_with_transformers_on_anything(text: str) -> None:
    import tempfile

    cache = test_agrees_with_transformers_on_anything.__dict__
    if "pair" not in cache:
        mine = Tokenizer.train(CAPTIONS, size=700, context_length=32)
        with tempfile.TemporaryDirectory() as folder:
            cache["pair"] = mine, reference(mine, Path(folder))
    mine, theirs = cache["pair"]
    assert mine.encode([text])[0].tolist() == theirs(text, padding="max_length", truncation=True)["input_ids"]


def test_cut_keeps_the_end_and_names_what_was_dropped(ours: Tokenizer) -> None:
    text = "a red apple " * 12 + "zebra crossing"
    row = ours.encode([text])[0].tolist()
    assert len(row) == 32
    assert row[0] == ours.start
    assert row[-1] == ours.end
    lost = ours.dropped(text)
    assert lost.endswith("zebra crossing")
    assert text.endswith(lost)
    kept = text[: len(text) - len(lost)]
    assert ours.dropped(kept) == ""
    assert ours.dropped("a red apple") == ""


def test_trained_layout_and_repeatability(ours: Tokenizer, tmp_path: Path) -> None:
    assert len(ours) <= 700
    assert sorted(ours.vocab.values()) == list(range(len(ours)))
    assert ours.vocab["!"] == 0
    assert (ours.start, ours.end) == (len(ours) - 2, len(ours) - 1)
    again = Tokenizer.train(CAPTIONS, size=700, context_length=32)
    assert again.vocab == ours.vocab
    assert again.merges == ours.merges
    ours.save_clip_files(tmp_path)
    read = Tokenizer.from_clip_files(tmp_path, context_length=32)
    assert read.encode(TEXTS).equal(ours.encode(TEXTS))
    # A frequent word is one token, and a script never seen still has tokens.
    assert ours.encode(["apple"])[0, 2] == ours.end
    assert ours.end not in ours.encode(["ひらがな"])[0, 1:5].tolist()


def test_size_is_kept_on_a_large_corpus() -> None:
    import random

    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghij苹果红", k=draw.randint(2, 9))) for _ in range(3000)]
    tokenizer = Tokenizer.train(words, size=1024)
    assert 900 < len(tokenizer) <= 1024


def test_bad_files_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"vocab\.json and merges\.txt"):
        Tokenizer.from_clip_files(tmp_path / "nowhere")
    (tmp_path / "vocab.json").write_text("{broken")
    (tmp_path / "merges.txt").write_text("")
    with pytest.raises(CheckpointError, match=r"vocab\.json and merges\.txt"):
        Tokenizer.from_clip_files(tmp_path)
    with pytest.raises(CheckpointError, match="startoftext"):
        Tokenizer.from_vocab({"a": 0}, [])
    with pytest.raises(CheckpointError, match="do not fit"):
        Tokenizer.from_vocab({"a": 0, START: 1, END: 2}, ["x y"])


def test_clips_own_vocabulary(tmp_path: Path) -> None:
    clip = Tokenizer.clip()
    assert (len(clip), clip.start, clip.end) == (49408, 49406, 49407)
    assert clip.encode(["a photo of a cat"])[0, :7].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407]
    theirs: Any = reference(clip, tmp_path)
    for text in TEXTS:
        wanted = theirs(text, padding="max_length", truncation=True)["input_ids"]
        assert clip.encode([text])[0].tolist() == wanted, text
