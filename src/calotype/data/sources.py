"""Where the icons data set comes from: literal tables of packages, picture sets and colours.

Every package is named with its client, its version and the SHA-256 of its archive, so that the same
pictures come out on every machine.  Every set states its licence as SPDX; sets that are share-alike,
non-commercial, or made of logos, brands or national flags are not listed at all.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["emoji", "colour", "glyph", "clipart"]


@dataclass(frozen=True)
class Package:
    """One archive that a package client fetches by name."""

    client: Literal["npm", "pip", "apt"]
    name: str
    version: str
    archive: str
    sha256: str


@dataclass(frozen=True)
class PictureSet:
    """One set of drawings in one hand.

    `styles` are English style phrases, the first being the set's own; `styles_zh` likewise in Chinese.
    `slug` is the pattern of the icon names that are taken, its group the part that names the subject.
    """

    name: str
    kind: Kind
    licence: str
    styles: tuple[str, ...]
    styles_zh: tuple[str, ...]
    slug: str = r"(.+)"


@dataclass(frozen=True)
class Colour:
    """A named colour: the word that captions use, and the sRGB value that glyphs are drawn in."""

    name: str
    zh: str
    value: str


ICONIFY = Package(
    "npm",
    "@iconify/json",
    "2.2.535",
    "iconify-json-2.2.535.tgz",
    "1a545f86fa224d6531d8fb101dcbe83aac2b28689a21cbed6fc68318a5af4d91",
)
EMOJIBASE = Package(
    "npm",
    "emojibase-data",
    "17.0.0",
    "emojibase-data-17.0.0.tgz",
    "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
)
FLUENT_3D = Package(
    "npm",
    "@lobehub/fluent-emoji-3d",
    "1.1.0",
    "lobehub-fluent-emoji-3d-1.1.0.tgz",
    "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
)

OPENCLIPART = Package(
    "apt",
    "openclipart-svg",
    "1:0.18+dfsg-19",
    "openclipart-svg_0.18+dfsg-19_all.deb",
    "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
)

OPENCLIPART_SET = PictureSet("openclipart", "clipart", "CC-PDDC", ("clip art style",), ("剪贴画风格",))

EMOJI_SETS = (
    PictureSet("noto", "emoji", "Apache-2.0", ("noto style", "shaded style"), ("Noto风格", "柔和风格")),
    PictureSet("noto-v1", "emoji", "Apache-2.0", ("blob style",), ("圆润风格",)),
    PictureSet("fluent-emoji", "emoji", "MIT", ("glossy style", "gradient style"), ("光泽风格", "渐变风格")),
    PictureSet("fluent-emoji-flat", "emoji", "MIT", ("flat style",), ("扁平风格",)),
    PictureSet("twemoji", "emoji", "CC-BY-4.0", ("twemoji style", "simple style"), ("推特风格", "简洁风格")),
    PictureSet("emojione", "emoji", "CC-BY-4.0", ("emojione style", "rounded style"), ("圆角风格",)),
    PictureSet("fxemoji", "emoji", "Apache-2.0", ("muted style",), ("素色风格",)),
    PictureSet("streamline-emojis", "emoji", "CC-BY-4.0", ("outlined style",), ("描边风格",)),
)

FLUENT_3D_SET = PictureSet("fluent-emoji-3d", "emoji", "MIT", ("3d style",), ("3D风格", "立体风格"))

_DUO = (("outlined blue icon style",), ("蓝色描边图标风格",))
_FLAT = (("flat blue icon style",), ("蓝色扁平图标风格",))
_CLEAR = (("flat colour icon style",), ("扁平彩色图标风格",))

COLOUR_SETS = (
    PictureSet("icon-park", "colour", "Apache-2.0", ("bold line icon style",), ("粗线条图标风格",)),
    *(
        PictureSet(name, "colour", "CC-BY-4.0", *style, slug)
        for name in (
            "streamline-color",
            "streamline-plump-color",
            "streamline-sharp-color",
            "streamline-flex-color",
        )
        for style, slug in ((_FLAT, "(.+)-flat"), (_DUO, "(.+)(?<!-flat)"))
    ),
    PictureSet(
        "streamline-ultimate-color",
        "colour",
        "CC-BY-4.0",
        ("coloured line icon style",),
        ("彩色线条图标风格",),
    ),
    PictureSet(
        "streamline-kameleon-color",
        "colour",
        "CC-BY-4.0",
        ("round badge icon style",),
        ("圆形彩色图标风格",),
        "(.+)(?<!-duo)",
    ),
    PictureSet(
        "streamline-kameleon-color",
        "colour",
        "CC-BY-4.0",
        ("round blue badge icon style",),
        ("圆形蓝色图标风格",),
        "(.+)-duo",
    ),
    PictureSet(
        "streamline-freehand-color", "colour", "CC-BY-4.0", ("hand drawn icon style",), ("手绘图标风格",)
    ),
    PictureSet(
        "streamline-stickies-color",
        "colour",
        "CC-BY-4.0",
        ("sticker icon style",),
        ("贴纸图标风格",),
        "(.+)(?<!-duo)",
    ),
    PictureSet(
        "streamline-stickies-color",
        "colour",
        "CC-BY-4.0",
        ("green sticker icon style",),
        ("绿色贴纸图标风格",),
        "(.+)-duo",
    ),
    PictureSet(
        "streamline-cyber-color", "colour", "CC-BY-4.0", ("angular line icon style",), ("棱角图标风格",)
    ),
    PictureSet("fluent-color", "colour", "MIT", ("gradient icon style",), ("渐变图标风格",), r"(.+)-\d+"),
    PictureSet("glyphs-poly", "colour", "MIT", *_CLEAR),
    PictureSet("marketeq", "colour", "MIT", ("thin line icon style",), ("细线条图标风格",)),
    PictureSet("meteocons", "colour", "MIT", ("weather icon style",), ("天气图标风格",), "(.+)-fill"),
    PictureSet(
        "meteocons",
        "colour",
        "MIT",
        ("weather line icon style",),
        ("天气线条图标风格",),
        "(.+)(?<!-fill)",
    ),
    PictureSet("flat-color-icons", "colour", "MIT", *_CLEAR),
    PictureSet("flat-ui", "colour", "MIT", *_CLEAR),
)

_SOLID = (("solid icon",), ("实心图标",))

GLYPH_SETS = (
    PictureSet("fluent-emoji-high-contrast", "glyph", "MIT", *_SOLID),
    PictureSet("emojione-monotone", "glyph", "CC-BY-4.0", *_SOLID),
    PictureSet("mdi", "glyph", "Apache-2.0", *_SOLID, r"((?!.*(-outline|-off|-variant|alpha-|numeric-)).+)"),
    PictureSet("ph", "glyph", "MIT", *_SOLID, r"(.+)-fill"),
    PictureSet("tabler", "glyph", "MIT", *_SOLID, r"(.+)-filled"),
    PictureSet("fa6-solid", "glyph", "CC-BY-4.0", *_SOLID),
    PictureSet("game-icons", "glyph", "CC-BY-3.0", *_SOLID),
    PictureSet("fluent", "glyph", "MIT", *_SOLID, r"(.+)-\d+-filled"),
    PictureSet("mingcute", "glyph", "Apache-2.0", *_SOLID, r"(.+)-fill"),
    PictureSet("solar", "glyph", "CC-BY-4.0", *_SOLID, r"(.+)-bold"),
    PictureSet("temaki", "glyph", "CC0-1.0", *_SOLID),
    PictureSet("healthicons", "glyph", "MIT", *_SOLID, r"((?!.*(outline|24px|negative)).+)"),
    PictureSet("lucide", "glyph", "ISC", ("line icon",), ("线条图标",)),
)

COLOURS = (
    Colour("red", "红色", "#e02424"),
    Colour("orange", "橙色", "#f57c00"),
    Colour("yellow", "黄色", "#f9d71c"),
    Colour("green", "绿色", "#2e9e3f"),
    Colour("teal", "青色", "#12a5a0"),
    Colour("blue", "蓝色", "#1f66e5"),
    Colour("purple", "紫色", "#8330c2"),
    Colour("pink", "粉色", "#f576b4"),
    Colour("brown", "棕色", "#7b4a26"),
    Colour("black", "黑色", "#111111"),
    Colour("grey", "灰色", "#8c8c8c"),
)
