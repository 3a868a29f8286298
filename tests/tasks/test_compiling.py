"""Networks under torch.compile: which ones, with what, and the same pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.checkpoints.families import written_by_diffusers
from tests.tasks.test_additions import write

import calotype
from calotype.cli.main import run as command
from calotype.errors import InputError
from calotype.models import compiling
from calotype.models.compiling import check_compiler
from calotype.models.latent_diffusion import LatentDiffusion

ASKED = {"prompt": "a red apple", "seed": 3, "steps": 2}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """torch.compile that compiles nothing and notes what of is called."""
    noted: list[str] = []

    def noting(call: object, **options: object) -> object:
        assert options == {"dynamic": False}

        def run(*given: object, **named: object) -> object:
            noted.append(type(call.__self__).__name__)  # type: ignore[attr-defined]
            return call(*given, **named)  # type: ignore[operator]

        return run

    monkeypatch.setattr(torch, "compile", noting)
    return noted


def test_networks_are_compiled_and_nothing_else(
    tiny_file: Path, tiny_model: LatentDiffusion, tmp_path: Path, calls: list[str]
) -> None:
    plain = calotype.load(str(tiny_file))
    for offload in (False, True):
        studio = calotype.load(str(tiny_file), compiled=True, offload=offload)
        (picture,) = studio.pictures(**ASKED)  # type: ignore[arg-type]
        assert set(calls) == {"UNet", "Decoder"}
        assert torch.equal(picture.latents, plain.pictures(**ASKED)[0].latents)  # type: ignore[arg-type]
        calls.clear()
    loras = [f"{write(tmp_path / 'x.safetensors', tiny_model, 1)}:0.5"]
    (changed,) = studio.pictures(**ASKED, loras=loras)  # type: ignore[arg-type]
    assert set(calls) == {"UNet", "Decoder"}, "a twin under LoRAs is compiled as well"
    assert torch.equal(changed.latents, plain.pictures(**ASKED, loras=loras)[0].latents)  # type: ignore[arg-type]
    assert not torch.equal(changed.latents, picture.latents)


def test_without_a_compiler(
    tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    check_compiler(torch.device("cpu"))  # this machine has one
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match="needs a C\\+\\+ compiler, and no-such-compiler is not to be found"):
        check_compiler(torch.device("cpu"))
    words = ["generate", "a", "--model", str(tiny_file), "--compile", "-o", str(tmp_path / "x.png")]
    assert command(words) == 2
    assert "name it in CXX" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    monkeypatch.delenv("CXX")
    monkeypatch.setattr(compiling.shutil, "which", lambda _: None)
    with pytest.raises(InputError, match=r"g\+\+ or clang\+\+ is not to be found"):
        check_compiler(torch.device("cpu"))
    monkeypatch.setattr(compiling, "find_spec", lambda _: None)
    with pytest.raises(InputError, match="the package triton"):
        check_compiler(torch.device("cuda"))


@pytest.mark.verify
@pytest.mark.filterwarnings("ignore:.*torch.jit")  # in what torch.compile imports
def test_compiled_and_plain_pictures(tmp_path: Path) -> None:
    """torch's own compiler; two minutes on a CPU, nearly all of them its."""
    folder = written_by_diffusers("sd1", tmp_path / "sd1").folder
    asked = {**ASKED, "width": 24, "height": 16}
    (plain,) = calotype.load(str(folder)).pictures(**asked)  # type: ignore[arg-type]
    (compiled,) = calotype.load(str(folder), compiled=True).pictures(**asked)  # type: ignore[arg-type]
    error = (compiled.latents - plain.latents).abs().max() / plain.latents.abs().max()
    assert float(error) <= 1e-4
    levels = [torch.tensor(list(p.image.tobytes())).float() for p in (plain, compiled)]
    assert float((levels[0] - levels[1]).abs().max()) <= 2
