"""The icons data set from small packages: what it holds, and that a broken build ends as an unbroken one."""

import json
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fixtures import stand_in

from calotype.data.folder import PictureFolder
from calotype.data.icons import make_icons
from calotype.data.pictures import read_picture
from calotype.data.sources import COLOURS
from calotype.errors import DataError, FetchError, InputError, OutputError


def quiet(stage, done, total):
    del stage, done, total


@pytest.fixture
def make(tmp_path, monkeypatch):
    stand_in(monkeypatch, tmp_path)

    def run(name="icons", size=32, limit=None, workers=1, progress=quiet):
        folder = tmp_path / name
        return folder, make_icons(folder, tmp_path / "cache", size, limit, workers, progress)

    return run


def records(folder):
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_it_holds(make):
    folder, summary = make()
    entries = {entry["file_name"]: entry for entry in records(folder)}
    assert summary["pictures"] == len(entries) == len(PictureFolder(folder))
    assert {str(path.relative_to(folder)) for path in folder.rglob("*.png")} == set(entries)
    apple = entries["noto/red-apple.png"]
    assert apple["text"] == "red apple"
    for caption in ("a red apple", "red apple, noto style", "红苹果", "一个红苹果", "红苹果，柔和风格"):
        assert caption in apple["texts"]
    assert (apple["concept"], apple["set"], apple["licence"]) == ("red apple", "noto", "Apache-2.0")
    assert not any("skin-tone" in name or "italy" in name or "1f1ee" in name for name in entries)
    assert "noto/chequered-flag.png" in entries
    assert not any("blank" in name for name in entries)
    assert summary["left_out"]["blank"] > 0
    assert "fluent-emoji-3d/1f34e.png" in entries
    assert entries["fxemoji/wiseowl.png"]["text"] == "wise owl"
    assert "fxemoji/xqzt.png" not in entries
    assert "fluent-color/owl-48.png" in entries
    assert "fluent-color/owl-16.png" not in entries
    assert "meteocons/rain-fill.png" in entries
    assert "Noto" in (folder / "ATTRIBUTION.md").read_text()


def test_concepts_stay_in_one_split(make):
    folder, _ = make()
    splits: dict[str, set[str]] = {}
    for entry in records(folder):
        splits.setdefault(entry["concept"], set()).add(entry["split"])
    assert all(len(found) == 1 for found in splits.values())


def test_colour_words_are_exactly_true(make):
    folder, _ = make()
    glyphs = [entry for entry in records(folder) if entry["kind"] == "glyph"]
    assert {"mdi", "emojione-monotone"} & {entry["set"] for entry in glyphs}
    assert not any("arrow" in e["file_name"] or "outline" in e["file_name"] for e in glyphs)
    values = {colour.name: colour for colour in COLOURS}
    for entry in glyphs:
        colour = values[entry["colour"]]
        ink = [int(colour.value[i : i + 2], 16) for i in (1, 3, 5)]
        pixels = read_picture(folder / entry["file_name"])
        solid = (pixels != 255).any(axis=2) & (np.abs(pixels.astype(int) - ink).max(axis=2) < 2)
        assert solid.sum() > 0.6 * (pixels != 255).any(axis=2).sum()
        others = "|".join(set(values) - {colour.name})
        for caption in entry["texts"]:
            assert colour.name in caption or colour.zh in caption
            assert not re.search(rf"\b({others})\b", caption)


def test_same_inputs_same_bytes(make):
    first, summary = make("first")
    second, again = make("second", workers=2)
    assert summary == again
    left, right = content(first), content(second)
    assert {k: v for k, v in left.items() if k.suffix == ".png"} == {
        k: v for k, v in right.items() if k.suffix == ".png"
    }
    assert left.keys() == right.keys()


def test_a_broken_build_goes_on(make):
    folder, summary = make()
    before = content(folder)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
    gone, torn, changed = sorted(times)[:3]
    gone.unlink()
    torn.write_bytes(torn.read_bytes()[:50])
    changed.write_bytes(sorted(times)[5].read_bytes())
    (folder / "metadata.jsonl").unlink()
    (folder / "noto" / "half.png.tmp").write_bytes(b"half")
    journal = folder / "build.jsonl"
    last = folder / json.loads(journal.read_text().splitlines()[-1])["file"]
    journal.write_bytes(journal.read_bytes()[:-30])  # as a kill in the middle of a line leaves it
    with pytest.raises(DataError, match="is an unfinished build"):
        PictureFolder(folder)
    _, again = make()
    assert again == summary
    after = content(folder)
    assert {k: v for k, v in after.items() if k.name != "build.jsonl"} == {
        k: v for k, v in before.items() if k.name != "build.jsonl"
    }
    drawn_again = {path for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert drawn_again == {gone, torn, changed, last}


def test_a_stopped_build_leaves_no_metadata(make, tmp_path):
    def stop(stage, done, total):
        del total
        if stage == "drawing" and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(progress=stop)
    assert not (tmp_path / "icons" / "metadata.jsonl").exists()
    _, resumed = make()
    assert resumed == make("whole")[1]


@pytest.mark.verify
def test_a_build_killed_ten_times_ends_as_an_unbroken_one(make, tmp_path):
    """SIGKILL at random moments, drawing processes and all; then one run to the end."""
    whole, summary = make("whole", size=256)
    script = (
        "import os, sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "import fixtures, pytest; from calotype.data.icons import make_icons\n"
        "folder = Path(sys.argv[2])\n"
        "with pytest.MonkeyPatch.context() as patch:\n"
        "    fixtures.aim(patch, folder)\n"
        "    make_icons(folder / 'icons', folder / 'cache', 256, None, 1, lambda *_: None)\n"
    )
    command = [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path)]
    begun = time.monotonic()
    subprocess.run(command, check=True)
    took = time.monotonic() - begun
    shutil.rmtree(tmp_path / "icons")
    dice = random.Random(7)
    for _ in range(10):
        process = subprocess.Popen(command)
        time.sleep(took * dice.uniform(0.4, 1.0))
        process.kill()
        process.wait()
    folder, again = make(size=256)
    assert again == summary
    left, right = content(whole), content(folder)
    left.pop(Path("build.jsonl")), right.pop(Path("build.jsonl"))
    assert left == right


def test_other_options_need_another_folder(make):
    make(limit=5)
    with pytest.raises(DataError, match="holds a build of other options"):
        make(limit=6)


def test_limit_takes_of_all_sets(make):
    folder, summary = make(limit=12)
    assert len(records(folder)) + sum(summary["left_out"].values()) == 12
    assert len({entry["kind"] for entry in records(folder)}) > 1


def test_bad_requests(make, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thing.png").write_bytes(b"")
    with pytest.raises(DataError, match="is not empty and holds no icons build"):
        make("other")
    with pytest.raises(InputError, match="size is 4"):
        make(size=4)
    with pytest.raises(InputError, match="limit is 0"):
        make(limit=0)
    with pytest.raises(InputError, match="mnist is no further source: there is openclipart"):
        make_icons(tmp_path / "x", tmp_path / "cache", 32, None, 1, quiet, ["mnist"])
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        make("file/icons")


def test_package_that_cannot_be_fetched(make, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FetchError, match="@iconify/json"):
        make()
    assert not (tmp_path / "icons").exists()


def test_damaged_archive_with_the_right_hash(make, tmp_path, monkeypatch):
    from calotype.data import icons as room

    make(limit=1)
    archive = tmp_path / "cache" / room.EMOJIBASE.archive
    monkeypatch.setattr(room, "fetch", lambda package, cache: cache / package.archive)
    archive.write_bytes(archive.read_bytes()[:200])
    with pytest.raises(FetchError, match=r"emojibase-data.*cannot be unpacked"):
        make("again")
