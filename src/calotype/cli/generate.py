"""`calotype generate`: its options, and the request they make."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from calotype.cli import forecasts, guiding, safety
from calotype.cli.clock import Clock
from calotype.cli.drawing import Places, draw
from calotype.errors import InputError


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
    offload: Annotated[
        bool | None,
        typer.Option(
            "--offload/--no-offload",
            help="Networks on the device one at a time. Default: where memory is short, or for one picture.",
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="Of the networks: float32, bf16, fp16. Default: bf16 on a GPU that has it."),
    ] = None,
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="Compile the networks first: worth the wait for many steps on a GPU."),
    ] = False,
    threads: Annotated[int | None, typer.Option(help="CPU threads. Default: torch's choice.")] = None,
    timing: Annotated[bool, typer.Option("--timing", help="Report where the time went.")] = False,
    foretell: Annotated[
        bool, typer.Option("--plan", help="Say what it would cost, from a few steps, and draw nothing.")
    ] = False,
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
    if foretell:
        forecasts.of_drawing(request, prediction, vae, device, threads, clock, offline)
        return
    draw(
        request,
        places,
        guards,
        prediction,
        vae,
        device,
        threads,
        clock,
        offline,
        probe,
        bool(label),
        offload,
        compiled,
        precision,
    )
    if timing:
        print(clock.report(), file=sys.stderr)


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
