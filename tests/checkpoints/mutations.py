"""Valid checkpoints of every format, tiny, and seeded ways to spoil them: bytes, headers, JSON, tensors."""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tests.checkpoints.families import CONFIGS, TOKENIZER
from tests.checkpoints.test_weights_file import mutated
from tests.networks.reference import diffusers_controlnet

from calotype.checkpoints import (
    controlnet,
    diffusers_writer,
    doctor,
    embedding,
    lora,
    native,
    shelf,
    single_file,
)
from calotype.conditioning.tokenizer import Tokenizer
from calotype.models.latent_diffusion import LatentDiffusion, build
from calotype.networks.config import ControlNetConfig
from calotype.networks.lora import LowRank
from calotype.tasks.generate import generate
from calotype.tasks.picture import Picture
from calotype.tasks.request import Request

Use = Callable[[Path], bool]
"""Loads a file or folder and works with it; whether anything came of it.  Refusals are CalotypeErrors."""


@dataclass(frozen=True)
class Sample:
    """A valid checkpoint, and what people do with one of its kind."""

    path: Path
    use: Use


def samples(folder: Path) -> dict[str, Sample]:
    model = build(CONFIGS["sd1"], TOKENIZER, seed=1)
    for part in model.parts().values():
        part.half()

    def draw(path: Path) -> bool:
        doctor.examine(path, deep=True)
        loaded = shelf.load(path)
        asked = Request(prompts="a red apple", steps=1, width=16, height=16, seed=1)
        if loaded.config.factor > 8:  # a picture of that size would be many megapixels for one step
            return True
        return any(isinstance(event, Picture) for event in generate(loaded, asked))

    single, own, folders = folder / "m.safetensors", folder / "own.safetensors", folder / "folder"
    single_file.write(single, model, None, {})
    native.save(own, model)
    diffusers_writer.write(folders, model, None, {})
    # A .ckpt has no place for a tokenizer: it is CLIP's.
    clip = Tokenizer.clip()
    whole = build(CONFIGS["sd1"].fitted_to(clip), clip, seed=1)
    tensors = {name: value.half() for name, value in single_file.named(whole).items()}
    tree = {"state_dict": tensors, "global_step": 875000, "epoch": 3}
    for name, new in (("zip", True), ("old", False)):
        torch.save(tree, folder / f"{name}.ckpt", _use_new_zipfile_serialization=new)
    clean = build(CONFIGS["sd1"], TOKENIZER, seed=1)
    return {
        **{path.name: Sample(path, draw) for path in (single, own, folder / "zip.ckpt", folder / "old.ckpt")},
        "folder": Sample(folders, draw),
        **_changes(folder, clean),
    }


def _changes(folder: Path, model: LatentDiffusion) -> dict[str, Sample]:
    """LoRA, textual inversion and ControlNet, for that model."""

    def rank(layer: torch.nn.Linear) -> LowRank:
        rows, columns = layer.weight.shape
        return LowRank(torch.randn(2, columns) * 0.1, torch.randn(rows, 2) * 0.1, 0.5)

    linear = {
        name: rank(layer)
        for name, layer in model.denoiser.named_modules()
        if isinstance(layer, torch.nn.Linear) and "attend" in name
    }
    style, word, old = folder / "style.safetensors", folder / "word.safetensors", folder / "word.pt"
    lora.write(style, model, {"denoiser": linear}, "kohya", torch.float16)
    save_file({"emb_params": torch.randn(3, 64)}, word)
    torch.save({"string_to_param": {"*": torch.randn(3, 64)}, "name": "easy", "step": 5}, old)
    net = folder / "net"
    diffusers_controlnet(ControlNetConfig(CONFIGS["sd1"].unet, hint_channels=(8, 8))).save_pretrained(net)

    def change(path: Path) -> bool:
        doctor.examine(path, deep=True)
        return bool(lora.read(path, model).changes)

    def teach(path: Path) -> bool:
        doctor.examine(path, deep=True)
        return bool(embedding.read(path, model).vectors)

    def control(path: Path) -> bool:
        found = controlnet.recognise(path)
        found.check(model.config)
        return found.load() is not None

    return {
        "style": Sample(style, change),
        "word": Sample(word, teach),
        "word.pt": Sample(old, teach),
        "net": Sample(net, control),
    }


NASTY: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 7, 10**6, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, float("nan")),
    *(float("inf"), "", "x", "0", "\x1b[2J\n", "../../x", [], {}, [[]], [None], [0], [-1], [10**9] * 4),
    *([1.5], ["x"], {"x": 1}, [64, 64], list(range(70))),
]


def spoil(sample: Path, target: Path, seed: int) -> None:
    """A copy with one fault or a few."""
    chance = random.Random(seed)
    if sample.is_dir():
        shutil.copytree(sample, target)
        chosen = chance.choice(sorted(path for path in target.rglob("*") if path.is_file()))
        if chosen.suffix == ".json" and chance.random() < 0.9:
            _spoil_json(chosen, chance)
            return
    else:
        shutil.copyfile(sample, target)
        chosen = target
    if chosen.suffix == ".safetensors" and chance.random() < 0.6:
        _spoil_header(chosen, chance)
    else:
        chosen.write_bytes(mutated(chosen.read_bytes(), chance))


def _spoil_json(path: Path, chance: random.Random) -> None:
    """A value anywhere in it taken away, or put in place of another."""
    value = json.loads(path.read_text())
    for _ in range(chance.randint(1, 2)):
        places: list[tuple[Any, Any]] = []

        def walk(node: Any, places: list[tuple[Any, Any]] = places) -> None:
            keys = node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
            for key in keys:
                places.append((node, key))
                if len(places) < 5000:
                    walk(node[key])

        walk(value)
        if not places:
            break
        node, key = chance.choice(places)
        if chance.random() < 0.15:
            del node[key]
        else:
            node[key] = copy.deepcopy(chance.choice(NASTY))
    if chance.random() < 0.05:
        path.write_text("[" * 100_000)
    else:
        path.write_text(json.dumps(value))


def _spoil_header(path: Path, chance: random.Random) -> None:
    """A header that is well formed and whose tensors fill the file, but not those of a model."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header, body = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    for _ in range(chance.randint(1, 3)):
        names = [name for name in header if name != "__metadata__"]
        name = chance.choice(names)
        entry = header[name]
        shape = entry["shape"]
        match chance.randrange(8):
            case 0:
                chance.shuffle(shape)
            case 1:  # the same numbers, otherwise laid out
                entry["shape"] = chance.choice([[1, *shape], [*shape, 1], shape[::-1], _flat(shape)])
            case 2:  # of no size at all, and as large as can be
                body += b""
                start = entry["data_offsets"][0]
                huge = chance.choice([2**20, 2**40, 2**58, 2**62])
                header[chance.choice(names)] = {
                    "dtype": "F32",
                    "shape": chance.sample([0, huge, *[1] * (max(2, len(shape)) - 2)], max(2, len(shape))),
                    "data_offsets": [start, start],
                }
                header = _closed(header, names, len(body))
            case 3:
                header[_renamed(name, chance)] = header.pop(name)
            case 4:
                other = chance.choice(names)
                header[name], header[other] = header[other], header[name]
            case 5:
                metadata = header.setdefault("__metadata__", {})
                key = chance.choice([*metadata, "modelspec.title", "prediction_type", "recipe"])
                metadata[key] = chance.choice(["", "x", "{}", "[" * 100_000, "null", "9" * 5000, "\x1b[2J"])
            case 6:
                metadata = header.get("__metadata__", {})
                texts = [key for key, text in metadata.items() if text.startswith("{")]
                if texts:
                    key = chance.choice(texts)
                    place = path.with_name("x.json")
                    place.write_text(metadata[key])
                    _spoil_json(place, chance)
                    metadata[key] = place.read_text()
                    place.unlink()
            case 7:
                header["\x1b]0;x\x07\n" + name] = header.pop(name)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def _flat(shape: list[int]) -> list[int]:
    total = 1
    for side in shape:
        total *= side
    return [total]


def _renamed(name: str, chance: random.Random) -> str:
    """A number in it changed, or a part left out."""
    parts = name.split(".")
    at = chance.randrange(len(parts))
    parts[at] = str(int(parts[at]) + chance.choice([1, 2, 10**9])) if parts[at].isdecimal() else "x"
    return ".".join(parts)


def _closed(header: dict[str, Any], names: list[str], size: int) -> dict[str, Any]:
    """The header with whatever holds a hole filled up by bytes that belong to nobody's tensor."""
    spans = sorted((e["data_offsets"] for n, e in header.items() if n != "__metadata__"), key=tuple)
    at = 0
    fillers = {}
    for i, (start, end) in enumerate([*spans, [size, size]]):
        if start > at:
            fillers[f"filler.{i}"] = {"dtype": "U8", "shape": [start - at], "data_offsets": [at, start]}
        at = max(at, end)
    assert names
    return header | fillers
