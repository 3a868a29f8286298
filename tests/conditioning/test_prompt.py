"""AUTOMATIC1111's prompt syntax: what a text means, and which token stands where under which weight."""

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calotype.conditioning.prompt import Chunk, Lora, chunks, parse
from calotype.conditioning.tokenizer import Tokenizer
from calotype.errors import InputError

# Every word here is one token.
WORDS = "a an and apple cat dog hat important in of on red the tree word x y z , . ( ) 一 个 红 苹果 é 😍"
LONG = Tokenizer.train([WORDS] * 4, size=900, context_length=77)
SHORT = Tokenizer.train([WORDS] * 4, size=900, context_length=10)  # 8 tokens a chunk


def pieces(text: str) -> list[list[tuple[str, float]]]:
    return [[(piece.text, piece.weight) for piece in section] for section in parse(text).sections]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # the examples documented with AUTOMATIC1111's own parser
        ("normal text", [("normal text", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        (r"\(literal\]", [("(literal]", 1.0)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                ("a ", 1.0),
                ("house", 1.5730000000000004),
                (" ", 1.1),
                ("on", 1.0),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641000000000006),
                (".", 1.1),
            ],
        ),
        # and what follows from the same rules
        ("", []),
        ("()[](:2)", []),
        ("[word]", [("word", 1 / 1.1)]),
        ("[[word]]", [("word", 1 / 1.1 / 1.1)]),
        ("[un(balanced", [("un", 1 / 1.1), ("balanced", 1.1 * (1 / 1.1))]),
        ("a) b] c:2)", [("a) b] c:2)", 1.0)]),
        ("(a: 1.5 )", [("a", 1.5)]),
        ("(a:-.5)(b:+2)(c:0)", [("a", -0.5), ("b", 2.0), ("c", 0.0)]),
        ("(a: b)", [("a: b", 1.1)]),
        ("(a:1.5", [("a:1.5", 1.1)]),
        ("(time 12:30)", [("time 12", 30.0)]),  # a trap of the syntax, kept
        ("(a [b) c]", [("a ", 1.1), ("b", 1.1 / 1.1), (" c", 1 / 1.1)]),  # brackets of two kinds may cross
        (r"\\(a\\)", [("\\", 1.0), ("a\\", 1.1)]),
        (r"a\b \(c:1.2\)", [("ab (c:1.2)", 1.0)]),
        ("(红:1.2)苹果 😍[é]", [("红", 1.2), ("苹果 😍", 1.0), ("é", 1 / 1.1)]),
        ("a <- b > c <3", [("a <- b > c <3", 1.0)]),
        ("breakfast BREAKFAST _BREAK", [("breakfast BREAKFAST _BREAK", 1.0)]),
    ],
)
def test_weights(text: str, expected: list[tuple[str, float]]) -> None:
    assert pieces(text) == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a BREAK b", [[("a", 1.0)], [("b", 1.0)]]),
        ("a,\nBREAK\nb", [[("a,", 1.0)], [("b", 1.0)]]),
        ("BREAK a", [[], [("a", 1.0)]]),
        ("a BREAK", [[("a", 1.0)], []]),
        ("a BREAK BREAK b", [[("a", 1.0)], [], [("b", 1.0)]]),
        ("(a BREAK b:1.2) c", [[("a", 1.2)], [("b", 1.2), (" c", 1.0)]]),
        ("(a)BREAK(b)", [[("a", 1.1)], [("b", 1.1)]]),
    ],
)
def test_break_parts_sections(text: str, expected: list[list[tuple[str, float]]]) -> None:
    assert pieces(text) == expected


def test_loras_are_taken_out() -> None:
    prompt = parse("a <lora:flat style:0.8>(red <lora:b>cat) <lyco:c_1:-1>")
    assert prompt.loras == (Lora("flat style", 0.8), Lora("b", 1.0), Lora("c_1", -1.0))
    assert [(piece.text, piece.weight) for piece in prompt.sections[0]] == [
        ("a ", 1.0),
        ("red cat", 1.1),
        (" ", 1.0),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(a:1.2.3)", r"weight in the prompt's :1\.2\.3\) is no number"),
        (f"(a:{'9' * 400})", "is no number"),
        ("<lora:a:much>", "<lora:a:much> is no number"),
        ("<lora:a:nan>", "is no number"),
        ("<lora:a:1:2>", "too many parts"),
        ("<hypernet:a:1>", "knows only <lora:name:0.8>"),
        ("a [cat:dog:0.5]", r"\[cat:dog:0\.5\] edits the prompt"),
        ("[(cat:1.2):10]", "edits the prompt"),
        ("[cat::.5 ]", "edits the prompt"),
        ("[cat|dog] in a tree", r"\[cat\|dog\] alternates the prompt"),
        ("[a [b] | c]", "alternates"),
        ("a cat AND a dog", "AND joins several prompts"),
        ("[long" + "\n word" * 100 + "|x]", "long word .* word.x"),
    ],
)
def test_what_would_mean_something_else_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_what_looks_like_it_but_is_not() -> None:
    assert pieces(r"a | b, \[c\|d\], [e, f: g], [h\|i]")[0][-1] == ("h|i", 1 / 1.1)
    assert pieces("band and SAND") == [[("band and SAND", 1.0)]]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_an_escaped_text_is_itself(text: str) -> None:
    if re.search(r"<|\bBREAK\b|\bAND\b", text):
        return
    escaped = re.sub(r"([()\[\]\\])", r"\\\1", text)
    assert pieces(escaped) == [[(text, 1.0)] if text else []]


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab ()[]:.1\\,", max_size=30))
def test_anything_is_read_or_refused_in_a_sentence(text: str) -> None:
    try:
        found = parse(text)
    except InputError:
        return
    assert all(piece.text for section in found.sections for piece in section)


def read(text: str, tokenizer: Tokenizer = SHORT) -> list[str]:
    """The chunks as words, with the weights that are not 1."""
    names = {number: token.removesuffix("</w>") for token, number in tokenizer.vocab.items()}
    rows = []
    for chunk in chunks(parse(text), tokenizer):
        assert len(chunk.ids) == len(chunk.weights) <= tokenizer.context_length - 2
        words = zip(chunk.ids, chunk.weights, strict=True)
        rows.append(" ".join(names[n] + ("" if w == 1 else f"*{round(w, 6):g}") for n, w in words))
    return rows


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [""]),
        ("a red apple", ["a red apple"]),
        ("a (red:1.5) [apple]", ["a red*1.5 apple*0.909091"]),
        ("((red) apple, (dog:0.5)) cat", ["red*1.21 apple*1.1 ,*1.1 dog*0.55 cat"]),
        # words are tokenized within their piece: a bracket inside a word parts it
        ("a(pple)", ["a p*1.1 ple*1.1"]),
        (r"a \(red\) cat", ["a ( red ) cat"]),
        # full to the last token, one more, and two more chunks
        ("x y z x y z x y", ["x y z x y z x y"]),
        ("x y z x y z x y a", ["x y z x y z x y", "a"]),
        ("x y z x y z x y a " + "z " * 8, ["x y z x y z x y", "a z z z z z z z", "z"]),
        # what follows the last comma moves on together, with its weights
        ("x y z, a (red cat in", ["x y z , a red*1.1 cat*1.1 in*1.1"]),
        ("x y z, a (red cat in the:2) hat", ["x y z ,", "a red*2 cat*2 in*2 the*2 hat"]),
        ("x, y, z x y z x y", ["x , y ,", "z x y z x y"]),
        # a comma that ends its chunk moves nothing, one that found no room begins the next and is forgotten
        ("x y z x y z x, y", ["x y z x y z x ,", "y"]),
        ("x y z x y z x y, a b", ["x y z x y z x y", ", a b"]),
        (
            "x y z x y z x y, a red cat in the tree of dog",
            ["x y z x y z x y", ", a red cat in the tree of", "dog"],
        ),
        # a comma that BREAK put in front is remembered
        ("x BREAK, a red cat in the tree of dog", ["x", ",", "a red cat in the tree of dog"]),
        # BREAK ends chunks, also empty ones, but a full one only once and none at the end
        ("a cat BREAK a dog", ["a cat", "a dog"]),
        ("x y z x y z x y BREAK a", ["x y z x y z x y", "a"]),
        ("x y z x y z x y BREAK", ["x y z x y z x y"]),
        ("BREAK a", ["", "a"]),
        ("a BREAK BREAK b", ["a", "", "b"]),
        ("BREAK", [""]),
        ("x, y BREAK z x y z x y z x y", ["x , y", "z x y z x y z x", "y"]),
        # bytes of a letter without a token of its own
        ("(红:1.2) 苹果 é", ["çº¢*1.2 èĭ¹æŀľ Ã©"]),
    ],
)
def test_token_by_token(text: str, expected: list[str]) -> None:
    assert read(text) == expected


@pytest.mark.parametrize(
    ("comma", "sizes"),
    [
        (None, [75, 5]),
        (53, [75, 5]),
        (54, [75, 5]),
        (55, [56, 24]),  # 20 tokens from the end, the comma counted: the farthest that is seen
        (60, [61, 19]),
        (73, [74, 6]),
        (74, [75, 5]),
        (75, [75, 5]),
        (76, [75, 5]),
    ],
)
def test_the_reach_of_a_comma_in_a_real_chunk(comma: int | None, sizes: list[int]) -> None:
    words = ["word"] * 80
    if comma is not None:
        words[comma] = ","
    found = chunks(parse(" ".join(words)), LONG)
    assert [len(chunk.ids) for chunk in found] == sizes
    assert [token for chunk in found for token in chunk.ids] == [LONG.vocab[word + "</w>"] for word in words]


def test_long_prompts_keep_every_token_and_weight() -> None:
    text = ", ".join(f"({'red ' * (i % 7)}cat:{1 + i / 100:.2f})" for i in range(100))
    prompt = parse(text)
    found = chunks(prompt, LONG)
    assert len(found) > 4
    expected = [(token, piece.weight) for piece in prompt.sections[0] for token in LONG.ids(piece.text)]
    pairs = [pair for chunk in found for pair in zip(chunk.ids, chunk.weights, strict=True)]
    assert pairs == expected
    # every cut is at a comma, for none is farther than 20 tokens
    comma = LONG.vocab[",</w>"]
    assert all(comma in (one.ids[-1], other.ids[0]) for one, other in itertools.pairwise(found))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["x", "cat", ",", "BREAK", "(", ")", ":1.5)"]), max_size=60))
def test_no_token_is_lost(words: list[str]) -> None:
    prompt = parse(" ".join(words))
    found = chunks(prompt, SHORT)
    tokens = [token for chunk in found for token in chunk.ids]
    assert tokens == [n for section in prompt.sections for piece in section for n in SHORT.ids(piece.text)]
    assert len(found) >= max(1, len(prompt.sections) - 1)
    assert all(len(chunk.ids) <= 8 for chunk in found)


def test_the_empty_prompt_is_one_empty_chunk() -> None:
    assert chunks(parse(""), LONG) == [Chunk((), ())]
