"""Networks that come to work one at a time: the same pictures, to the bit, and never two networks at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import PIL.Image
import pytest
import torch
from tests.checkpoints.families import written_by_diffusers
from tests.tasks.test_additions import write
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

import calotype
from calotype.checkpoints import memory, shelf
from calotype.cli.main import run as command
from calotype.models.latent_diffusion import LatentDiffusion
from calotype.networks.autoencoder import Decoder, Encoder
from calotype.networks.clip_text import ClipText
from calotype.networks.unet import UNet
from calotype.tasks.picture import Picture

Work = list[tuple[str, frozenset[int]]]


def holding(parts: dict[int, nn.Module]) -> frozenset[int]:
    """The modules of which any tensor takes memory."""
    return frozenset(
        key
        for key, module in parts.items()
        if any(not value.is_meta for value in module.state_dict().values())
    )


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Work]:
    """Whenever a network of an offloaded model works: which it is, and which ones hold memory."""
    models: dict[int, nn.Module] = {}
    theirs: set[nn.Module] = set()
    load, work = shelf.load, Work()

    def loaded(*given: object, **named: object) -> LatentDiffusion:
        model = load(*given, **named)  # type: ignore[arg-type]
        if model.offload is not None:
            models.update({id(part): part for part in model.parts().values()})
            theirs.update(module for part in model.parts().values() for module in part.modules())
            assert not holding(models)
        return model

    def note(module: nn.Module, _: object) -> None:
        if module in theirs and isinstance(module, UNet | ClipText | Encoder | Decoder):
            work.append((type(module).__name__, holding(models)))

    monkeypatch.setattr(shelf, "load", loaded)
    hook = register_module_forward_pre_hook(note)
    yield work
    hook.remove()


def same(a: list[Picture], b: list[Picture]) -> bool:
    return all(
        torch.equal(x.latents, y.latents) and x.image.tobytes() == y.image.tobytes()
        for x, y in zip(a, b, strict=True)
    )


def test_one_network_at_a_time(tiny_file: Path, tmp_path: Path, watched: Work) -> None:
    PIL.Image.radial_gradient("L").convert("RGB").resize((32, 32)).save(tmp_path / "seen.png")
    whole, one = calotype.load(str(tiny_file)), calotype.load(str(tiny_file), offload=True)
    tasks: list[dict[str, object]] = [
        {"prompt": ["a red apple", "a green car"], "count": 2},
        {"prompt": "a red apple", "image": str(tmp_path / "seen.png"), "strength": 0.5},
        {"prompt": "a red apple", "hires_from": (16, 16), "width": 32, "height": 32},
    ]
    for asked in tasks:
        asked = {"seed": 3, "steps": 2, **asked}
        assert same(whole.pictures(**asked), one.pictures(**asked))  # type: ignore[arg-type]
    assert {name for name, _ in watched} == {"UNet", "ClipText", "Encoder", "Decoder"}
    assert {len(held) for _, held in watched} == {1}
    one.model.offload.rest()  # type: ignore[union-attr]
    assert one.model.device == torch.device("cpu")
    assert one.model.dtype == torch.float32


def test_loras(
    tiny_file: Path, tiny_model: LatentDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALOTYPE_MODELS", str(tmp_path))
    uses = [f"{write(tmp_path / f'{seed}.safetensors', tiny_model, seed)}:0.5" for seed in (1, 2)]
    whole, one = calotype.load(str(tiny_file)), calotype.load(str(tiny_file), offload=True)
    asked = {"seed": 3, "steps": 2, "prompt_syntax": "a1111"}
    prompts = ["a red apple", "a green car <lora:2:0.5>", "a red apple"]
    assert same(
        whole.pictures("a red apple", loras=uses, **asked), one.pictures("a red apple", loras=uses, **asked)
    )
    assert same(whole.pictures(prompts, **asked), one.pictures(prompts, **asked))


@pytest.mark.verify
def test_a_refiner_takes_its_place_in_the_row(tmp_path: Path, watched: Work) -> None:
    base, refiner = (
        str(written_by_diffusers(name, tmp_path / name).folder) for name in ("sdxl", "sdxl-refiner")
    )
    asked = {"refiner": refiner, "refiner_at": 0.5, "steps": 4, "seed": 3, "width": 24, "height": 16}
    (whole,) = calotype.load(base).pictures("a red apple", **asked)  # type: ignore[arg-type]
    assert not watched
    (one,) = calotype.load(base, offload=True).pictures("a red apple", **asked)  # type: ignore[arg-type]
    assert same([whole], [one])
    assert {len(held) for _, held in watched} == {1}
    assert len({held for name, held in watched if name == "UNet"}) == 2


def test_from_the_command_line(
    tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def drawn(*more: str) -> bytes:
        words = (
            "generate",
            "a red apple",
            "a green car",
            "--model",
            str(tiny_file),
            "--steps",
            "1",
            "--seed",
            "7",
        )
        assert command([*words, "-o", str(tmp_path / "x.png"), *more]) == 0
        return b"".join(PIL.Image.open(path).tobytes() for path in sorted(tmp_path.glob("x-*.png")))

    whole = drawn("--no-offload")
    assert drawn("--offload") == whole
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(memory, "free", lambda _: 10**5)
    assert drawn() == whole
    assert "networks are loaded one at a time" in capsys.readouterr().err


def test_when_memory_is_short(tiny_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, device = shelf.recognise(tiny_file), torch.device("cpu")
    model = found.load()
    weights = sum(memory.held(found.stored).values())
    assert weights == 4 * sum(p.numel() for part in model.parts().values() for p in part.parameters())
    need = memory.estimate(found.config, weights)
    monkeypatch.setattr(memory, "free", lambda _: need.peak)
    assert not memory.short(need, device)
    monkeypatch.setattr(memory, "free", lambda _: need.peak - 1)
    assert memory.short(need, device)
    halves = memory.estimate(found.config, sum(memory.held(found.stored, 2).values()), 2)
    assert halves.peak == need.peak // 2
    monkeypatch.setattr(memory, "free", lambda _: None)  # nobody says
    assert not memory.short(need, device)
