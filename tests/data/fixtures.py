"""Small packages in the layout of the real ones, and an npm that hands them out."""

import hashlib
import io
import json
import os
import stat
import tarfile
from dataclasses import replace
from pathlib import Path

from PIL import Image

from calotype.data import icons as icons_room
from calotype.data.plan import SET_NAMES

HEART = '<path fill="{}" d="M8 14L2 8a3 3 0 0 1 6-4a3 3 0 0 1 6 4z"/>'
APPLE = '<circle cx="8" cy="9" r="5" fill="{}"/><path fill="{}" d="M8 4h3v-3h-3z"/>'
OWL = '<rect x="3" y="2" width="10" height="12" fill="{}"/>'

EMOJI = [
    ("2764-FE0F", "red heart", ["love", "heart"], 0, "红心", ["爱"]),
    ("1F34E", "red apple", ["fruit", "apple"], 4, "红苹果", ["水果", "苹果"]),
    ("1F989", "owl", ["bird", "wise"], 3, "猫头鹰", ["鸟"]),
    ("1F1EE-1F1F9", "flag: Italy", ["IT", "flag"], 9, "旗: 意大利", ["意大利"]),
    ("1F3C1", "chequered flag", ["race"], 9, "终点旗", []),
]


def _icon_set(name: str, number: int) -> dict:
    mono = "currentColor"
    # The channels differ from set to set, so that no picture repeats another's.
    red, green = f"#e0{number:02x}24", f"#10a0{number:02x}"
    icons = {"owl": OWL.format(f"#7a4a{number:02x}"), "spare-blank": '<path fill="#fff" d="M0 0h1v1z"/>'}
    chars = {}
    if name in ("noto", "twemoji", "fluent-emoji-flat", "emojione"):
        icons |= {
            "red-heart": HEART.format(red),
            "red-apple": APPLE.format(red, green),
            "owl-medium-dark-skin-tone": OWL.format("#321"),
            "flag-italy": '<rect width="16" height="16" fill="#0f0"/>',
            "chequered-flag": '<rect width="9" height="9"/>',
        }
        chars = {"2764": "red-heart", "1f34e": "red-apple", "1f989": "owl", "1f1ee-1f1f9": "flag-italy"}
    elif name == "fxemoji":
        icons = {"redapple": APPLE.format(red, green), "wiseowl": OWL.format(red), "xqzt": OWL.format(green)}
    elif name in ("mdi", "emojione-monotone"):
        icons = {
            "heart": HEART.format(mono),
            "red-heart": HEART.format(mono),
            "apple": APPLE.format(mono, mono),
            "owl-outline": OWL.format(mono),
            "arrow-left": OWL.format(mono),
            "bird": OWL.format(mono),
            "fruit": OWL.format("#ff0000"),
        }
    elif name == "fluent-color":
        icons = {"owl-16": OWL.format(red), "owl-48": OWL.format(green)}
    elif name == "meteocons":
        icons = {"rain-fill": f'<g opacity="0">{OWL.format(red)}<animate attributeName="opacity"/></g>'}
    return {
        "prefix": name,
        "info": {
            "name": name.title(),
            "author": {"name": "A. Draughtsman"},
            "license": {"title": "MIT", "spdx": "MIT", "url": "https://example.org/licence"},
        },
        "icons": {slug: {"body": body} for slug, body in icons.items()},
        "chars": chars,
        "width": 16,
        "height": 16,
    }


def _tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def packages(folder: Path) -> dict[str, Path]:
    """Writes the three archives; by package name."""
    folder.mkdir(parents=True)
    sets = {f"json/{s}.json": json.dumps(_icon_set(s, n)).encode() for n, s in enumerate(SET_NAMES)}
    _tar(folder / "iconify.tgz", sets)
    entries = [
        {"hexcode": code, "label": label, "tags": tags, "group": group}
        for code, label, tags, group, _, _ in EMOJI
    ]
    chinese = [{"hexcode": code, "label": zh, "tags": tags} for code, _, _, _, zh, tags in EMOJI]
    _tar(
        folder / "emojibase.tgz",
        {"en/data.json": json.dumps(entries).encode(), "zh/data.json": json.dumps(chinese).encode()},
    )
    webp = io.BytesIO()
    picture = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    picture.paste((200, 30, 40, 255), (8, 8, 56, 56))
    picture.save(webp, format="WEBP", lossless=True)
    rendered = {f"assets/{code}.webp": webp.getvalue() for code in ("1f34e", "1f1ee-1f1f9", "1f989-1f3fb")}
    _tar(folder / "fluent3d.tgz", rendered)
    names = ("@iconify/json", "emojibase-data", "@lobehub/fluent-emoji-3d")
    return dict(zip(names, (folder / f"{n}.tgz" for n in ("iconify", "emojibase", "fluent3d")), strict=True))


def fake_npm(folder: Path, archives: dict[str, Path]) -> Path:
    """A folder for PATH with an `npm` that packs the archives and fails for every other name."""
    folder.mkdir(parents=True)
    cases = "".join(f'  "{name}@"*) cp "{path}" . ;;\n' for name, path in archives.items())
    script = folder / "npm"
    script.write_text(
        f'#!/bin/sh\nfor last; do :; done\ncase "$last" in\n{cases}'
        '  *) echo "npm error code E404" >&2; echo "npm error 404 Not Found" >&2; exit 1 ;;\nesac\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return folder


def stand_in(monkeypatch, tmp_path: Path) -> None:
    """Puts small packages and an npm that has them in the place of the real ones."""
    fake_npm(tmp_path / "bin", packages(tmp_path / "registry"))
    aim(monkeypatch, tmp_path)


def aim(monkeypatch, tmp_path: Path) -> None:
    """Points PATH and the pinned hashes at the small packages that are there."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    names = {
        "@iconify/json": "iconify",
        "emojibase-data": "emojibase",
        "@lobehub/fluent-emoji-3d": "fluent3d",
    }
    for constant in ("ICONIFY", "EMOJIBASE", "FLUENT_3D"):
        package = getattr(icons_room, constant)
        data = (tmp_path / "registry" / f"{names[package.name]}.tgz").read_bytes()
        monkeypatch.setattr(icons_room, constant, replace(package, sha256=hashlib.sha256(data).hexdigest()))
