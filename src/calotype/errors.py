"""One exception tree, importable from every room.

Every message is one sentence that names the file, field or key at fault, says what was
expected, and what to do.  The faces (command line, HTTP) print it and nothing else.
"""

import re

_HALVES = re.compile("[\ud800-\udfff]")


def printable(text: str) -> str:
    """Text of a file, or a file's name, for a terminal: what would move its cursor, ring, or turn the
    direction of writing stands there as its escape.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def is_text(text: str) -> bool:
    """Whether it can be written at all: JSON and arguments can hold halves of surrogate pairs."""
    return text.isascii() or not _HALVES.search(text)


def shown(text: object) -> str:
    """Text of a file within a message: quoted, on one line, at most 80 characters of it."""
    text = str(text)
    return repr(text if len(text) <= 80 else text[:77] + "...")


class CalotypeError(Exception):
    """Root of everything Calotype raises on purpose; the command line exits with `exit_code`."""

    exit_code = 1

    def __str__(self) -> str:
        return printable(super().__str__())


class InputError(CalotypeError):
    """An argument, option or request field is wrong."""

    exit_code = 2


class BlockedPromptError(InputError):
    """A prompt holds a word that the owner's block list refuses."""


class DataError(CalotypeError):
    """A data set, picture or caption cannot be used."""


class FetchError(CalotypeError):
    """Something the user asked to fetch cannot be had."""


class CheckpointError(CalotypeError):
    """A weights file cannot be read, or does not fit the model."""


class OutputError(CalotypeError):
    """A result cannot be written where it was asked for."""


class TrainingError(CalotypeError):
    """A training run cannot start, resume or go on."""
