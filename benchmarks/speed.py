"""Calotype beside diffusers on one file of weights: Stable Diffusion 1.5's shape, random numbers.

    python benchmarks/speed.py [--size 512] [--rounds 2] [--threads 2] [--dtype float32] [--weights FOLDER]
        [--busy] [--cpp PYTHON] [--short] [--compile] [--once]

Each side is a process of its own, asked alternately for the same work, so that what slows the machine slows
both; of each figure the best of all rounds is taken. `load` ends where the first step could begin: it is
`open`, until the weights are there, and `prompt`, until it is encoded; `first` is that step, which finds
memory cold. diffusers runs without a checker, in the better of its two memory layouts. A whole picture is
reckoned from its parts: 20 guided steps and the decoder. Peak memory is the process' VmHWM, mapped pages of
the file included. On a machine that others use, `--busy` counts the seconds of processor time that each side
takes instead of the clock's; best with one thread.
`--cpp` names an interpreter that has `stable-diffusion-cpp-python`, and makes stable-diffusion.cpp the third
side: a step of it is half of what pictures of three steps and of one differ by.
`--compile` has both sides' networks compiled, diffusers' channels-last: `first` waits for the compiler, and
so does the first decoding, so take two rounds.
`--short` has Calotype work as where memory is short: float32 from 16 bits, widened anew by every call.
`--once` does something else: each side is a fresh process that draws one picture of one step, from file to
pixels, as a person asks for it; of these the seconds and the peak memory are told.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from calotype.networks.narrow import Widen

STEPS = 20
GUIDANCE = 7.5
PROMPT = "a photograph of an astronaut riding a horse"
FILE, FOLDER = "sd15-fp16.safetensors", "sd15"
PRECISIONS = {"float32": "float32", "bfloat16": "bf16", "float16": "fp16"}


def write(place: Path) -> None:
    """The weights once: a single fp16 file, and the settings beside it that diffusers asks for."""
    from calotype.checkpoints import diffusers_writer, single_file
    from calotype.conditioning.tokenizer import Tokenizer
    from calotype.models.latent_diffusion import build
    from calotype.models.presets import sd1

    model = build(sd1(), Tokenizer.clip(), seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for part in model.parts().values():
            for parameter in part.parameters():
                if parameter.ndim > 1 and not bool(parameter.any()):  # a branch that would begin at zero
                    parameter.normal_(0.0, 0.3 * parameter[0].numel() ** -0.5, generator=generator)
    single_file.write(place / FILE, model, torch.float16, {})
    diffusers_writer.write(place / FOLDER, model, torch.float16, {})
    for weights in (place / FOLDER).glob("*/*.safetensors"):
        weights.unlink()


@contextmanager
def weights(folder: Path | None) -> Iterator[Path]:
    """Where they lie: in the folder, made there if they are not yet, or for the while in a temporary one."""
    with tempfile.TemporaryDirectory() as temporary:
        place = folder or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        if not (place / FILE).exists():
            # elsewhere: a child's peak memory, as the system counts it, begins with its parent's
            writer = get_context("spawn").Process(target=write, args=(place,))
            writer.start()
            writer.join()
            if writer.exitcode:
                raise SystemExit("the weights could not be written")
        yield place


class Ours:
    """Calotype as its own commands run it."""

    widen: Widen | None = None

    def open(self, place: Path, dtype: torch.dtype, device: str) -> None:
        from calotype.checkpoints import shelf
        from calotype.tasks.studio import pick_device

        self.model = shelf.load(place / FILE, pick_device(device), dtype, widen=self.widen)

    def prompt(self, size: int) -> None:
        from calotype.tasks.generate import Encoded, generate
        from calotype.tasks.request import Request

        asked = Request(
            prompts=PROMPT, steps=1000, guidance=GUIDANCE, sampler="euler", seed=1, width=size, height=size
        )
        self.run = generate(self.model, asked)
        while not isinstance(next(self.run), Encoded):
            pass
        self.pixels = torch.zeros(1, 3, size, size)
        self.latents = torch.randn(4, size // 8, size // 8)

    def step(self) -> None:
        next(self.run)

    def encode(self) -> None:
        from calotype.tasks.pixels import encode_pixels

        encode_pixels(self.model, self.pixels, None)

    def decode(self) -> None:
        from calotype.tasks.pixels import decode

        decode(self.model, self.latents)

    def layout(self, channels_last: bool) -> None:
        """Calotype chooses its own."""

    def compile(self) -> None:
        from calotype.models.compiling import compile_networks

        compile_networks(self.model)


class Theirs:
    """diffusers' pipeline, its parts called as its `__call__` does."""

    def open(self, place: Path, dtype: torch.dtype, device: str) -> None:
        from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline

        self.pipe = StableDiffusionPipeline.from_single_file(
            place / FILE,
            config=str(place / FOLDER),
            torch_dtype=dtype,
            local_files_only=True,
            safety_checker=None,
        ).to(device)
        self.pipe.scheduler = EulerDiscreteScheduler.from_config(self.pipe.scheduler.config)

    def prompt(self, size: int) -> None:
        device, dtype = self.pipe.device, self.pipe.dtype
        self.pipe.scheduler.set_timesteps(1000)
        self.times = iter(self.pipe.scheduler.timesteps)
        with torch.inference_mode():
            told, other = self.pipe.encode_prompt(PROMPT, device, 1, True, negative_prompt="")
            self.text = torch.cat([other, told])
        self.x = torch.randn(1, 4, size // 8, size // 8, device=device, dtype=dtype)
        self.latents = self.x
        self.pixels = torch.zeros(1, 3, size, size, device=device, dtype=dtype)

    @torch.inference_mode()
    def step(self) -> None:
        scheduler, time = self.pipe.scheduler, next(self.times)
        both = scheduler.scale_model_input(torch.cat([self.x] * 2), time)
        other, told = self.pipe.unet(both, time, encoder_hidden_states=self.text).sample.chunk(2)
        self.x = scheduler.step(other + GUIDANCE * (told - other), time, self.x).prev_sample

    @torch.inference_mode()
    def encode(self) -> None:
        self.pipe.vae.encode(self.pixels).latent_dist.mode()

    @torch.inference_mode()
    def decode(self) -> None:
        made = self.pipe.vae.decode(self.latents / self.pipe.vae.config.scaling_factor).sample
        self.pipe.image_processor.postprocess(made)

    def layout(self, channels_last: bool) -> None:
        wanted = torch.channels_last if channels_last else torch.contiguous_format
        self.pipe.unet.to(memory_format=wanted)
        self.pipe.vae.to(memory_format=wanted)

    def compile(self) -> None:
        self.layout(channels_last=True)
        self.pipe.unet.compile()
        self.pipe.vae.decoder.compile()


SIDES: dict[str, Callable[[], Ours | Theirs]] = {"calotype": Ours, "diffusers": Theirs}


def highest(process: int | str) -> int:
    """A process' VmHWM in bytes."""
    high = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    assert high is not None
    return int(high[1]) * 1024


def work(
    name: str,
    place: Path,
    size: int,
    threads: int,
    dtype: torch.dtype,
    device: str,
    busy: bool,
    widen: Widen | None,
) -> None:
    """One side: reads a word a line, does it, answers with the seconds it took, or for `peak` with bytes."""
    torch.set_num_threads(threads)
    clock = time.process_time if busy else time.perf_counter
    side = SIDES[name]()
    if isinstance(side, Ours):
        side.widen = widen
    if name == "calotype":
        import calotype.tasks.studio  # noqa: F401
    else:
        from diffusers import StableDiffusionPipeline  # noqa: F401

    def settle() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    print("ready", flush=True)
    for line in sys.stdin:
        word = line.strip()
        start = clock()
        if word == "peak":
            found = highest("self") if device == "cpu" else torch.cuda.max_memory_allocated()
            print(found, flush=True)
            continue
        if word == "open":
            side.open(place, dtype, device)
        elif word == "prompt":
            side.prompt(size)
        elif word == "first":
            side.step()
        elif word in ("contiguous", "channels_last"):
            side.layout(word == "channels_last")
        else:
            getattr(side, word)()
        settle()
        print(clock() - start, flush=True)


class Worker:
    """A side's process, as the one who asks sees it."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer("ready")

    def __call__(self, word: str) -> float:
        assert self.process.stdin is not None
        print(word, file=self.process.stdin, flush=True)
        return float(self._answer())

    def end(self) -> None:
        self.process.communicate()

    def _answer(self, wanted: str | None = None) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            text = line.strip()
            if text == wanted or (wanted is None and re.fullmatch(r"[\d.e+-]+", text)):
                return text
        raise SystemExit("a side ended before its work was done")


class Third:
    """stable-diffusion.cpp, which is asked for whole pictures only."""

    def __init__(self, given: argparse.Namespace, place: Path) -> None:
        side = Path(__file__).with_name("speed_cpp.py")
        told = [str(place / FILE), str(given.size), str(given.threads), PROMPT, str(GUIDANCE)]
        self.worker = Worker([given.cpp, str(side), *told])
        self.load = self.worker("load")
        self.one: list[float] = []
        self.three: list[float] = []

    def draw(self) -> None:
        self.one.append(self.worker("1"))
        self.three.append(self.worker("3"))

    def beside(self, ours: dict[str, float], peak: float) -> dict[str, Any]:
        """Its best seconds, and their ratios to Calotype's."""
        step = (min(self.three) - min(self.one)) / 2
        took = {"load": self.load, "step": step, "picture": min(self.one) + (STEPS - 1) * step}
        high = highest(self.worker.process.pid)
        return {
            "stable-diffusion.cpp, best seconds": {word: round(s, 3) for word, s in took.items()},
            "ratio, stable-diffusion.cpp/calotype": {w: round(s / ours[w], 3) for w, s in took.items()},
            "stable-diffusion.cpp, peak GB": round(high / 1e9, 2),
            "peak ratio, calotype/stable-diffusion.cpp": round(peak / high, 3),
        }


def draw_once(place: Path, size: int, threads: int, dtype: torch.dtype) -> None:
    """diffusers' whole picture of one step, by its own pipeline."""
    torch.set_num_threads(threads)
    side = Theirs()
    side.open(place, dtype, "cpu")
    side.layout(channels_last=True)
    side.pipe(PROMPT, height=size, width=size, num_inference_steps=1, guidance_scale=GUIDANCE)


def once(given: argparse.Namespace, place: Path) -> dict[str, Any]:
    """One picture by each side in a process of its own: seconds and peak memory."""
    size, threads = str(given.size), str(given.threads)
    with tempfile.TemporaryDirectory() as kept:
        ours = [sys.executable, "-m", "calotype", "generate", PROMPT, "--model", str(place / FILE)]
        ours += ["--size", size, "--steps", "1", "--guidance", str(GUIDANCE), "--sampler", "euler"]
        ours += ["--device", "cpu", "--precision", PRECISIONS[given.dtype], "--threads", threads]
        ours += ["--offline", "-o", f"{kept}/ours.png"]
        theirs = [sys.executable, __file__, "--drawn-once", str(place), size, threads, given.dtype]
        found: dict[str, dict[str, float]] = {}
        for name, command in (("calotype", ours), ("diffusers", theirs)):
            start = time.perf_counter()
            process = subprocess.Popen(command)
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                raise SystemExit(f"{name} did not draw")
            found[name] = {
                "seconds": round(time.perf_counter() - start, 2),
                "peak GB": round(usage.ru_maxrss * 1024 / 1e9, 2),
            }
    mine, other = found["calotype"], found["diffusers"]
    return {
        "versions": {name: _version(name) for name in ("torch", "diffusers", "calotype")},
        "size": given.size,
        **found,
        "ratio of seconds, diffusers/calotype": round(other["seconds"] / mine["seconds"], 3),
        "peak ratio, calotype/diffusers": round(mine["peak GB"] / other["peak GB"], 3),
    }


def rate(dtype: torch.dtype, device: str, busy: bool, seconds: float = 2.0) -> float:
    """FLOP/s of a large matrix product."""
    clock = time.process_time if busy else time.perf_counter
    a = torch.randn(2048, 2048, device=device).to(dtype)
    count, start = 0, clock()
    while clock() - start < seconds:
        float((a @ a)[0, 0])
        count += 1
    return count * 2 * 2048**3 / (clock() - start)


def flops(size: int) -> float:
    """Of one guided step, counted on the network without numbers."""
    from torch.utils.flop_counter import FlopCounterMode

    from calotype.models.presets import sd1
    from calotype.networks.unet import UNet

    with torch.device("meta"):
        network = UNet(sd1().unet)
        x, label, text = torch.zeros(2, 4, size // 8, size // 8), torch.zeros(1), torch.zeros(2, 77, 768)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(x, label, text)
    return float(counter.get_total_flops())


def measure(given: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Everything, the two sides by turns."""
    dtype = getattr(torch, given.dtype)
    options = [str(place), str(given.size), str(given.threads), given.dtype, given.device]
    options += [str(given.busy), "now" if given.compile else "always" if given.short else ""]
    workers = {name: Worker([sys.executable, __file__, "--side", name, *options]) for name in SIDES}
    third = Third(given, place) if given.cpp else None
    seconds: dict[str, dict[str, list[float]]] = {name: {} for name in SIDES}

    def ask(word: str, names: list[str], called: str | None = None) -> None:
        for name in names:
            seconds[name].setdefault(called or word, []).append(workers[name](word))

    def load(name: str, worker: Worker) -> None:
        took = {word: worker(word) for word in ("open", "prompt")}
        for word, found in {**took, "load": sum(took.values())}.items():
            seconds[name].setdefault(word, []).append(found)

    for name, worker in workers.items():
        load(name, worker)
    for turn in range(given.rounds):  # again by others, as the first to load may find memory cold
        for name in list(SIDES) if turn % 2 else list(SIDES)[::-1]:
            other = Worker([sys.executable, __file__, "--side", name, *options])
            load(name, other)
            other.end()
    if given.compile:
        for worker in workers.values():
            worker("compile")
    ask("first", list(SIDES))
    layouts: dict[str, float] = {}
    for layout in ("channels_last",) if given.compile else ("contiguous", "channels_last"):
        workers["diffusers"](layout)
        workers["diffusers"]("step")  # its first in this layout
        layouts[layout] = workers["diffusers"]("step")
    if min(layouts, key=layouts.__getitem__) == "contiguous":
        workers["diffusers"]("contiguous")
    rates = []
    for turn in range(given.rounds):
        rates.append(rate(dtype, given.device, given.busy))
        names = list(SIDES) if turn % 2 else list(SIDES)[::-1]
        for word in ("step", "decode", "encode"):
            ask(word, names)
        if third is not None:
            third.draw()
    peak = {name: workers[name]("peak") for name in SIDES}
    best = {name: {word: min(took) for word, took in told.items()} for name, told in seconds.items()}
    for told in best.values():
        told["picture"] = STEPS * told["step"] + told["decode"]
    measured = statistics.median(rates)
    return {
        "machine": platform.processor() or platform.machine(),
        "versions": {name: _version(name) for name in ("torch", "diffusers", "calotype")},
        "size": given.size,
        "threads": given.threads,
        "seconds of": "processor time" if given.busy else "the clock",
        "dtype": given.dtype,
        "compiled": given.compile,
        "device": given.device,
        "diffusers layouts, seconds a step": {k: round(v, 3) for k, v in layouts.items()},
        "best seconds": {n: {w: round(s, 3) for w, s in told.items()} for n, told in best.items()},
        "all seconds": {n: {w: [round(s, 3) for s in v] for w, v in t.items()} for n, t in seconds.items()},
        "ratio, diffusers/calotype": {
            word: round(best["diffusers"][word] / took, 3) for word, took in best["calotype"].items()
        },
        "peak GB": {name: round(value / 1e9, 2) for name, value in peak.items()},
        "peak ratio, calotype/diffusers": round(peak["calotype"] / peak["diffusers"], 3),
        "matmul TFLOP/s": round(measured / 1e12, 4),
        "share of it in a step": {n: round(flops(given.size) / best[n]["step"] / measured, 3) for n in SIDES},
        **({} if third is None else third.beside(best["calotype"], peak["calotype"])),
    }


def _version(name: str) -> str:
    from importlib.metadata import version

    return version(name)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--weights", type=Path, help="a folder to keep them in; default: a temporary one")
    parser.add_argument("--busy", action="store_true", help="count processor time")
    parser.add_argument("--cpp", help="an interpreter that has stable-diffusion-cpp-python")
    parser.add_argument("--short", action="store_true", help="Calotype as where memory is short")
    parser.add_argument("--compile", action="store_true", help="the networks of both sides")
    parser.add_argument("--once", action="store_true", help="one whole picture of one step instead")
    parser.add_argument("--drawn-once", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--side", nargs=8, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        name, place, size, threads, dtype, device, busy, widen = given.side
        kind = getattr(torch, dtype)
        work(name, Path(place), int(size), int(threads), kind, device, busy == "True", widen or None)
        return
    if given.drawn_once:
        folder, size, threads, dtype = given.drawn_once
        draw_once(Path(folder), int(size), int(threads), getattr(torch, dtype))
        return
    torch.set_num_threads(given.threads)
    with weights(given.weights) as place:
        (place / FILE).read_bytes()  # so that no side finds the disk cold
        print(json.dumps((once if given.once else measure)(given, place), indent=1))


if __name__ == "__main__":
    main()
