"""The page in headless Chromium: drawing, cancelling, history, settings back, two languages, a phone."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
import pytest
from tests.server.conftest import TOKEN, Live

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PAGE = Path(__file__).parents[2] / "src/calotype/server/page"
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
LABELS = """() => [...document.querySelectorAll('input, select, textarea, button, a, canvas, progress')]
    .filter(node => node.checkVisibility() || node.className === 'file')
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
        pytest.skip("the page was NOT tested, for there is no Chromium; run: apt-get install chromium")
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
    page.click("#gallery li:first-child button")
    page.wait_for_selector("#viewer-facts:not(:empty)")
    page.screenshot(path=tmp_path / "viewer.png")
    for button in page.locator("#viewer .actions > *").all():
        box = button.bounding_box()
        assert box is not None
        assert box["height"] < 48  # its words are on one line
    page.click("#close")
    assert page.text_content("#state") == "完成"
    page.click("#language")
    assert page.text_content("#go span") == "Draw"
    assert page.text_content("#state") == "Done"
    assert wrong == []
    page.close()


@pytest.mark.verify
def test_the_door(small: Live, browser: Browser) -> None:
    page = browser.new_page(locale="en-US")
    page.goto(small.address)
    page.fill("#token", "another-token-than-theirs")
    page.keyboard.press("Enter")
    page.wait_for_selector("#door-problem:text-is('That is not its token.')")
    page.fill("#token", TOKEN)
    page.keyboard.press("Enter")
    page.wait_for_selector("#steps-now:not(:empty)")
    draw(page, "a red apple")
    page.wait_for_selector("#fresh li img[src^='blob:']")
    idle(page)
    page.close()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A calm picture with noise of 25."""
    rng = np.random.default_rng(0)
    calm = PIL.Image.fromarray(rng.integers(60, 200, (3, 4, 3), dtype=np.uint8)).resize((64, 48))
    noisy = np.asarray(calm, dtype=np.float32) + rng.normal(0, 25, (48, 64, 3))
    path = tmp_path / "photo.png"
    PIL.Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path)
    return path


def began(page: Page, task: str, picture: Path) -> None:
    from playwright.sync_api import expect

    page.select_option("#task", task)
    page.set_input_files("#image", picture)
    expect(page.locator("#chosen")).to_contain_text("64×48", timeout=60_000)


def newest(live: Live) -> dict[str, Any]:
    with live.client() as http:
        job: dict[str, Any] = http.get("/v1/jobs", params={"limit": 1}).json()["jobs"][0]
    return job


@pytest.mark.verify
def test_a_picture_is_changed(live: Live, browser: Browser, photo: Path, tmp_path: Path) -> None:
    """With a mask painted by mouse and by keys, and without one."""
    page, wrong = opened(browser, live.address, locale="en-US", viewport={"width": 1200, "height": 1000})
    page.select_option("#task", "edit")
    page.fill("#prompt", "a red apple")
    page.click("#go")
    assert page.text_content("#problem") == "Choose a picture first."
    began(page, "edit", photo)
    assert (page.input_value("#width"), page.input_value("#height")) == ("64", "48")
    assert page.evaluate(LABELS) == []
    page.locator("#mask").scroll_into_view_if_needed()
    box = page.locator("#mask").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 10, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 3, box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    assert page.is_enabled("#undo")
    page.click("#undo")
    assert page.is_disabled("#undo")
    page.focus("#mask")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Space")  # a dot left of the middle
    page.screenshot(path=tmp_path / "mask.png")
    page.click("#go")
    page.wait_for_selector("#fresh li")
    idle(page)
    job = newest(live)
    assert job["state"] == "done"
    assert job["request"]["mask"]["sha256"]
    assert job["request"]["strength"] == 1  # what is painted over is drawn wholly anew
    with live.client() as http:
        drawn = PIL.Image.open(io.BytesIO(http.get(job["pictures"][0]["url"]).content)).convert("RGB")
    with PIL.Image.open(photo) as noisy:
        before, after = np.asarray(noisy), np.asarray(drawn)
    assert np.array_equal(before[:, 48:], after[:, 48:])  # not painted
    assert not np.array_equal(before[20:28, 20:28], after[20:28, 20:28])
    page.click("#clear")
    page.click("#go")
    page.wait_for_selector("#fresh li")
    idle(page)
    assert newest(live)["request"]["mask"] is None
    assert newest(live)["request"]["strength"] == 0.75
    assert wrong == []
    page.close()


@pytest.mark.verify
def test_a_finger_paints(live: Live, browser: Browser, photo: Path) -> None:
    page, wrong = opened(browser, live.address, viewport={"width": 375, "height": 740}, has_touch=True)
    began(page, "edit", photo)
    page.tap("#mask")
    assert page.is_enabled("#clear")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    assert wrong == []
    page.close()


@pytest.mark.verify
@pytest.mark.parametrize("task", ["denoise", "upscale", "inpaint", "deblur"])
def test_a_photograph_is_restored(
    live: Live, browser: Browser, photo: Path, tmp_path: Path, task: str
) -> None:
    from playwright.sync_api import expect

    page, wrong = opened(browser, live.address, locale="en-US", viewport={"width": 1200, "height": 1000})
    began(page, task, photo)
    page.fill("#samples", "2")
    page.fill("#passes", "2")
    page.fill("#seed", "5")
    if task == "inpaint":
        page.click("#go")
        assert page.text_content("#problem") == "Paint what is missing first."
        page.focus("#mask")
        page.keyboard.press("Space")  # a dot in the middle
    if task == "deblur":
        page.fill("#blur", "1.2")
    assert page.evaluate(LABELS) == []
    page.click("#go")
    expect(page.locator("#compare")).to_be_visible(timeout=60_000)
    idle(page)
    expect(page.locator("#map")).to_be_visible()
    assert page.locator("#fresh li").count() == 4
    page.focus("#edge")
    page.keyboard.press("Home")  # all of it is the picture after
    expect(page.locator("#became")).to_have_css("clip-path", "inset(0px 0px 0px 0%)")
    page.screenshot(path=tmp_path / "restored.png")
    job = newest(live)
    assert (job["state"], job["request"]["task"]) == ("done", task)
    with live.client() as http:
        data = http.get(job["pictures"][0]["url"]).content
    found = tmp_path / "found.png"
    found.write_bytes(data)
    with PIL.Image.open(found) as restored:
        assert restored.size == ((128, 96) if task == "upscale" else (64, 48))
        if task == "inpaint":
            with PIL.Image.open(photo) as before:
                whole, mended = np.asarray(before), np.asarray(restored.convert("RGB"))
            assert np.array_equal(whole[:, :16], mended[:, :16])  # not painted
            assert not np.array_equal(whole[20:28, 28:36], mended[20:28, 28:36])
    assert job["request"]["blur"] == (1.2 if task == "deblur" else None)
    if task == "deblur":
        page.fill("#blur", "3")
    page.select_option("#task", "draw")
    page.set_input_files("#file", found)  # its settings come back
    expect(page.locator("#task")).to_have_value(task)
    assert (page.input_value("#seed"), page.input_value("#passes")) == ("5", "2")
    assert page.input_value("#blur") == ("1.2" if task == "deblur" else "1.5")
    page.click("#gallery li:first-child button")
    assert "where the samples differ" in str(page.text_content("#viewer-facts"))
    assert wrong == []
    page.close()


CONTRAST = """() => {
    const light = text => {
        const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map(v => v / 255)
            .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = node => {
        for (; node; node = node.parentElement) {
            const colour = getComputedStyle(node).backgroundColor;
            if (!/, 0\\)$|transparent/.test(colour)) return colour;
        }
        return 'rgb(255, 255, 255)';
    };
    return [...document.querySelectorAll('label, h1, h2, p, button, input, select, textarea, span, output')]
        .filter(node => node.checkVisibility() && !node.disabled && (node.textContent.trim() || node.value))
        .map(node => {
            const [a, b] = [getComputedStyle(node).color, ground(node)].map(light).sort((a, b) => b - a);
            return [(a + 0.05) / (b + 0.05), node.outerHTML.slice(0, 80)];
        }).filter(([ratio]) => ratio < 4.5);
}"""


@pytest.mark.verify
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(live: Live, browser: Browser, photo: Path, scheme: Any) -> None:
    """WCAG's AA: 4.5 to 1 for text, in every mode."""
    page, _ = opened(browser, live.address, color_scheme=scheme)
    for task in ("draw", "edit", "denoise", "inpaint", "deblur"):
        if task == "draw":
            page.select_option("#task", task)
        else:
            began(page, task, photo)
        assert page.evaluate(CONTRAST) == []
    page.close()
