"""`calotype generate` and `calotype replay`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from calotype.cli import guiding, safety
from calotype.cli.clock import Clock
from calotype.errors import InputError, OutputError

if TYPE_CHECKING:
    import torch

    from calotype.safety.policy import Safety
    from calotype.tasks.generate import Drawn
    from calotype.tasks.picture import Picture
    from calotype.tasks.request import Request


def generate(
    prompts: Annotated[
        list[str] | None, typer.Argument(help="What to draw; several prompts make several pictures.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            help="PNG to write; several pictures put a number before .png or in the place of %d. "
            "Default: the prompt's words and the seed.",
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="A name from `calotype models`, a file, a diffusers folder, a hub id.")
    ] = "icons",
    prediction: Annotated[
        str | None, typer.Option(help="What its U-Net predicts, where the file is wrong: eps, v or x0.")
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Run the network once to see what it predicts.")
    ] = False,
    vae: Annotated[
        str | None, typer.Option(help="A file or folder whose autoencoder is used instead of the model's.")
    ] = None,
    refiner: Annotated[
        str | None, typer.Option(help="A second model that draws the last steps, as SDXL's refiner.")
    ] = None,
    refiner_at: Annotated[
        float, typer.Option(help="Where the refiner takes over, as a part of the noise levels.")
    ] = 0.8,
    offline: Annotated[
        bool, typer.Option("--offline", help="Fetch nothing, even for a hub id that --model names.")
    ] = False,
    label: Annotated[
        list[str] | None,
        typer.Option(help="A class to draw, by name or number, of a model of classes; may be given again."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Sampler steps. Default: the model's.")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="How strictly to follow the prompt; 1 is no guidance.")
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="ddim, euler, heun, dpmpp_2m, unipc ….")] = None,
    grid: Annotated[
        str | None, typer.Option(help="Noise levels to stop at: trailing, karras, beta ….")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the first picture; picture i has seed + i. Default: a fresh one.")
    ] = None,
    noise: Annotated[
        str, typer.Option(help="Whose random numbers: calotype, torch (diffusers), philox (AUTOMATIC1111).")
    ] = "calotype",
    count: Annotated[int, typer.Option(help="Pictures of each prompt.")] = 1,
    negative: Annotated[str, typer.Option(help="What to steer away from.")] = "",
    prompt_syntax: Annotated[
        str | None, typer.Option(help="plain, or a1111: (word:1.2), [word], BREAK. Default: the model's.")
    ] = None,
    clip_skip: Annotated[
        int | None,
        typer.Option(help="Text layer to read: 1 the last, 2 the one before."),
    ] = None,
    size: Annotated[str | None, typer.Option(help="Pixels: 128, or WIDTHxHEIGHT.")] = None,
    rescale: Annotated[float, typer.Option(help="Guidance rescaling, 0 to 1.")] = 0.0,
    interval: Annotated[
        str | None, typer.Option(help="Guide only between two noise levels: LOW,HIGH.")
    ] = None,
    apg: Annotated[bool, typer.Option("--apg", help="Adaptive projected guidance.")] = False,
    option: Annotated[
        list[str] | None, typer.Option(help="A sampler's own option, as eta=0.5; may be given again.")
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(help="A LoRA, as FILE or FILE:0.8; may be given again. In a prompt: <lora:name:0.8>."),
    ] = None,
    lora_live: Annotated[
        bool, typer.Option("--lora-live", help="LoRAs beside the weights: less memory, slower steps.")
    ] = False,
    embedding: Annotated[
        list[str] | None,
        typer.Option(help="A textual inversion's file, as FILE or FILE:word; may be given again."),
    ] = None,
    control: guiding.Nets = None,
    control_image: guiding.Pictures = None,
    control_scale: guiding.Scales = None,
    control_start: guiding.Starts = None,
    control_end: guiding.Ends = None,
    control_guess: guiding.Guess = False,
    noise_level: Annotated[
        int | None, typer.Option(help="Noise that an upscaler's picture is given first; more invents more.")
    ] = None,
    image: Annotated[str | None, typer.Option(help="A picture to begin from, or to enlarge.")] = None,
    strength: Annotated[
        float | None, typer.Option(help="How much of the picture is drawn anew, 0 to 1. Default: 0.75.")
    ] = None,
    mask: Annotated[
        str | None, typer.Option(help="A picture as large as the image: white is drawn, black is kept.")
    ] = None,
    margin: Annotated[
        str | None, typer.Option(help="Pixels to draw around the image: 32, or LEFT,TOP,RIGHT,BOTTOM.")
    ] = None,
    invert: Annotated[
        str | None, typer.Option(help="Find the image's own noise first: euler, walk or edit_friendly.")
    ] = None,
    was: Annotated[
        str | None, typer.Option(help="What the image shows, for --invert. Default: the prompt.")
    ] = None,
    hires_from: Annotated[
        str | None, typer.Option(help="Draw at this size first, then enlarge to --size and refine.")
    ] = None,
    hires_by: Annotated[str, typer.Option(help="What is enlarged: pixels or latents.")] = "pixels",
    tile: Annotated[
        int | None, typer.Option(help="See large pictures in overlapping windows of so many pixels.")
    ] = None,
    wrap: Annotated[
        str | None, typer.Option(help="Ends that meet: x (panorama), y, or xy (seamless texture).")
    ] = None,
    vary: Annotated[
        float | None, typer.Option(help="Variations of one seed: how far to turn its noise, 0 to 1.")
    ] = None,
    vary_seed: Annotated[int | None, typer.Option(help="Towards whose noise. Default: a fresh seed.")] = None,
    frames: Annotated[
        int | None, typer.Option(help="Pictures of a transition from each prompt to the next.")
    ] = None,
    animation: Annotated[
        str | None, typer.Option(help="Also write all pictures as one animation, a .webp or .gif.")
    ] = None,
    fps: Annotated[float, typer.Option(help="Pictures a second of the animation.")] = 12.0,
    sheet: Annotated[str | None, typer.Option(help="Also write all pictures on one PNG sheet.")] = None,
    content_check: safety.ContentCheck = None,
    content_threshold: safety.Threshold = None,
    block_list: safety.Words = None,
    metadata: safety.Metadata = "full",
    watermark: safety.Mark = False,
    sign: safety.Sign = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda …. Default: the best one here.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads. Default: torch's choice.")] = None,
    timing: Annotated[bool, typer.Option("--timing", help="Report where the time went.")] = False,
) -> None:
    """Draw pictures of what the prompts say; prints the path of each."""
    clock = Clock()
    with clock.stage("imports"):
        from calotype.tasks.request import Request, parse_size
    with clock.stage("load"):
        width, height = (None, None) if size is None else parse_size(size)
        request = Request(
            prompts=(*(prompts or ()), *(label or ())),
            negative=negative,
            prompt_syntax=prompt_syntax,
            clip_skip=clip_skip,
            model=model,
            refiner=refiner,
            refiner_at=refiner_at,
            steps=steps,
            guidance=guidance,
            sampler=sampler,
            grid=grid,
            sampler_options=_options(option or []),
            seed=seed,
            noise=noise,
            count=count,
            width=width,
            height=height,
            rescale=rescale,
            interval=None if interval is None else _interval(interval),
            apg={} if apg else None,
            loras=lora or (),
            lora_live=lora_live,
            embeddings=embedding or (),
            controls=guiding.controls(
                control, control_image, control_scale, control_start, control_end, control_guess
            ),
            noise_level=noise_level,
            image=image,
            strength=strength,
            mask=mask,
            margin=None if margin is None else _margin(margin),
            invert=invert,
            was=was,
            hires_from=None if hires_from is None else parse_size(hires_from),
            hires_by=hires_by,
            tile=tile,
            wrap=wrap,
            vary=vary,
            vary_seed=vary_seed,
            frames=frames,
        )
        guards = safety.safety(content_check, content_threshold, block_list, metadata, watermark, sign)
    places = Places(output, sheet, animation, fps)
    draw(request, places, guards, prediction, vae, device, threads, clock, offline, probe)
    if timing:
        print(clock.report(), file=sys.stderr)


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
) -> None:
    """Everything from a request to its files; prints the path of each."""
    with clock.stage("imports"):
        from calotype.checkpoints import shelf
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
        place, path = pick_device(device), shelf.find(request.model, fetch=not offline)
        if probe:
            prediction = _probe(path, place, prediction, vae)
        found = shelf.recognise(path, prediction, vae)
        if request.refiner is not None:  # a hub id is fetched here or never
            shelf.find(request.refiner, fetch=not offline)
        asked = request.resolved(found.config)
        paths = files.default_paths(asked) if output is None else files.output_paths(output, request.pictures)
        files.check_writable(paths)
        loaded = found.load(place)
    pictures: list[Picture] = []
    kept: dict[int, Path] = {}
    try:
        for event in _watched(guarded(loaded, asked, guards), clock):
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
        named = ["--model", asked.model, *(str(kept[index]) for index in sorted(kept))]
        raise OutputError(
            f"A picture could not be decoded or written ({error}); the latents are kept: "
            f"calotype decode {shlex.join(named)}"
        ) from error
    with clock.stage("write"):
        images = [picture.image for picture in pictures]
        for path in sheets:
            files.write_png(path, files.contact_sheet(images))
            print(path)
        for path in animations:
            files.write_animation(path, images, places.fps)
            print(path)


def replay(
    picture: Annotated[Path, typer.Argument(help="A PNG that Calotype made.")],
    model: Annotated[
        str | None, typer.Option(help="Where its model is, if not where the picture says.")
    ] = None,
    prediction: Annotated[str | None, typer.Option(help="As when the picture was made.")] = None,
    vae: Annotated[str | None, typer.Option(help="As when the picture was made.")] = None,
    image: Annotated[str | None, typer.Option(help="Where the picture is that it began from.")] = None,
    mask: Annotated[str | None, typer.Option(help="Where its mask is.")] = None,
    look_in: Annotated[
        list[Path] | None,
        typer.Option(help="A folder with files it was made with, whose names alone it says; again for more."),
    ] = None,
    output: Annotated[str | None, typer.Option("-o", "--output", help="Write the replay too.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda …. Default: the best one here.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads. Default: torch's choice.")] = None,
) -> int:
    """Make a picture again from its own metadata and report how far the pixels differ.

    Exit code 0 if they are identical, 1 if they are not.
    """
    clock = Clock()
    from calotype.checkpoints import shelf
    from calotype.tasks import picture as files
    from calotype.tasks.replay import Comparison, replay
    from calotype.tasks.studio import pick_device

    made, record = files.read(picture, look_in or ())
    record = record.moved(image=image, mask=mask)
    record.request.check_sources()
    if output is not None:
        files.check_writable(files.output_paths(output, 1))
    set_threads(threads)
    # a name that only the picture gives is never fetched
    path = its_model(record.request.model) if model is None else shelf.find(model, fetch=True)
    loaded = shelf.load(path, pick_device(device), prediction=prediction, vae=vae)
    identical = False
    for event in _watched(replay(loaded, picture, made, record), clock):
        if isinstance(event, Comparison):
            identical = event.identical
            if output is not None:
                event.again.save(output)
            verdict = "identical" if identical else "different"
            print(f"{picture}: {verdict}, largest difference {event.largest}, mean {event.mean:.6f} of 255")
    return 0 if identical else 1


def its_model(name: str) -> Path:
    from calotype.checkpoints import shelf

    try:
        return shelf.find(name)
    except InputError:
        raise InputError(
            f"The picture's model {name} is not here; say with --model where it is, or with --look-in in "
            "which folder its files lie."
        ) from None


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
    model = shelf.load(path, place, vae=vae)
    kind = probe(model).required(model)
    print(f"calotype: the network of {path} predicts {kind}", file=sys.stderr)
    return None if kind == model.config.parameterization else kind


def _watched(events: Iterator[Any], clock: Clock) -> Iterator[Any]:
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


def _options(given: list[str]) -> dict[str, float]:
    options = {}
    for text in given:
        name, _, value = text.partition("=")
        try:
            options[name.strip()] = float(value)
        except ValueError:
            raise InputError(f"The option {text!r} is not NAME=NUMBER, as eta=0.5 is.") from None
    return options


def _interval(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"interval is {text!r}; give two noise levels as LOW,HIGH, say 0.3,6.") from None
    return low, high


def _margin(text: str) -> tuple[int, ...]:
    try:
        sides = tuple(int(part) for part in text.split(","))
    except ValueError:
        sides = ()
    if len(sides) not in (1, 4):
        raise InputError(f"margin is {text!r}; give pixels as 32 or as LEFT,TOP,RIGHT,BOTTOM.")
    return sides if len(sides) == 4 else sides * 4


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
