"""Every `calotype …` that a page tells people to type is one that the command line takes, options and all."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from calotype.cli.main import app

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("recipes/*/*.md")])
COMMANDS = typer.main.get_command(app)
FENCED = re.compile(r"^```[a-z]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r"^    (calotype .*)$", re.MULTILINE)
INLINE = re.compile(r"`(calotype [^`]+)`")


def written(text: str) -> Iterator[tuple[str, bool]]:
    """The commands of a page, and whether each is whole; running text names some without their arguments."""
    text = text.replace("\\\n", " ")
    fenced = "\n".join(FENCED.findall(text))
    for line in [*re.findall(r"^(calotype .*)$", fenced, re.MULTILINE), *INDENTED.findall(text)]:
        yield line, True
    for line in INLINE.findall(FENCED.sub("", text)):
        yield line, False


def refused(line: str, whole: bool) -> str | None:
    """What the command line says against it; None where it would begin to work."""
    words = [word for word in shlex.split(line, comments=True)[1:] if word not in ("--help", "…")]
    command, name = COMMANDS, "calotype"
    while words and hasattr(command, "commands"):
        name = words.pop(0)
        if name == "plan":  # stands before another command
            continue
        if name not in command.commands:
            return f"{line}: there is no command {name}"
        command = command.commands[name]
    if hasattr(command, "commands"):
        return f"{line}: which of its commands?" if whole else None
    try:
        command.make_context(name, words)
    except typer.TyperException as error:
        if whole or not error.format_message().startswith("Missing"):
            return f"{line}: {error.format_message()}"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_command_line_takes_what_the_pages_write(page: Path) -> None:
    found = [refused(line, whole) for line, whole in written(page.read_text(encoding="utf-8"))]
    assert [sentence for sentence in found if sentence is not None] == []


def test_a_wrong_command_would_be_seen() -> None:
    fence = "```sh\ncalotype replay\ncalotype generate x \\\n  --sampel euler\n```"
    page = f"`calotype replay`\n{fence}\nor `calotype paint`"
    said = [refused(line, whole) for line, whole in written(page)]
    assert [bool(sentence) for sentence in said] == [True, True, False, True]
