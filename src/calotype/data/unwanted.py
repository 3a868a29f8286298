"""Names of drawings that are left out: trade marks, national flags, and what shows no thing at all."""

import re


def _words(*lines: str) -> re.Pattern[str]:
    return re.compile(rf"\b({'|'.join(' '.join(lines).split())})\b".replace("_", " "))


_BRAND = _words(
    "logos? brand airbnb adobe airpods alipay amazon android app_store",
    "apple_(logo|pay|music|intelligence|watch) baidu batman behance benz bitcoin blackberry bytedance",
    "chrome css3? dingding discord docker douyin dribbble dropbox ebay ethereum evernote facebook figma",
    "firefox foursquare gameboy git(hub|lab)? google html5? huawei i_?mac icons8 imac instagram",
    "intercom ios ipad iphone ipod iwatch java(script)? kindle kubernetes lego linux linkedin",
    "mac(book|_finder|_signal)? magicmouse mario mastercard medium messenger meta microsoft mitsubishi",
    "nasa netflix nintendo openai oracle pac_?man paypal photoshop pinterest playstation",
    "pok(eball|emon) python qq r2d2 r2 reddit redhat retina safari sketch skype slack snapchat",
    "soundcloud spider_man spotify star_?wars steve_jobs stripe stumbleupon superman taobao telegram",
    "tesla tetris tiktok tinder trello tumblr twitch twitter uber ubuntu viber vimeo visa wall_e wechat",
    "weibo weixin whatsapp wii windows(_phone)? wordpress xbox xiaomi yahoo youtube zoom flags? sex",
    "penis condom swastika",
)

_INTERFACE = _words(
    "align(ment|ing)? distribute indent paragraph heading layout border wrap spacing resize crop",
    "format(ing|ting)? font bold italic underline strikethrough superscript subscript typeface kerning",
    "paginate pagination column row columns rows grid anchor_point vectors? bezier path(finder)?",
    "ungroup hierarchy subtract exclude intersect uv_index letter(symbol)? alphabet(ical)?",
)

_ABSTRACT = _words(
    "arrows? chevron caret align format text sort filter off plus minus check remove add edit cancel",
    "refresh sync settings? menu list view toggle layout grid border crop select cursor move rotate",
    "expand collapse copy paste undo redo share download upload import export login logout signal",
    "network database server code git math function variable currency letter number badge multiple",
    "dismiss half slash lines? dots? ios default left right up down top bottom center horizontal",
    "vertical alert question info error warning box square circle a b x lock play solid search clock",
    "multi small large alt sim wifi on no not status user account app data file folder type sign reload",
    "repeat shuffle eject next previous loading emoji ring_volume swap switch stack",
)

# Slugs under a set's own category of flags that are no country's.
_FREE_FLAGS = re.compile(r"\b(crossed|chequered|triangular|black|white|pirate|rainbow|transgender) flags?$")
_NATIONAL = re.compile(r"\bflag (for|of)\b|^flag (?!in hole)|regional ?indicator|\wflag$|ideograph")


def is_brand(name: str) -> bool:
    """Whether a normalised name belongs to a firm, a product, a work's character, or a flag."""
    return bool(_BRAND.search(name))


def is_interface(name: str) -> bool:
    """Whether a name speaks of the layout of text and shapes, which one cannot tell from the picture."""
    return bool(_INTERFACE.search(name))


def is_abstract(name: str) -> bool:
    """Whether a name speaks of an action or state in a program and not of a thing."""
    return bool(_ABSTRACT.search(name))


def is_national(name: str, among_flags: bool) -> bool:
    """Whether an emoji's name is a country's flag, or only part of one."""
    return bool(_NATIONAL.search(name)) or (among_flags and not _FREE_FLAGS.search(name))
