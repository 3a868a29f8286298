"""What comes back to the page in Chromium: a picture's settings, pictures of several jobs, the server."""

from __future__ import annotations

import io
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import PIL.Image
import pytest
from tests.server.conftest import Live, run
from tests.server.test_page import browser, draw, idle, newest, opened

from calotype.server.settings import Settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.verify
__all__ = ["browser"]  # a fixture of the other file

ASKED = {
    "prompts": "a (red:1.3) apple",
    "prompt_syntax": "a1111",
    "noise": "philox",
    "seed": 7,
    "steps": 3,
    "guidance": 3.27,
    "rescale": 0.5,
    "sampler": "euler_a",
    "sampler_options": {"eta": 0.5},
    "wrap": "x",
}
"""Of which the page's form has no field for most, and whose guidance lies between its slider's steps."""


def first(live: Live, job: dict[str, Any]) -> bytes:
    with live.client() as http:
        return http.get(job["pictures"][0]["url"]).content


def pixels(data: bytes) -> bytes:
    with PIL.Image.open(io.BytesIO(data)) as image:
        return image.tobytes()


def test_all_of_a_pictures_settings_come_back(live: Live, browser: Browser, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    with live.client() as http:
        job = http.post("/v1/jobs", json=ASKED).json()
        while newest(live)["state"] != "done":
            pass
    job = newest(live)
    kept = tmp_path / "kept.png"
    kept.write_bytes(first(live, job))
    page, wrong = opened(browser, live.address, locale="en-US")
    assert page.is_hidden("#kept")
    page.set_input_files("#file", kept)
    expect(page.locator("#kept-now")).to_contain_text("noise philox")
    page.reload()
    page.wait_for_selector("#kept:not([hidden])")
    page.click("#go")
    page.wait_for_selector("#fresh li")
    idle(page)
    again = newest(live)
    assert again["id"] != job["id"]
    assert again["request"] == job["request"]
    assert pixels(first(live, again)) == pixels(first(live, job))
    page.click("#kept-drop")
    expect(page.locator("#kept")).to_be_hidden()
    page.select_option("#sampler", "ddim")
    draw(page, "a red apple")
    expect(page.locator("#fresh li img")).to_have_attribute("alt", "Picture: a red apple")
    idle(page)
    plain = newest(live)["request"]
    expected = {"noise": "calotype", "rescale": 0, "wrap": None, "sampler": "ddim", "sampler_options": {}}
    assert {name: plain[name] for name in expected} == expected
    assert wrong == []
    page.close()


def test_a_job_that_left_the_stage_is_not_lost(live: Live, browser: Browser) -> None:
    """Three at once: all their pictures come, and the last of them can be cancelled, then the one before."""
    from playwright.sync_api import expect

    page, wrong = opened(browser, live.address, locale="en-US")
    page.wait_for_load_state("networkidle")  # what is done already comes one by one
    before = page.locator("#gallery li").count()
    for seed in (1, 2):
        draw(page, "a green car", count=2, steps=30, seed=seed)
        page.wait_for_selector("#preview[src^='data:image/jpeg']")
    draw(page, "a blue fish", count=1, steps=150, width=128, height=128, seed=3)
    expect(page.locator("#status")).to_contain_text("at work")
    expect(page.locator("#gallery li")).to_have_count(before + 4, timeout=60_000)
    page.keyboard.press("Escape")
    idle(page)
    assert newest(live)["state"] == "cancelled"
    assert page.text_content("#status") == ""
    assert wrong == []
    page.close()


def test_a_server_that_comes_back(tiny_file: Path, tmp_path: Path, browser: Browser) -> None:
    """The page says that it is gone, and shows what it draws when it is back."""
    from playwright.sync_api import expect

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = Settings(tmp_path / "data", {"tiny": tiny_file}, "tiny", threads=1)
    runs = run(settings, port)
    live = next(runs)
    page, _ = opened(browser, live.address, locale="en-US")
    draw(page, "a red apple", count=3, steps=150, width=64, height=64, seed=7)
    page.wait_for_selector("#preview[src^='data:image/jpeg']")
    live.desk.stopping.set()
    live.desk.live.changed()
    next(runs, None)
    expect(page.locator("#problem")).to_have_text("The server does not answer.")
    for back in run(settings, port):
        expect(page.locator("#state")).to_have_text("Done", timeout=60_000)
        assert page.text_content("#problem") == ""
        assert page.locator("#fresh li").count() == 3
        idle(page)
        assert newest(back)["state"] == "done"
        page.close()
