"""The pictures of serve.md: the page in headless Chromium, `python docs/page_figures.py [page edit …]`."""

from __future__ import annotations

import io
import itertools
import re
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageFilter
import uvicorn
from playwright.sync_api import Browser, Page, expect, sync_playwright
from skimage import data

import calotype
from calotype.server.app import create
from calotype.server.settings import Settings

FOLDER = Path(__file__).parent
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
MINUTES = 600_000  # milliseconds, on a slow machine
OWN = 48  # colours of the page itself

Place = tuple[float, float]
"""Across and down a picture, in parts of its sides."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server with the shipped models and an owner who wants every picture looked at."""
    app = create(Settings(folder, safety=calotype.Safety(content_check="withhold", watermark=True)))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.05)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


def opened(browser: Browser, address: str, width: int, height: int, language: str = "en-US") -> Page:
    page = browser.new_page(locale=language, viewport={"width": width, "height": height})
    page.goto(address)
    page.wait_for_selector("#steps-now:not(:empty)")
    return page


def done(page: Page, pictures: int = 1) -> None:
    page.wait_for_selector(f"#fresh li:nth-child({pictures})", timeout=MINUTES)
    expect(page.locator("#cancel")).to_be_disabled(timeout=MINUTES)


def draw(page: Page, prompt: str, count: int, seed: int) -> None:
    for name, value in (("prompt", prompt), ("count", count), ("seed", seed)):
        page.fill(f"#{name}", str(value))
    page.click("#go")


def begin(page: Page, task: str, picture: Path) -> None:
    page.select_option("#task", task)
    page.set_input_files("#image", picture)
    page.wait_for_selector("#chosen:not(:empty)")


def paint(page: Page, brush: int, strokes: Iterable[tuple[Place, Place]]) -> None:
    """Draw straight strokes upon the picture's mask, with a brush of so many pixels."""
    page.fill("#brush", str(brush))
    page.locator("#mask").scroll_into_view_if_needed()
    box = page.locator("#mask").bounding_box()
    assert box is not None
    for (x, y), (to_x, to_y) in strokes:
        page.mouse.move(box["x"] + box["width"] * x, box["y"] + box["height"] * y)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * to_x, box["y"] + box["height"] * to_y, steps=6)
        page.mouse.up()


def restored(page: Page, samples: int, name: str) -> None:
    """Have the chosen photograph restored, and keep the page with all that came."""
    page.fill("#samples", str(samples))
    page.fill("#seed", "7")
    page.click("#go")
    page.wait_for_selector("#compare:not([hidden])", timeout=MINUTES)
    done(page)
    shot(page, name, whole=True)


def shot(page: Page, name: str, *, whole: bool = False) -> None:
    """As JPEG where a photograph is on it, else in 256 colours: the page's own as they are, others near."""
    path = FOLDER / name
    page.evaluate("scrollTo(0, 0)")
    with PIL.Image.open(io.BytesIO(page.screenshot(full_page=whole))) as opened:
        image = opened.convert("RGB")
    print(path)
    if path.suffix == ".jpg":
        image.save(path, quality=85, subsampling=0, optimize=True)
        return
    counted: Any = image.getcolors(image.width * image.height)
    own = [colour for _, colour in sorted(counted, reverse=True)[:OWN]]
    near = image.quantize(256 - len(own)).getpalette() or []
    palette = PIL.Image.new("P", (1, 1))
    palette.putpalette([*itertools.chain(*own), *near[: 3 * (256 - len(own))]])
    image.quantize(palette=palette, dither=PIL.Image.Dither.NONE).save(path, optimize=True)


def draw_scene(browser: Browser, address: str, _: Path) -> None:
    page = opened(browser, address, 1180, 900)
    for prompt, seed in (("a red apple", 7), ("a green frog", 3)):
        draw(page, prompt, 4, seed)
        expect(page.locator("#fresh li")).to_have_count(0)
        done(page, 4)
    draw(page, "a yellow star", 2, 5)
    page.wait_for_selector("#preview[src^='data:image/jpeg']", timeout=MINUTES)
    expect(page.locator("#state")).to_contain_text(re.compile(r"Step 1\d of"), timeout=MINUTES)
    shot(page, "page.png")
    done(page)
    page.click("#gallery li:first-child button")
    page.wait_for_selector("#viewer-verdict:not(:empty)")
    shot(page, "page-viewer.png")


def edit_scene(browser: Browser, address: str, folder: Path) -> None:
    calotype.load("icons").pictures("a red apple", seed=10)[0].save(folder / "apple.png")
    page = opened(browser, address, 1180, 1000)
    begin(page, "edit", folder / "apple.png")
    # all of the apple, none of its leaves
    paint(page, 50, [((0.2, height), (0.8, height)) for height in (0.47, 0.75)])
    draw(page, "a green apple", 1, 1)
    done(page)
    shot(page, "page-edit.png")


def outpaint_scene(browser: Browser, address: str, folder: Path) -> None:
    calotype.load("icons").pictures("a red apple", seed=7)[0].save(folder / "apple.png")
    page = opened(browser, address, 1180, 1000)
    begin(page, "outpaint", folder / "apple.png")
    page.fill("#left", "32")
    page.fill("#right", "32")
    draw(page, "red apples", 2, 5)
    done(page)
    shot(page, "page-outpaint.png")


def denoise_scene(browser: Browser, address: str, folder: Path) -> None:
    photo = PIL.Image.fromarray(data.astronaut()).resize((256, 256))
    noisy = np.asarray(photo, dtype=np.float32) + np.random.default_rng(0).normal(0, 25, (256, 256, 3))
    PIL.Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / "noisy.png")
    page = opened(browser, address, 1180, 1000)
    begin(page, "denoise", folder / "noisy.png")
    page.fill("#passes", "8")
    restored(page, 3, "page-denoise.jpg")


def mend_scene(browser: Browser, address: str, folder: Path) -> None:
    """A photograph with scratches painted over, and mended."""
    photo = np.array(PIL.Image.fromarray(data.chelsea()[:300, 75:375]).resize((256, 256)))
    scratches = ((40, 30), (150, 120), (90, 170))
    for top, left in scratches:
        for i in range(60):
            photo[top + i : top + i + 3, left + i // 2 : left + i // 2 + 3] = 255
    PIL.Image.fromarray(photo).save(folder / "scratched.png")
    page = opened(browser, address, 1180, 1000)
    begin(page, "inpaint", folder / "scratched.png")
    lines = [((left, top), (left + 32, top + 62)) for top, left in scratches]
    paint(page, 3, [((x / 256, y / 256), (u / 256, v / 256)) for (x, y), (u, v) in lines])
    restored(page, 4, "page-mend.jpg")


def upscale_scene(browser: Browser, address: str, folder: Path) -> None:
    PIL.Image.fromarray(data.astronaut()).resize((128, 128)).save(folder / "small.png")
    page = opened(browser, address, 1180, 1000)
    begin(page, "upscale", folder / "small.png")
    page.select_option("#scale", "2")
    restored(page, 0, "page-upscale.jpg")


def deblur_scene(browser: Browser, address: str, folder: Path) -> None:
    photo = PIL.Image.fromarray(data.coffee()[:400, 100:500]).resize((192, 192))
    photo.filter(PIL.ImageFilter.GaussianBlur(1.5)).save(folder / "blurred.png")
    page = opened(browser, address, 1180, 1000, "zh-CN")
    begin(page, "deblur", folder / "blurred.png")
    restored(page, 0, "page-deblur.jpg")


def phone_scene(browser: Browser, address: str, _: Path) -> None:
    page = opened(browser, address, 375, 812, "zh-CN")
    draw(page, "一个红苹果", 2, 7)
    done(page)
    shot(page, "page-phone.png", whole=True)


SCENES = {
    "page": draw_scene,
    "edit": edit_scene,
    "outpaint": outpaint_scene,
    "denoise": denoise_scene,
    "mend": mend_scene,
    "upscale": upscale_scene,
    "deblur": deblur_scene,
    "phone": phone_scene,
}


def main() -> None:
    found = shutil.which("chromium")
    if found is None:
        sys.exit("There is no Chromium; run: apt-get install chromium")
    with (
        tempfile.TemporaryDirectory() as place,
        served(Path(place) / "data") as address,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        for name in sys.argv[1:] or SCENES:
            SCENES[name](browser, address, Path(place))
        browser.close()


if __name__ == "__main__":
    main()
