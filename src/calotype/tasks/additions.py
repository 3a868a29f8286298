"""LoRAs and textual inversions as a request names them: parsed, found, told apart by their hashes."""

from __future__ import annotations

import difflib
import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, model_validator

from calotype.checkpoints import collection, embedding
from calotype.conditioning.prompt import Prompt
from calotype.errors import InputError

UNWANTED = "()[]\\:|"
"""Characters of a word that the prompt syntax reads otherwise."""


class LoraUse(BaseModel):
    """A LoRA for all pictures; a text "FILE[:weight]" is read as one.

    file    a path, or the name of a file in the models folder
    weight  how strongly; 0 changes nothing, and keeps the file at hand for a prompt that names it
    sha256  of the file; filled in where it is None, else the file must have it
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    weight: float = 1.0
    sha256: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _parsed(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        file, colon, weight = value.rpartition(":")
        if colon and not Path(value).expanduser().exists():
            number = _number(weight)
            if number is not None:
                return {"file": file, "weight": number}
        return {"file": value}

    @model_validator(mode="after")
    def _check(self) -> LoraUse:
        if not self.file.strip():
            raise InputError("A LoRA has no file; give it as FILE or FILE:weight.")
        if not math.isfinite(self.weight):
            raise InputError(f"The LoRA {self.file} has the weight {self.weight}; give a number, say 0.8.")
        return self

    @property
    def name(self) -> str:
        """As a prompt says it in <lora:name:0.8>."""
        return Path(self.file).stem


class EmbeddingUse(BaseModel):
    """A textual inversion; a text "FILE[:word]" is read as one.

    word    what a prompt says for it; None for the file's own word or its name
    sha256  as in `LoraUse`
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    word: str | None = None
    sha256: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _parsed(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        file, colon, word = value.rpartition(":")
        if colon and file and not set("/\\") & set(word) and not Path(value).expanduser().exists():
            return {"file": file, "word": word}
        return {"file": value}

    @model_validator(mode="after")
    def _check(self) -> EmbeddingUse:
        if not self.file.strip():
            raise InputError("A textual inversion has no file; give it as FILE or FILE:word.")
        if self.word is not None and (not self.word.strip() or set(UNWANTED) & set(self.word)):
            raise InputError(
                f"The textual inversion {self.file} cannot be called {self.word!r} in a prompt; "
                f"give it a word without {' '.join(UNWANTED)} as FILE:word."
            )
        return self


def located_loras(given: Sequence[LoraUse], prompts: Sequence[Prompt]) -> tuple[LoraUse, ...]:
    """The LoRAs given and, with weight 0, those that only prompts name; each found and hashed.

    Raises InputError where one is not found, or is not the file whose hash is asked for.
    """
    found = [_located(use, (".safetensors",)) for use in given]
    for prompt in prompts:
        for lora in prompt.loras:
            same = {use.file for use in found if use.name == lora.name}
            if len(same) > 1:
                raise InputError(
                    f"The prompt's <lora:{lora.name}> may be {' or '.join(sorted(same))}; rename one of them."
                )
            if not same:
                near = difflib.get_close_matches(lora.name, [use.name for use in found], n=1, cutoff=0.6)
                said = f"The prompt asks for the LoRA {lora.name!r}"
                if near and collection.models_folder() is None:
                    raise InputError(f"{said}, which is not given; did you mean {near[0]!r}?")
                path = _in_folder(lora.name, said, (".safetensors",))
                found.append(_located(LoraUse(file=str(path), weight=0.0), (".safetensors",)))
    return tuple(found)


def used_loras(located: Sequence[LoraUse], prompt: Prompt | None) -> tuple[LoraUse, ...]:
    """What works on one prompt's pictures: a LoRA that the prompt names has the prompt's weight."""
    if prompt is None or not prompt.loras:
        return tuple(use for use in located if use.weight != 0)
    named = {lora.name for lora in prompt.loras}
    others = [use for use in located if use.name not in named and use.weight != 0]
    by_name = {use.name: use for use in located}
    return (
        *others,
        *(by_name[lora.name].model_copy(update={"weight": lora.weight}) for lora in prompt.loras),
    )


def located_embeddings(given: Sequence[EmbeddingUse]) -> tuple[EmbeddingUse, ...]:
    """The textual inversions, found, hashed and with their words.

    Raises InputError as `located_loras` does, or where two have one word; CheckpointError for what is none.
    """
    found = []
    for use in given:
        there = _located(use, (".safetensors", ".pt", ".bin"))
        if there.word is None:
            there = EmbeddingUse(**{**dict(there), "word": embedding.word_of(Path(there.file).expanduser())})
        found.append(there)
    words = [" ".join((use.word or "").lower().split()) for use in found]
    for i, word in enumerate(words):
        if word in words[:i]:
            raise InputError(
                f"{found[words.index(word)].file} and {found[i].file} both stand for the word {word!r}; "
                "give one another as FILE:word."
            )
    return tuple(found)


U = TypeVar("U", LoraUse, EmbeddingUse)


def _located(use: U, suffixes: tuple[str, ...]) -> U:
    """The same with a file that is there, and its hash."""
    path = Path(use.file).expanduser()
    file = use.file
    if not path.is_file():
        path = _in_folder(path.name, f"There is no file {use.file}", suffixes)
        file = str(path)
    told = sha256(path)
    if use.sha256 is not None and use.sha256 != told:
        raise InputError(
            f"{path} is another file than the one asked for (SHA-256 {told[:12]}, not {use.sha256[:12]}); "
            "put the old one back."
        )
    return use.model_copy(update={"file": file, "sha256": told})


def _in_folder(name: str, said: str, suffixes: tuple[str, ...]) -> Path:
    folder = collection.models_folder()
    if folder is None:
        raise InputError(f"{said}; give its file, or name the folder with it in {collection.VARIABLE}.")
    return collection.find(name, folder, suffixes)


def sha256(path: Path) -> str:
    """Of a file's bytes; InputError where it cannot be read."""
    try:
        state = path.stat()
        return _sha256(path, state.st_mtime_ns, state.st_size)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check its permissions.") from None


@lru_cache(maxsize=64)
def _sha256(path: Path, _changed: int, _size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
