"""CLIP's byte-pair tokenizer: the same rules for OpenAI's vocabulary and for one of our own.

Rules (Radford et al. 2021, `simple_tokenizer.py`): NFC, runs of white space to one blank, lower case;
split into words by CLIP's pattern; every byte of a word is a printable letter; the last letter of a word
carries `</w>`; pairs are merged in the order of `merges`.  A text becomes START, its tokens, END, padding.
"""

from __future__ import annotations

import copy
import gzip
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as FastTokenizer

from calotype.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
MOST_TOKENS, LONGEST_CONTEXT = 2**20, 2**14
TEXT_LIMIT = 16 * 2**20  # bytes of a vocabulary or its merges; CLIP's have 1 MB
PATTERN = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def byte_letters() -> list[str]:
    """The 256 letters that stand for the bytes, in the order of CLIP's vocabulary (GPT-2's table)."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


def clip_vocabulary(merges: Sequence[str]) -> dict[str, int]:
    """The vocabulary that belongs to merges in CLIP's layout: the byte letters, the same ending a word, one
    entry per merge, START, END.
    """
    letters = byte_letters()
    tokens = [*letters, *(letter + WORD_END for letter in letters)]
    tokens += [merge.replace(" ", "") for merge in merges]
    tokens += [START, END]
    # Two pairs can merge into one string ("a b" + "c", "a" + "b c"): the entry is then shared.
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}


def clip_merges() -> list[str]:
    """OpenAI's 48,894 merges, from the file in the package."""
    packed = (Path(__file__).parent / "clip_merges.txt.gz").read_bytes()
    return gzip.decompress(packed).decode().split("\n")[:-1]


def read_clip_files(folder: Path) -> tuple[dict[str, int], list[str]]:
    """Vocabulary and merges of CLIP's `vocab.json` and `merges.txt`; CheckpointError if unreadable."""
    try:
        vocab: Any = json.loads(_read_text(folder / "vocab.json"))
        lines = _read_text(folder / "merges.txt").split("\n")
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{folder} holds no readable tokenizer ({error}); it needs vocab.json and merges.txt."
        ) from None
    return vocab, [line for line in lines if line and not line.startswith("#version")]


def _read_text(path: Path) -> str:
    if path.exists() and not path.is_file():  # to open a pipe is to wait for its writer
        raise ValueError(f"{path.name} is no file")
    with path.open("rb") as file:
        raw = file.read(TEXT_LIMIT + 1)
    if len(raw) > TEXT_LIMIT:
        raise ValueError(f"{path.name} has more than {TEXT_LIMIT} bytes")
    return raw.decode()


def _pipeline(model: models.BPE) -> FastTokenizer:
    fast = FastTokenizer(model)
    fast.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    fast.decoder = decoders.ByteLevel()
    return fast


class Tokenizer:
    """Texts to token numbers.  Make one with `clip`, `from_vocab`, `from_clip_files` or `train`."""

    def __init__(self, vocab: dict[str, int], merges: Sequence[str], context_length: int) -> None:
        _check(vocab, merges, context_length)
        for special in (START, END):
            if special not in vocab:
                raise CheckpointError(
                    f"The tokenizer's vocabulary lacks {special!r}; use a vocabulary in CLIP's layout."
                )
        self.vocab = dict(vocab)
        self.merges = list(merges)
        self.context_length = context_length
        self.start, self.end = vocab[START], vocab[END]
        self._words: dict[str, tuple[int, ...]] = {}
        try:
            model = models.BPE(
                vocab=self.vocab,
                merges=[_pair(merge) for merge in self.merges],
                continuing_subword_prefix="",
                end_of_word_suffix=WORD_END,
                fuse_unk=False,
                unk_token=END,
            )
        except Exception:  # the Rust side raises bare Exception; what it quotes may be of any file, by a link
            raise CheckpointError(
                "The tokenizer's merges do not fit its vocabulary; take both from one model."
            ) from None
        self._fast = _pipeline(model)
        self._fast.add_special_tokens([START, END])
        self._fast.post_processor = processors.RobertaProcessing(
            (END, self.end), (START, self.start), trim_offsets=False, add_prefix_space=False
        )

    @classmethod
    def from_vocab(cls, vocab: dict[str, int], merges: Sequence[str], context_length: int = 77) -> Tokenizer:
        """From a vocabulary (token -> number) and merges ("left right", first merged first).

        Raises CheckpointError where the two do not fit each other.
        """
        return cls(vocab, merges, context_length)

    @classmethod
    def clip(cls) -> Tokenizer:
        """OpenAI's: 49,408 entries, 77 tokens a text, of every Stable Diffusion from 1 to XL."""
        merges = clip_merges()
        return cls(clip_vocabulary(merges), merges, 77)

    @classmethod
    def from_clip_files(cls, folder: str | Path, context_length: int = 77) -> Tokenizer:
        """From a folder with CLIP's `vocab.json` and `merges.txt`; CheckpointError if they are unreadable."""
        return cls(*read_clip_files(Path(folder)), context_length)

    def save_clip_files(self, folder: str | Path) -> None:
        """Write `vocab.json` and `merges.txt` in CLIP's layout into an existing folder."""
        folder = Path(folder)
        vocab = json.dumps(self.vocab, ensure_ascii=False, separators=(",", ":"))
        (folder / "vocab.json").write_text(vocab + "\n", encoding="utf-8")
        merges = "\n".join(["#version: 0.2", *self.merges]) + "\n"
        (folder / "merges.txt").write_text(merges, encoding="utf-8")

    @classmethod
    def train(cls, texts: Iterable[str], size: int = 8192, context_length: int = 32) -> Tokenizer:
        """Learn merges from texts; at most `size` entries in all, fewer where the texts run out of pairs.

        The vocabulary is laid out as CLIP's: 256 byte letters, the same with `</w>`, one entry per merge,
        START, END; so any text in any script has tokens.  The same texts in the same order give the same
        vocabulary.
        """
        letters = byte_letters()
        room = size - 2 * len(letters) - 2
        if room < 0:
            raise ValueError(f"size {size} is too small: the letters and specials alone take {size - room}")
        fast = _pipeline(models.BPE(end_of_word_suffix=WORD_END))
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            show_progress=False,
            initial_alphabet=letters,
            # Ties are broken by number, and letters first met in the texts get theirs in hash order, which
            # differs from run to run; so every word-ending letter gets its number here.
            special_tokens=[letter + WORD_END for letter in letters],
            end_of_word_suffix=WORD_END,
        )
        fast.train_from_iterator(texts, trainer)
        learned = json.loads(fast.to_str())["model"]["merges"]
        merges = [" ".join(pair) for pair in learned[:room]]
        return cls(clip_vocabulary(merges), merges, context_length)

    def __len__(self) -> int:
        return len(self.vocab)

    def taught(self, words: Mapping[str, tuple[int, ...]]) -> Tokenizer:
        """The same tokenizer that reads these words, whole and in any case, as these numbers."""
        twin = copy.copy(self)
        twin._words = {_plain(word): ids for word, ids in words.items()}
        return twin

    def units(self, text: str) -> list[tuple[int, ...]]:
        """The text's tokens, however many, no START, END or padding; those of a taught word together."""
        return [unit for unit, _ in self._placed(text)]

    def ids(self, text: str) -> list[int]:
        """The same, one by one."""
        return [number for unit in self.units(text) for number in unit]

    def _placed(self, text: str) -> Iterator[tuple[tuple[int, ...], int]]:
        """Units, and where in the text each begins."""
        done = 0
        for match in _words_pattern(self._words).finditer(text) if self._words else ():
            yield from self._learned(text[done : match.start()], done)
            yield self._words[_plain(match.group())], match.start()
            done = match.end()
        yield from self._learned(text[done:], done)

    def _learned(self, text: str, start: int) -> Iterator[tuple[tuple[int, ...], int]]:
        encoding = self._fast.encode(text, add_special_tokens=False)
        for number, (first, _) in zip(encoding.ids, encoding.offsets, strict=True):
            yield (number,), start + first

    def encode(self, texts: Sequence[str], pad: int | None = None) -> Tensor:
        """(B L) int64, L = context_length: START, the text's tokens, END, then `pad` (END unless given).

        A text too long for L is cut, END kept; `dropped` says what was lost.
        """
        import torch

        if self._words:
            found = [self.ids(text) for text in texts]
        else:
            batch = self._fast.encode_batch(list(texts), add_special_tokens=False)
            found = [encoding.ids for encoding in batch]
        rows = [self.row(ids, pad) for ids in found]
        return torch.tensor(rows, dtype=torch.long).reshape(len(rows), self.context_length)

    def row(self, ids: Sequence[int], pad: int | None = None) -> list[int]:
        """START, the ids as far as there is room, END, `pad` (END unless given): context_length in all."""
        row = [self.start, *ids[: self.context_length - 2], self.end]
        return row + [self.end if pad is None else pad] * (self.context_length - len(row))

    def dropped(self, text: str) -> str:
        """The end of the text for which `encode` has no room; empty when all of it fits."""
        used = 0
        for unit, start in self._placed(text):
            used += len(unit)
            if used > self.context_length - 2:
                # Offsets are in the text as it was written; a word cut in two is named whole.
                while start > 0 and not text[start - 1].isspace():
                    start -= 1
                return text[start:].strip()
        return ""


def _check(vocab: object, merges: object, context_length: object) -> None:
    """CheckpointError where what a file holds for a tokenizer is not of the types that one is made of."""
    fine = (
        isinstance(vocab, dict)
        and all(isinstance(token, str) for token in vocab)
        and all(type(number) is int and 0 <= number < MOST_TOKENS for number in vocab.values())
        and isinstance(merges, list | tuple)
        and all(isinstance(merge, str) for merge in merges)
        and type(context_length) is int
        and 3 <= context_length <= LONGEST_CONTEXT
    )
    if not fine:
        raise CheckpointError(
            "The tokenizer should hold tokens with their numbers, merges as texts and a context length of 3 "
            f"to {LONGEST_CONTEXT}; it is damaged, so fetch it again."
        )


def _plain(word: str) -> str:
    return " ".join(word.lower().split())


def _words_pattern(words: Iterable[str]) -> re.Pattern[str]:
    """Each where no letter or digit goes on before or after it; of two that begin alike the longer first."""
    alternatives = []
    for word in sorted(words, key=len, reverse=True):
        before = r"(?<!\w)" if word[0].isalnum() else ""
        after = r"(?!\w)" if word[-1].isalnum() else ""
        alternatives.append(before + r"\s+".join(map(re.escape, word.split())) + after)
    return re.compile("|".join(alternatives), re.IGNORECASE)


def _pair(merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    return left, right
