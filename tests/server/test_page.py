"""The page in headless Chromium: drawing, cancelling, history, settings back, two languages, a phone."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.server.conftest import TOKEN, Live

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PAGE = Path(__file__).parents[2] / "src/calotype/server/page"
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
LABELS = """() => [...document.querySelectorAll('input, select, textarea, button, a')]
    .filter(node => node.checkVisibility() || node.id === 'file')
    .filter(node => !(node.labels?.length && node.labels[0].textContent.trim())
        && !node.textContent.trim() && !node.getAttribute('aria-label') && !node.querySelector('img[alt]'))
    .map(node => node.outerHTML)"""


def test_the_page_asks_nothing_from_afar() -> None:
    for path in PAGE.iterdir():
        found = re.findall(r"(?:https?:)?//[\w.]+\.\w+", path.read_text(encoding="utf-8"))
        assert set(found) <= {"http://www.w3.org"}, path  # SVG's own name, which nothing fetches


def test_both_languages_have_every_word() -> None:
    words = (PAGE / "words.js").read_text(encoding="utf-8")
    english, chinese = words.split("  zh: {")
    names = [set(re.findall(r"(?:^|,)\s*(\w+): \"", part, re.MULTILINE)) for part in (english, chinese)]
    assert names[0] == names[1]
    used = (PAGE / "index.html").read_text(encoding="utf-8") + (PAGE / "page.js").read_text(encoding="utf-8")
    for name in re.findall(r"(?:data-(?:word|hint|label)=|word\()\"(\w+)\"", used):
        assert name in names[0]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("there is no Chromium here; apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


def opened(browser: Browser, address: str, **options: Any) -> tuple[Page, list[str]]:
    """The page, and everything it should not do: errors, and requests that leave the machine."""
    page = browser.new_page(**options)
    wrong: list[str] = []
    page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request",
        lambda asked: None if asked.url.startswith((address, "data:", "blob:")) else wrong.append(asked.url),
    )
    page.goto(address)
    page.wait_for_selector("#steps-now:not(:empty)")
    return page, wrong


def draw(page: Page, prompt: str, **fields: object) -> None:
    for name, value in {"prompt": prompt, **fields}.items():
        page.fill(f"#{name}", str(value))
    page.keyboard.press("Control+Enter")


def idle(page: Page) -> None:
    from playwright.sync_api import expect

    # not wait_for_function, which needs eval, and the page's policy forbids that
    expect(page.locator("#cancel")).to_be_disabled(timeout=60_000)


@pytest.mark.verify
def test_a_visit(live: Live, browser: Browser, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    page, wrong = opened(browser, live.address, locale="en-US", viewport={"width": 1200, "height": 900})
    assert page.evaluate(LABELS) == []
    draw(page, "a red apple", count=2, seed=7)
    page.wait_for_selector("#fresh li:nth-child(2)")
    idle(page)
    assert page.text_content("#state") == "Done"
    page.screenshot(path=tmp_path / "done.png")

    draw(page, "a green car", count=1, steps=50, width=256, height=256)
    page.wait_for_selector("#preview[src^='data:image/jpeg']")
    page.click("#prompt")
    page.keyboard.press("Escape")
    idle(page)
    assert page.text_content("#state") == "Cancelled"

    page.reload()  # history is the server's, not the page's
    page.wait_for_selector("#gallery li:nth-child(2)")
    page.click("#gallery li:first-child button")
    first = page.text_content("#viewer-facts")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#viewer-facts")).not_to_have_text(str(first))
    assert page.evaluate(LABELS) == []
    assert "seed 7" in str(page.text_content("#viewer-facts"))
    with page.expect_download() as download:
        page.click("#save")
    kept = tmp_path / "kept.png"
    download.value.save_as(kept)
    page.keyboard.press("Escape")

    page.fill("#prompt", "something else")
    page.fill("#seed", "")
    page.set_input_files("#file", kept)
    expect(page.locator("#prompt")).to_have_value("a red apple")
    assert page.input_value("#seed") == "7"
    page.fill("#seed", "99999999999999999999999")
    page.click("#go")
    expect(page.locator("#problem")).to_contain_text("seed is")
    assert [text for text in wrong if "422" not in text] == []
    page.close()


@pytest.mark.verify
def test_a_telephone_in_chinese(live: Live, browser: Browser, tmp_path: Path) -> None:
    page, wrong = opened(browser, live.address, locale="zh-CN", viewport={"width": 375, "height": 740})
    assert page.text_content("#go span") == "开始画"
    assert page.get_attribute("html", "lang") == "zh-CN"
    draw(page, "一个红苹果", count=1)
    page.wait_for_selector("#fresh li")
    idle(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    assert page.evaluate(LABELS) == []
    page.screenshot(path=tmp_path / "phone.png", full_page=True)
    page.click("#language")
    assert page.text_content("#go span") == "Draw"
    assert wrong == []
    page.close()


@pytest.mark.verify
def test_the_door(small: Live, browser: Browser) -> None:
    page = browser.new_page(locale="en-US")
    page.goto(small.address)
    page.fill("#token", TOKEN)
    page.keyboard.press("Enter")
    page.wait_for_selector("#steps-now:not(:empty)")
    draw(page, "a red apple")
    page.wait_for_selector("#fresh li img[src^='blob:']")
    idle(page)
    page.close()
