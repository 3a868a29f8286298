"""A finished picture and its file: a PNG that says how to make it again."""

from __future__ import annotations

import io
import json
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import PIL.Image
import PIL.PngImagePlugin
from torch import Tensor

from calotype import __version__, durable
from calotype.errors import InputError, OutputError
from calotype.safety.content import Verdict
from calotype.safety.policy import Metadata
from calotype.safety.provenance import EDITED, SOURCE, Signer
from calotype.tasks import parameters
from calotype.tasks.places import beside, shareable, without_folders
from calotype.tasks.request import ResolvedRequest

KEY = "calotype"
"""Of the PNG's iTXt chunk that holds the record as JSON."""


@dataclass(frozen=True)
class Record:
    """What is written into the PNG: enough to make the same pixels again.

    request       resolved, for this picture alone: one prompt, one count, its own seed
    weights_hash  SHA-256 of the model's weights
    content       what the content check said; None where it was off
    watermark     the name of the invisible mark that its pixels hold
    precision     of the networks that drew it: float32, bf16 or fp16
    """

    request: ResolvedRequest
    model_name: str
    weights_hash: str
    version: str = __version__
    content: Verdict | None = None
    watermark: str | None = None
    precision: str = "float32"

    def to_json(self, metadata: Metadata = "full") -> str:
        """Files by their names without folders, which are nobody's business; the hashes tell them apart.

        shareable  without words and file names either, so that it makes no picture again
        """
        asked = without_folders(self.request)
        told: dict[str, Any] = {
            "calotype_version": self.version,
            "model_name": self.model_name,
            "weights_sha256": self.weights_hash,
        }
        if self.content is not None:
            told["content"] = asdict(self.content)
        if self.watermark is not None:
            told["watermark"] = self.watermark
        if self.precision != "float32":
            told["precision"] = self.precision
        told |= {"request": asked} if metadata == "full" else {"settings": shareable(asked)}
        return json.dumps(told, ensure_ascii=False)

    def moved(self, **places: str | None) -> Record:
        """The same where the pictures it began from lie elsewhere: `image` and `mask`, None as recorded.

        Raises InputError for a picture that it did not begin from.
        """
        found = {}
        for name, place in places.items():
            source = getattr(self.request, name)
            if place is not None and source is None:
                raise InputError(f"The picture was made without {name}; leave --{name} out.")
            if place is not None:
                found[name] = source.at(place)
        return replace(self, request=self.request.model_copy(update=found))

    @classmethod
    def from_json(cls, text: str) -> Record:
        """The inverse of `to_json`, but for folders; InputError where it is no record, or a shareable one."""
        try:
            stored: dict[str, Any] = json.loads(text)
            if "settings" in stored:
                raise InputError(
                    "The picture's record is a shareable one, without its words and files; only a full one "
                    "makes the picture again."
                )
            request, content = ResolvedRequest(**stored["request"]), stored.get("content")
            return cls(
                request,
                stored["model_name"],
                stored["weights_sha256"],
                stored["calotype_version"],
                None if content is None else Verdict(**content),
                stored.get("watermark"),
                str(stored.get("precision", "float32")),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"The picture's {KEY} record is damaged ({error!r}).") from None


@dataclass(frozen=True)
class Picture:
    """image (RGB), the latents (C h w) it was decoded from, its record, and its place in the request.

    metadata  what its file will tell
    signer    signs its file
    """

    image: PIL.Image.Image
    latents: Tensor
    record: Record
    index: int
    metadata: Metadata = "full"
    signer: Signer | None = None

    @property
    def withheld(self) -> str | None:
        """Why a grey picture stands in its place, in one sentence; None where none does."""
        found = self.record.content
        if found is None or found.decision != "withheld":
            return None
        return (
            f"The content check withheld the picture of seed {self.record.request.seed} (score "
            f"{found.score:g}, threshold {found.threshold:g}); a grey one stands in its place."
        )

    def save(self, path: str | Path) -> None:
        """Write the PNG with its record, atomically; OutputError where that fails."""
        info = PIL.PngImagePlugin.PngInfo()
        info.add_itxt(KEY, self.record.to_json(self.metadata))
        # which other programs read
        info.add_itxt(parameters.KEY, parameters.write(self.record, words=self.metadata == "full"))
        write_png(Path(path), self.image, info, self.signer)


def write_png(
    path: Path,
    image: PIL.Image.Image,
    info: PIL.PngImagePlugin.PngInfo | None = None,
    signer: Signer | None = None,
    source: str = SOURCE,
) -> None:
    """Write under a temporary name, then rename; OutputError where that fails, and nothing is left behind.

    source  what the signer says of how the picture came to be
    """
    partial = _partial(path)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info)
    data = buffer.getvalue() if signer is None else signer.sign(buffer.getvalue(), source)
    try:
        partial.write_bytes(data)
        durable.rename(partial, path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {_reason(error)}.") from None
    finally:
        partial.unlink(missing_ok=True)


ANIMATIONS = {".webp": "WEBP", ".gif": "GIF"}


def write_animation(path: Path, images: Sequence[PIL.Image.Image], per_second: float) -> None:
    """The pictures one after the other for ever, as WebP or GIF by the name; OutputError where that fails."""
    partial = _partial(path)
    first, *rest = images
    try:
        first.save(
            partial,
            ANIMATIONS[path.suffix.lower()],
            save_all=True,
            append_images=rest,
            duration=round(1000 / per_second),
            loop=0,
        )
        durable.rename(partial, path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {_reason(error)}.") from None
    finally:
        partial.unlink(missing_ok=True)


def read(path: str | Path, look_in: Sequence[str | Path] = ()) -> tuple[PIL.Image.Image, Record]:
    """A picture and its record; InputError where the file is no picture or has no record.

    Files it was made with are looked for in the folders `look_in`, in the current one, beside the picture.
    """
    image, text = opened(path)
    if text is None:
        raise InputError(
            f"{path} does not say how it was made; name a PNG that Calotype made and no one edited."
        )
    record = Record.from_json(text)
    return image, replace(record, request=beside(record.request, look_in, Path(path).parent))


def opened(path: str | Path) -> tuple[PIL.Image.Image, str | None]:
    """A picture (RGB) and the record's text, None where it has none; InputError where it is no picture."""
    try:
        with PIL.Image.open(path) as found:
            found.load()
            text = found.info.get(KEY)
            return found.convert("RGB"), text if isinstance(text, str) else None
    except FileNotFoundError:
        raise InputError(f"There is no file {path}; name a PNG that Calotype made.") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path} is no readable picture ({error}); name a PNG that Calotype made.") from None


def stored(text: str) -> dict[str, Any]:
    """A record's text as it stands: full or shareable, of a picture drawn or restored.

    Raises InputError where it is damaged.
    """
    try:
        told: dict[str, Any] = json.loads(text)
        asked = told["request"] if "request" in told else told["settings"]
        whole = all(
            isinstance(told[key], str) for key in ("calotype_version", "model_name", "weights_sha256")
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"The picture's {KEY} record is damaged ({error!r}).") from None
    content = told.get("content")
    if not (whole and isinstance(asked, dict) and (content is None or isinstance(content, dict))):
        raise InputError(f"The picture's {KEY} record is damaged; it has parts of the wrong kind.")
    return told


def shared(png: bytes, signer: Signer | None = None) -> bytes:
    """A PNG of Calotype's, its record made shareable; its pixels as they were, signed anew."""
    with PIL.Image.open(io.BytesIO(png), formats=("PNG",)) as opened:
        opened.load()
        told, image = stored(str(opened.info[KEY])), opened.convert("RGB")
    if "settings" in told:
        return png
    drawn = "prompts" in told["request"]
    info = PIL.PngImagePlugin.PngInfo()
    if drawn:
        record = Record.from_json(json.dumps(told))
        info.add_itxt(parameters.KEY, parameters.write(record, words=False))
    told["settings"] = shareable(told.pop("request"))
    info.add_itxt(KEY, json.dumps(told, ensure_ascii=False))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info)
    source = SOURCE if drawn else EDITED
    return buffer.getvalue() if signer is None else signer.sign(buffer.getvalue(), source)


def default_paths(request: ResolvedRequest) -> list[Path]:
    """For pictures whose place nobody named: the prompt's words and the seed, `a-red-apple-7.png`.

    Pictures of one seed have the variation's seed too, or the frame's number.
    """
    paths = []
    digits = len(str(request.pictures - 1))
    for i in range(request.pictures):
        words = re.sub(r"[\W_]+", "-", request.prompt_of(i).lower()).strip("-")
        own = "" if request.frames is None else f"-{i:0{digits}}"
        if request.vary_seed is not None:
            own = f"-{request.vary_seed + i}"
        paths.append(Path(f"{words[:40].rstrip('-') or 'picture'}-{request.seed_of(i)}{own}.png"))
    return paths


def output_paths(output: str, count: int) -> list[Path]:
    """Where `count` pictures go that were all asked for as `output`.

    One picture goes to `output` itself.  Several take a number from 0: in the place of `%d` (or `%03d`) where
    the name has one, else before the suffix, out-0.png, out-1.png.

    Raises OutputError for a name that is no PNG's.
    """
    if Path(output).suffix.lower() != ".png":
        raise OutputError(f"The output {output} should end in .png, the one format that keeps the request.")
    place = re.search(r"%(0\d)?d", output)
    if place:
        return [
            Path(output[: place.start()] + place.group() % i + output[place.end() :]) for i in range(count)
        ]
    if count == 1:
        return [Path(output)]
    digits = len(str(count - 1))
    path = Path(output)
    return [path.with_name(f"{path.stem}-{i:0{digits}}{path.suffix}") for i in range(count)]


def check_writable(paths: Sequence[Path]) -> None:
    """OutputError, before any work is done, where one of the files could not be written."""
    for path in paths:
        if os.path.isdir(path):  # unlike Path.is_dir, also answers for names too long to exist
            raise OutputError(f"The output {path} is a folder; name a file in it.")
        if not os.path.isdir(path.parent):
            raise OutputError(f"The folder {path.parent} does not exist; make it or name another.")
        partial = _partial(path)
        try:
            partial.touch(exist_ok=False)
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {_reason(error)}.") from None
        partial.unlink()


def keep_sources(paths: Sequence[Path], sources: Iterable[str | Path]) -> None:
    """OutputError where writing one of the files would destroy a picture that the work begins from."""
    for source in map(Path, sources):
        for path in paths:
            if path.exists() and source.exists() and path.samefile(source):
                raise OutputError(
                    f"The output {path} is the picture that the work begins from; name another file."
                )


def contact_sheet(images: Sequence[PIL.Image.Image], gap: int = 2) -> PIL.Image.Image:
    """All pictures, of one size, row by row on one white sheet about as many wide as high."""
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    width, height = images[0].size
    sheet = PIL.Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * (width + gap), i // columns * (height + gap)))
    return sheet


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
