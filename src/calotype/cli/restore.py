"""`calotype denoise`, `inpaint`, `upscale` and `deblur`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from calotype.cli import safety

if TYPE_CHECKING:
    from calotype.models.pixel_diffusion import PixelDiffusion
    from calotype.safety.policy import Safety
    from calotype.tasks.photo_file import Photo
    from calotype.tasks.restore import Options, Restored

Picture = Annotated[Path, typer.Argument(help="The photograph: PNG, JPEG, TIFF or WebP, of 8 or 16 bits.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="Where the result goes.")]
Model = Annotated[str, typer.Option(help="A pixel model's name or checkpoint.")]
Samples = Annotated[
    int | None,
    typer.Option(
        help="Draw so many possible pictures; the result is their mean, beside it lie the samples and a map "
        "of how far they differ. Without it the result is one estimate, smooth where nothing is known."
    ),
]
Seed = Annotated[int, typer.Option(help="Of the first sample.")]
Steps = Annotated[int, typer.Option(help="Steps of each sample; of an estimate too, but of denoise's.")]
Tile = Annotated[int, typer.Option(help="Side of the tiles that a large picture is worked on in.")]
Jacobian = Annotated[
    bool, typer.Option("--jacobian", help="Guide through the network's slope: better, three times slower.")
]
Fast = Annotated[bool, typer.Option("--fast", help="Compute in 16 bits, where the device has units for it.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; the best there is if not given.")]


def denoise(
    picture: Picture,
    output: Output,
    sigma: Annotated[
        float | None, typer.Option(help="The noise's deviation, of 255; estimated if not given.")
    ] = None,
    camera: Annotated[
        bool, typer.Option("--camera", help="Noise that grows with brightness, as a camera's does.")
    ] = False,
    gain: Annotated[
        float | None, typer.Option(help="Of the camera: variance = gain * brightness (0 to 1) + read².")
    ] = None,
    read: Annotated[float, typer.Option(help="Of the camera: deviation in the dark, of 255.")] = 0.0,
    ensemble: Annotated[
        bool,
        typer.Option(
            "--ensemble", help="The mean over eight turns and mirrorings: better, eight times slower."
        ),
    ] = False,
    alike: Annotated[
        bool,
        typer.Option(
            "--alike",
            help="Restore patches that look alike together: with --ensemble the best, and the slowest.",
        ),
    ] = False,
    samples: Samples = None,
    seed: Seed = 0,
    steps: Steps = 30,
    tile: Tile = 512,
    model: Model = "photo",
    fast: Fast = False,
    device: Device = None,
    content_check: safety.ContentCheck = None,
    content_threshold: safety.Threshold = None,
    watermark: safety.Mark = False,
    sign: safety.Sign = None,
) -> None:
    """Take the noise out of a photograph."""
    from calotype.errors import InputError
    from calotype.tasks.noise_level import CameraNoise
    from calotype.tasks.restore import Options
    from calotype.tasks.restore import denoise as run

    if sigma is not None and (camera or gain is not None):
        raise InputError("--sigma tells of white noise and --camera of a camera's; give one of them.")
    known = None if gain is None else CameraNoise(gain, read / 255)
    options = Options(samples=samples or 0, seed=seed, steps=steps, tile=tile, ensemble=ensemble, alike=alike)
    guards = safety.safety(content_check, content_threshold, None, "full", watermark, sign)
    photo, loaded = _opened(picture, output, guards, model, fast, device)
    with _watching() as watch:
        found = run(
            loaded, photo, sigma=sigma, camera=known, estimate=not camera, options=options, watch=watch
        )
    _write(output, found, loaded, guards)


def inpaint(
    picture: Picture,
    mask: Annotated[
        Path, typer.Argument(help="A picture of the same size, white where something is missing.")
    ],
    output: Output,
    samples: Samples = None,
    seed: Seed = 0,
    steps: Steps = 30,
    tile: Tile = 512,
    jacobian: Jacobian = False,
    model: Model = "photo",
    fast: Fast = False,
    device: Device = None,
    content_check: safety.ContentCheck = None,
    content_threshold: safety.Threshold = None,
    watermark: safety.Mark = False,
    sign: safety.Sign = None,
) -> None:
    """Fill in what is missing of a photograph: scratches, lettering, lost pixels."""
    from calotype.tasks.photo_file import read_photo
    from calotype.tasks.restore import inpaint as run

    missing = read_photo(mask).pixels.mean(0) > 0.5
    guards = safety.safety(content_check, content_threshold, None, "full", watermark, sign)
    photo, loaded = _opened(picture, output, guards, model, fast, device, beside=mask)
    options = _options(samples, seed, steps, tile, jacobian)
    with _watching() as watch:
        found = run(loaded, photo, missing, options=options, watch=watch)
    _write(output, found, loaded, guards)


def upscale(
    picture: Picture,
    output: Output,
    scale: Annotated[int, typer.Option(help="How many times larger: 2, 3 or 4.")] = 2,
    sigma: Annotated[float, typer.Option(help="Noise that the picture has, of 255.")] = 0.0,
    samples: Samples = None,
    seed: Seed = 0,
    steps: Steps = 30,
    tile: Tile = 512,
    jacobian: Jacobian = False,
    model: Model = "photo",
    fast: Fast = False,
    device: Device = None,
    content_check: safety.ContentCheck = None,
    content_threshold: safety.Threshold = None,
    watermark: safety.Mark = False,
    sign: safety.Sign = None,
) -> None:
    """Make a photograph larger: shrunk again, the result is the picture given."""
    from calotype.tasks.restore import upscale as run

    guards = safety.safety(content_check, content_threshold, None, "full", watermark, sign)
    photo, loaded = _opened(picture, output, guards, model, fast, device, grow=max(1, scale))
    options = _options(samples, seed, steps, tile, jacobian)
    with _watching() as watch:
        found = run(loaded, photo, scale, sigma=sigma, options=options, watch=watch)
    _write(output, found, loaded, guards)


def deblur(
    picture: Picture,
    output: Output,
    blur: Annotated[float | None, typer.Option(help="Deviation of the Gaussian blur in pixels.")] = None,
    kernel: Annotated[
        Path | None, typer.Option(help="The blur as a small picture of a single point, odd sides.")
    ] = None,
    sigma: Annotated[float, typer.Option(help="Noise that the picture has, of 255.")] = 1.0,
    samples: Samples = None,
    seed: Seed = 0,
    steps: Steps = 30,
    tile: Tile = 512,
    jacobian: Jacobian = False,
    model: Model = "photo",
    fast: Fast = False,
    device: Device = None,
    content_check: safety.ContentCheck = None,
    content_threshold: safety.Threshold = None,
    watermark: safety.Mark = False,
    sign: safety.Sign = None,
) -> None:
    """Undo a known blur."""
    from calotype.tasks.photo_file import read_photo
    from calotype.tasks.restore import deblur as run

    shape = None if kernel is None else read_photo(kernel).pixels.mean(0)
    guards = safety.safety(content_check, content_threshold, None, "full", watermark, sign)
    photo, loaded = _opened(picture, output, guards, model, fast, device, beside=kernel)
    options = _options(samples, seed, steps, tile, jacobian)
    with _watching() as watch:
        found = run(loaded, photo, blur=blur, kernel=shape, sigma=sigma, options=options, watch=watch)
    _write(output, found, loaded, guards)


def _options(samples: int | None, seed: int, steps: int, tile: int, jacobian: bool) -> Options:
    from calotype.tasks.restore import Options

    count = int(jacobian) if samples is None else samples  # the slope guides samples only
    return Options(samples=count, seed=seed, steps=steps, tile=tile, jacobian=jacobian)


def _opened(
    picture: Path,
    output: Path,
    guards: Safety,
    model: str,
    fast: bool,
    device: str | None,
    grow: int = 1,
    beside: Path | None = None,
) -> tuple[Photo, PixelDiffusion]:
    from calotype.checkpoints import native
    from calotype.checkpoints.shelf import find
    from calotype.models.precision import DTYPES, reduced
    from calotype.tasks.photo_file import check_photo_path, read_photo
    from calotype.tasks.picture import check_writable, keep_sources
    from calotype.tasks.studio import pick_device

    photo = read_photo(picture, grow)
    check_photo_path(output, photo, guards.signer)
    check_writable([output])
    keep_sources([output], [picture] if beside is None else [picture, beside])
    place = pick_device(device)
    kind = reduced(place) if fast else "float32"
    if kind is None:
        print(
            "calotype: this machine has no units for 16 bits; --fast changes nothing on it.", file=sys.stderr
        )
    return photo, native.load_pixel(find(model), place, DTYPES[kind or "float32"])


@contextmanager
def _watching() -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("restoring", total=None)

        def watch(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield watch


def _write(output: Path, found: Restored, model: PixelDiffusion, guards: Safety) -> None:
    """The result, and of several samples each, their deviation as numbers and as a map in colours."""
    from calotype.tasks.finish import UNCHECKED, finished_photo
    from calotype.tasks.photo_file import write_photo
    from calotype.tasks.uncertainty import write_deviation

    if found.told:
        print(found.told)
    found, verdicts = finished_photo(found, model, guards)
    digits = len(str(max(0, len(found.samples) - 1)))
    samples = [
        output.with_name(f"{output.stem}-sample-{i:0{digits}}{output.suffix}")
        for i in range(len(found.samples))
    ]
    for path, photo in zip([output, *samples], [found.photo, *found.samples], strict=True):
        write_photo(path, photo, guards.signer)
        print(path)
    if found.deviation is not None:
        for path in write_deviation(output, found.deviation):
            print(path)
    for path, verdict in zip([output, *samples], verdicts, strict=bool(verdicts)):
        if verdict.decision == "unchecked":
            print(f"calotype: {UNCHECKED}", file=sys.stderr)
            break
        grey = "; a grey one stands in its place" if verdict.decision == "withheld" else ""
        print(f"calotype: content check of {path}: {verdict.told()}{grey}", file=sys.stderr)
