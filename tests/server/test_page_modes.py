"""The page's further modes in Chromium: beyond the edges, larger, alike, add-ons, verdicts, keys alone."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import PIL.Image
import pytest
from tests.server.conftest import Live, run
from tests.server.stock import stock
from tests.server.test_page import CONTRAST, LABELS, began, browser, idle, newest, opened, photo

import calotype
from calotype.models.latent_diffusion import LatentDiffusion
from calotype.safety import content
from calotype.server.settings import Settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.verify
__all__ = ["browser", "photo"]  # fixtures of the other file


@pytest.fixture(scope="module")
def stocked(tiny_model: LatentDiffusion, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server with add-ons, whose content check flags every picture."""
    models, folder = stock(tmp_path_factory.mktemp("stock"), tiny_model)
    safety = calotype.Safety(content_check="report", threshold=0.4, watermark=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(content, "score", lambda _: 0.5)
        yield from run(
            Settings(tmp_path_factory.mktemp("data"), models, "tiny", threads=1, safety=safety, folder=folder)
        )


@pytest.fixture
def page(stocked: Live, browser: Browser) -> Iterator[Page]:
    page, wrong = opened(browser, stocked.address, locale="en-US", viewport={"width": 1200, "height": 1000})
    yield page
    assert page.evaluate(LABELS) == []
    assert page.evaluate(CONTRAST) == []
    assert wrong == []
    page.close()


def made(live: Live, page: Page) -> dict[str, Any]:
    """Presses the button, waits for the pictures, and says what the server was asked for."""
    before = live.desk.store.page(1)[0].number if live.desk.store.page(1) else 0
    page.click("#go")
    job: dict[str, Any] = {"number": 0, "state": "queued"}
    # the page still shows the job before while it submits
    while job["number"] <= before or job["state"] in ("queued", "running"):
        page.wait_for_timeout(50)
        job = newest(live) if live.desk.store.page(1) else job
    idle(page)
    assert job["state"] == "done", job["error"]
    return job


def size(live: Live, job: dict[str, Any], index: int = 0) -> tuple[int, int]:
    with live.client() as http:
        data = http.get(job["pictures"][index]["url"]).content
    with PIL.Image.open(io.BytesIO(data)) as image:
        return image.size


def test_beyond_the_edges(stocked: Live, page: Page, photo: Path) -> None:
    began(page, "outpaint", photo)
    page.fill("#prompt", "a red apple")
    page.fill("#left", "16")
    page.fill("#bottom", "8")
    assert not page.is_visible("#width")
    job = made(stocked, page)
    assert (job["request"]["margin"], size(stocked, job)) == ([16, 0, 0, 8], (80, 56))


def test_larger_and_alike(stocked: Live, page: Page) -> None:
    page.fill("#prompt", "a red apple")
    page.fill("#seed", "7")
    page.select_option("#hires", "2")
    job = made(stocked, page)
    assert (job["request"]["hires_from"], size(stocked, job)) == ([32, 32], (64, 64))
    page.click("#gallery li:first-child button")
    page.click("#variations")  # four at once, of the same size
    page.wait_for_selector("#fresh li:nth-child(4)")
    idle(page)
    job = newest(stocked)
    assert (job["request"]["vary"], job["request"]["seed"]) == (0.2, 7)
    assert job["request"]["hires_from"] == [32, 32]
    page.click("#gallery li:first-child button")
    assert not page.is_visible("#variations")  # of a variation there is none
    page.click("#again")
    again = made(stocked, page)
    assert again["request"]["vary_seed"] == job["request"]["vary_seed"] + 3
    page.select_option("#hires", "1")


def test_add_ons(stocked: Live, page: Page, photo: Path) -> None:
    page.fill("#prompt", "a red apple")
    page.click("#addons summary")
    page.select_option("#addon", index=1)
    assert page.input_value("#prompt") == "a red apple <lora:flat:1>"
    job = made(stocked, page)
    assert job["request"]["loras"][0]["file"] == "flat.safetensors"
    page.fill("#prompt", "a red apple")
    page.select_option("#model", "sd15")
    page.select_option("#control", "canny")
    page.click("#go")
    assert page.text_content("#problem") == "Choose a picture first."
    page.set_input_files("#control-image", photo)
    page.fill("#width", "24")
    page.fill("#height", "16")
    assert page.evaluate(LABELS) == []
    job = made(stocked, page)
    assert [control["net"] for control in job["request"]["controls"]] == ["canny.safetensors"]
    page.select_option("#control", "")


def test_verdicts_and_what_files_tell(stocked: Live, page: Page, photo: Path, tmp_path: Path) -> None:
    told = str(page.text_content("#guards"))
    assert told == "Pictures are flagged from content score 0.4 · pictures are marked invisibly"
    page.fill("#prompt", "a secret apple")
    made(stocked, page)
    said = "content check · flagged · score 0.5 of 0.4"
    assert page.text_content("#verdict") == said
    assert page.text_content("#fresh .mark") == "flagged"
    page.click("#gallery li:first-child button")
    assert page.text_content("#viewer-verdict") == said
    for name in ("save", "share"):
        with page.expect_download() as download:
            page.click(f"#{name}")
        kept = tmp_path / f"{name}.png"
        download.value.save_as(kept)
        assert (b"secret" in kept.read_bytes()) == (name == "save")
        with PIL.Image.open(kept) as image:
            assert json.loads(image.info["calotype"])["watermark"]
    page.keyboard.press("Escape")
    began(page, "denoise", photo)
    job = made(stocked, page)
    assert job["pictures"][0]["content"]["decision"] == "flagged"
    assert page.text_content("#verdict") == said
    page.click("#language")
    assert str(page.text_content("#guards")).startswith("内容得分达到 0.4")


def test_with_keys_alone(page: Page) -> None:
    """From the top of the page to a picture and into the viewer, never a mouse; focus is always seen."""
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        name, outline = page.evaluate(
            "[document.activeElement.id, getComputedStyle(document.activeElement).outlineStyle]"
        )
        seen.append(name)
        assert outline != "none" or name in ("file", "image", "control-image"), name
        if name == "prompt":
            page.keyboard.type("a red apple")
        if name == "go":
            break
    assert seen.index("language") < seen.index("task") < seen.index("prompt") < seen.index("go")
    page.keyboard.press("Enter")
    page.wait_for_selector("#fresh li")
    idle(page)
    page.locator("#gallery li:first-child button").focus()
    page.keyboard.press("Enter")
    assert page.is_visible("#viewer-facts")
    page.keyboard.press("Escape")
    assert not page.is_visible("#viewer-facts")


def test_history_after_a_restart(tiny_file: Path, browser: Browser, tmp_path: Path) -> None:
    settings = Settings(tmp_path / "data", {"tiny": tiny_file}, "tiny", threads=1)
    for live in run(settings):
        page, _ = opened(browser, live.address, locale="en-US")
        page.fill("#prompt", "a red apple")
        made(live, page)
        page.close()
    for live in run(settings):
        page, wrong = opened(browser, live.address, locale="en-US")
        page.click("#gallery li:first-child button")
        assert page.text_content("#viewer-prompt") == "a red apple"
        assert wrong == []
        page.close()


def test_a_telephone(stocked: Live, browser: Browser, photo: Path) -> None:
    page, wrong = opened(browser, stocked.address, locale="zh-CN", viewport={"width": 360, "height": 740})
    for task in ("draw", "edit", "outpaint", "denoise", "upscale", "inpaint", "deblur"):
        page.select_option("#task", task)
        if task != "draw":
            page.set_input_files("#image", photo)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, task
    assert wrong == []
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe(stocked: Live, browser: Browser, photo: Path, scheme: Any) -> None:
    """Deque's axe finds nothing wrong in any mode, nor in the viewer: names, roles, contrast, order."""
    from axe_playwright_python.sync_playwright import Axe

    page, _ = opened(browser, stocked.address, color_scheme=scheme, viewport={"width": 1200, "height": 1000})
    axe = Axe()
    for task in ("draw", "edit", "outpaint", "denoise", "upscale", "inpaint", "deblur"):
        page.select_option("#task", task)
        if task != "draw":
            page.set_input_files("#image", photo)
        found = axe.run(page)
        assert found.violations_count == 0, f"{task}: {found.generate_report()}"
    page.select_option("#task", "draw")
    page.fill("#prompt", "a red apple")
    made(stocked, page)
    page.click("#gallery li:first-child button")
    found = axe.run(page)
    assert found.violations_count == 0, found.generate_report()
    page.close()
