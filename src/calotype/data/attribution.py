"""The attribution that the sets' licences ask for."""

from collections import Counter
from collections.abc import Sequence

from calotype.data.archives import Sources
from calotype.data.plan import Drawing
from calotype.data.sources import FLUENT_3D, FLUENT_3D_SET, OPENCLIPART, OPENCLIPART_SET

_HEAD = """# Attribution

The pictures of this data set are drawn by these authors and used under these licences. They were rendered
to pixels on white; the single-colour sets were recoloured. Emoji names and tags in English and Chinese come
from emojibase-data (MIT, Miles Johnson); other Chinese names are Calotype's.

| set | drawings | author | licence |
|---|---|---|---|
"""


def attribution(drawings: Sequence[Drawing], sources: Sources) -> str:
    """A Markdown table of sets with their authors and licences, as the packages state them."""
    rows = []
    for name, count in sorted(Counter(drawing.record["set"] for drawing in drawings).items()):
        if name == FLUENT_3D_SET.name:
            url = "https://github.com/microsoft/fluentui-emoji"
            title, author = f"Fluent Emoji 3D ({FLUENT_3D.name})", f"[Microsoft Corporation]({url})"
            licence = f"[MIT]({url}/blob/main/LICENSE) ({FLUENT_3D_SET.licence})"
        elif name == OPENCLIPART_SET.name:
            title, author = "Open Clip Art Library", f"its contributors ({OPENCLIPART.name})"
            licence = f"public domain ({OPENCLIPART_SET.licence})"
        else:
            info = sources.icons[name]["info"]
            title, author = info["name"], _link(info["author"]["name"], info["author"].get("url"))
            grant = info["license"]
            licence = f"{_link(grant['title'], grant.get('url'))} ({grant['spdx']})"
        rows.append(f"| {title} (`{name}`) | {count} | {author} | {licence} |\n")
    return _HEAD + "".join(rows)


def _link(text: str, url: str | None) -> str:
    return f"[{text}]({url})" if url else text
