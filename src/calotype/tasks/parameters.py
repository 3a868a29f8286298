"""The `parameters` text of AUTOMATIC1111's web UI, which many programs read from a PNG, both ways.

    a red apple
    Negative prompt: blurred
    Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.0, Seed: 7, Size: 512x512, Model: sd15

https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/Features#png-info
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calotype.tasks.picture import Record

KEY = "parameters"
"""Of the PNG's text chunk."""

SAMPLERS = {
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_3m_sde": "DPM++ 3M SDE",
    "dpmpp_sde": "DPM++ SDE",
    "euler_a": "Euler a",
    "euler": "Euler",
    "heun": "Heun",
    "lms": "LMS",
    "plms": "PLMS",
    "ddim": "DDIM",
    "ddpm": "DDPM",
    "unipc": "UniPC",
    "lcm": "LCM",
}
"""Our samplers' names there."""

GRIDS = {
    "trailing": "Simple",
    "linspace": "Normal",
    "leading": "DDIM",
    "karras": "Karras",
    "exponential": "Exponential",
    "beta": "Beta",
    "ays_sd1": "Align Your Steps",
    "ays_sdxl": "Align Your Steps XL",
    "ays_svd": "Align Your Steps SVD",
    "flow": "Flow",
    "lcm": "LCM",
    "raised": "Raised",
}
"""Our grids' names there; the last five are names of our own."""

_OTHER_GRIDS = {"sgm uniform": "trailing", "uniform": "linspace", "ddim_uniform": "leading"}


def write(record: Record, words: bool = True) -> str:
    """The record as that text: what both programs know of it, with or without the prompts."""
    request = record.request
    facts: dict[str, Any] = {
        "Steps": request.steps,
        "Sampler": SAMPLERS.get(request.sampler, request.sampler),
        "Schedule type": GRIDS.get(request.grid, request.grid),
        "CFG scale": request.guidance,
        "Seed": request.seed,
        "Size": f"{request.width}x{request.height}",
        "Model hash": record.weights_hash.removeprefix("sampled-")[:10],
        "Model": _plain(record.model_name),
    }
    if request.refiner is not None and words:
        digest = (request.refiner_hash or "").removeprefix("sampled-")[:10]
        facts["Refiner"] = f"{_plain(Path(request.refiner).stem)} [{digest}]"
        facts["Refiner switch at"] = request.refiner_at
    if request.clip_skip is not None:
        facts["Clip skip"] = request.clip_skip
    facts["Version"] = f"calotype {record.version}"
    lines = [request.prompts[0]] if words else []
    if request.negative and words:
        lines.append(f"Negative prompt: {request.negative}")
    return "\n".join([*lines, ", ".join(f"{name}: {value}" for name, value in facts.items())])


def _plain(name: str) -> str:
    """Without what separates facts there."""
    return re.sub(r"[,:\n]", " ", name)


def read(text: str) -> dict[str, Any]:
    """The fields of a `Request` that the text tells, those alone; {} where it is no such text.

    The model is left out: its name there need not be a name here.  Another program's prompts are read in
    A1111's syntax, and its seeds mean the noise of A1111 on a GPU.
    """
    head, _, last = text.strip().rpartition("\n")
    facts = {name.strip(): value.strip() for name, value in re.findall(r"([\w ]+):\s*([^,]*)", last)}
    if not {"Steps", "Seed"} <= facts.keys():
        return {}
    prompt, _, negative = head.partition("\nNegative prompt:")
    if prompt.startswith("Negative prompt:"):
        prompt, negative = "", prompt.removeprefix("Negative prompt:")
    found: dict[str, Any] = {"prompts": [prompt.strip()], "negative": negative.strip()}
    for name, field, kind in (
        ("Steps", "steps", int),
        ("CFG scale", "guidance", float),
        ("Seed", "seed", int),
        ("Clip skip", "clip_skip", int),
    ):
        try:
            found[field] = kind(facts[name])
        except (KeyError, ValueError):
            continue
    if not facts.get("Version", "").startswith("calotype"):
        found |= {"prompt_syntax": "a1111", "noise": "philox"}
    width, _, height = facts.get("Size", "").partition("x")
    if width.isdecimal() and height.isdecimal():
        found |= {"width": int(width), "height": int(height)}
    sampler, grid = named(facts.get("Sampler", ""), facts.get("Schedule type", ""))
    return found | {name: value for name, value in (("sampler", sampler), ("grid", grid)) if value}


def named(sampler: str, schedule: str = "") -> tuple[str | None, str | None]:
    """Our sampler and grid for the names used there, "DPM++ 2M Karras" of old too; None for unknown."""
    title = sampler.strip().lower()
    for theirs in ("karras", "exponential"):
        if title.endswith(" " + theirs):
            title, schedule = title.removesuffix(" " + theirs), schedule or theirs
    samplers = {name.lower(): ours for ours, name in SAMPLERS.items()} | {ours: ours for ours in SAMPLERS}
    grids = {name.lower(): ours for ours, name in GRIDS.items()} | {ours: ours for ours in GRIDS}
    # the names the interface uses for schedulers have underscores
    wanted = schedule.strip().lower()
    grids |= _OTHER_GRIDS
    return samplers.get(title), grids.get(wanted, grids.get(wanted.replace("_", " ")))
