"""From a request to its files, as every command that draws: models found, progress shown, latents kept."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calotype.cli.clock import Clock
from calotype.errors import InputError, OutputError

if TYPE_CHECKING:
    import torch

    from calotype.checkpoints.found import Found
    from calotype.checkpoints.shelf import Native
    from calotype.models.offload import Offload
    from calotype.safety.policy import Safety
    from calotype.tasks.generate import Drawn
    from calotype.tasks.picture import Picture
    from calotype.tasks.request import Request, ResolvedRequest


@dataclass(frozen=True)
class Places:
    """Where pictures go, as the person said it."""

    output: str | None
    sheet: str | None = None
    animation: str | None = None
    fps: float = 12.0


def draw(
    request: Request,
    places: Places,
    guards: Safety,
    prediction: str | None,
    vae: str | None,
    device: str | None,
    threads: int | None,
    clock: Clock,
    offline: bool = False,
    probe: bool = False,
    by_label: bool = False,
    offload: bool | None = None,
    compiled: bool = False,
    precision: str | None = None,
) -> None:
    """Everything from a request to its files; prints the path of each.

    by_label  whether what to draw was named as a class
    offload   whether the networks come to the device one at a time; None where that saves more than it costs
    compiled  whether the networks are compiled; samplers never are
    precision of the networks: float32, bf16, fp16; None what suits the device
    """
    with clock.stage("imports"):
        from calotype.checkpoints import shelf
        from calotype.models.compiling import check_compiler, compile_networks
        from calotype.tasks import picture as files
        from calotype.tasks.finish import guarded
        from calotype.tasks.generate import Drawn
        from calotype.tasks.picture import Picture
        from calotype.tasks.studio import pick_device
    with clock.stage("load"):
        output = places.output
        if output is not None:
            files.check_writable(files.output_paths(output, request.pictures))
        sheets = [] if places.sheet is None else files.output_paths(places.sheet, 1)
        animations = [] if places.animation is None else [_animation(places.animation, places.fps)]
        files.check_writable([*sheets, *animations])
        set_threads(threads)
        place = pick_device(device)
        dtype = in_precision(precision, place)
        path = shelf.find(request.model, fetch=not offline)
        if probe:
            prediction = _probe(path, place, prediction, vae)
        found = shelf.recognise(path, prediction, vae)
        if request.refiner is not None:  # a hub id is fetched here or never
            shelf.find(request.refiner, fetch=not offline)
        if by_label and not found.config.classes:
            raise InputError(
                f"--label names a class, but the model {found.config.name} draws what words say; give the "
                "words without --label."
            )
        asked = request.resolved(found.config)
        paths = files.default_paths(asked) if output is None else files.output_paths(output, request.pictures)
        files.check_writable(paths)
        sources = (asked.image, asked.mask, *(use.picture for use in asked.controls))
        named = [source.path for source in sources if source is not None and source.path]
        files.keep_sources([*paths, *sheets, *animations], named)
        if compiled:
            check_compiler(place)
        one_by_one = _offload(found, asked, place, dtype, offload)
        loaded = found.load(place, dtype, one_by_one, widen="now" if compiled else None)
        if compiled:
            compile_networks(loaded)
    pictures: list[Picture] = []
    kept: dict[int, Path] = {}
    try:
        for event in watched(guarded(loaded, asked, guards), clock):
            if isinstance(event, Drawn):
                with clock.stage("write"):
                    kept |= _keep(event, paths)
            elif isinstance(event, Picture):
                with clock.stage("write"):
                    event.save(paths[event.index])
                    if event.index in kept:
                        kept.pop(event.index).unlink(missing_ok=True)
                pictures.append(event)
                print(paths[event.index], flush=True)
                tell(event)
    except Exception as error:
        if not kept:
            raise
        words = ["--model", asked.model, *(str(kept[index]) for index in sorted(kept))]
        raise OutputError(
            f"A picture could not be decoded or written ({error}); the latents are kept: "
            f"calotype decode {shlex.join(words)}"
        ) from error
    with clock.stage("write"):
        images = [picture.image for picture in pictures]
        for path in sheets:
            files.write_png(path, files.contact_sheet(images))
            print(path)
        for path in animations:
            files.write_animation(path, images, places.fps)
            print(path)


def in_precision(name: str | None, place: torch.device) -> torch.dtype:
    """What networks are to compute in; told to the person where the device has no units for it."""
    from calotype.models.precision import chosen, named
    from calotype.networks import processor

    dtype = chosen(name, place)
    if place.type == "cpu" and not processor.multiplies(dtype):
        told = f"{named(dtype)} spares memory on this machine, and no time"
        print(f"calotype: {told}, as it has no units for it.", file=sys.stderr)
    return dtype


def _offload(
    found: Found | Native,
    asked: ResolvedRequest,
    place: torch.device,
    dtype: torch.dtype,
    wished: bool | None,
) -> Offload | None:
    """One network at a time where a person wishes it, where memory is short, and for a single picture, whose
    networks work one after the other anyway.
    """
    from calotype.checkpoints import memory
    from calotype.models.offload import Offload

    if wished is None:
        once = asked.pictures == 1 and asked.hires_from is None and asked.refiner is None
        need = memory.needed(found.config, found.stored, dtype.itemsize)
        wished = once or memory.short(need, place)
        if wished and not once:
            print("calotype: memory is short; networks are loaded one at a time", file=sys.stderr)
    return Offload(place, dtype) if wished else None


def tell(picture: Picture) -> None:
    """What the content check says of a picture, where it says anything."""
    if picture.withheld is not None:
        print(f"calotype: {picture.withheld}", file=sys.stderr)
    elif picture.record.content is not None and picture.record.content.score is not None:
        print(f"calotype: content check: {picture.record.content.told()}", file=sys.stderr)


def _probe(path: Path, place: torch.device, prediction: str | None, vae: str | None) -> str | None:
    """What the network itself says it predicts, None where the file says the same; told to the person."""
    from calotype.checkpoints import shelf
    from calotype.tasks.probe import probe

    if prediction is not None:
        raise InputError("--prediction says what --probe would find out; give one of them.")
    model = shelf.load(path, place, vae=vae, widen=None)
    kind = probe(model).required(model)
    print(f"calotype: the network of {path} predicts {kind}", file=sys.stderr)
    return None if kind == model.config.parameterization else kind


def watched(events: Iterator[Any], clock: Clock) -> Iterator[Any]:
    """The same events; on the way a progress bar is drawn, notices are printed and time is taken."""
    from calotype.tasks.generate import Drawn, Encoded, Notice, Progress

    stage = "text"
    with _bar() as advance:
        while True:
            with clock.stage(stage):
                event = next(events, None)
            if event is None:
                return
            if isinstance(event, Notice):
                print(f"calotype: {event.text}", file=sys.stderr)
            elif isinstance(event, Encoded | Progress):
                stage = "sampling"
                advance(event)
            elif isinstance(event, Drawn):
                stage = "decoding"
            yield event


@contextmanager
def _bar() -> Iterator[Any]:
    """A function to hand events to, which draws them if a person is watching."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("drawing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("drawing", total=None)
        yield lambda event: bar.update(task, total=event.steps, completed=getattr(event, "done", 0))


def _keep(drawn: Drawn, paths: list[Path]) -> dict[int, Path]:
    """Finished latents beside the pictures they are to become; where that fails, the run goes on without."""
    from calotype.tasks import latents as kept

    found: dict[int, Path] = {}
    for index, latents, record in zip(drawn.indices, drawn.latents, drawn.records, strict=True):
        place = kept.beside(paths[index])
        try:
            kept.write(place, latents, record)
        except OutputError as error:
            print(f"calotype: {error}", file=sys.stderr)
            return found
        found[index] = place
    return found


def _animation(name: str, fps: float) -> Path:
    from calotype.tasks.picture import ANIMATIONS

    if Path(name).suffix.lower() not in ANIMATIONS:
        raise OutputError(f"The animation {name} should end in .webp or .gif.")
    if not 0 < fps <= 100:
        raise InputError(f"fps is {fps:g}; give pictures a second, above 0 and up to 100.")
    return Path(name)


def set_threads(threads: int | None) -> None:
    import torch

    if threads is None:
        return
    if threads < 1:
        raise InputError(f"threads is {threads}; give a whole number of at least 1.")
    torch.set_num_threads(threads)
