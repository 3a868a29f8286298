"""The Python of docs/how-it-works.md runs from top to bottom, asserts and all; its figures are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).parent.parent / "docs"
PAGES = ("how-it-works.md", "how-it-works.zh-CN.md")


def blocks(page: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def test_every_formula_holds() -> None:
    code = "\n".join(blocks(PAGES[0]))
    assert code.count("assert ") >= 15
    torch.manual_seed(0)
    exec(compile(code, PAGES[0], "exec"), {"__name__": "how_it_works"})


def test_the_chinese_page_has_the_same_code_and_pictures() -> None:
    def bare(page: str) -> list[str]:
        return [re.sub(r" *#.*", "", block) for block in blocks(page)]

    assert bare(PAGES[1]) == bare(PAGES[0])

    def pictures(page: str) -> list[str]:
        return re.findall(r"\]\((figures/[^)]+)\)", (DOCS / page).read_text(encoding="utf-8"))

    assert pictures(PAGES[0]) == pictures(PAGES[1])


@pytest.mark.parametrize("page", [path.name for path in sorted(DOCS.glob("*.md"))])
def test_links_and_pictures_exist(page: str) -> None:
    text = re.sub(
        r"^```.*?^```", "", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert [link for link in links if not (DOCS / link).exists()] == []
