"""ControlNets and the upscaler from the command line: files in, picture out, and back again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from safetensors.torch import save_file
from tests.checkpoints.families import CONFIGS, TOKENIZER, UNET1, XL
from tests.networks.reference import randomise

from calotype.checkpoints import diffusers_names, single_file
from calotype.cli import main as cli
from calotype.models.latent_diffusion import build
from calotype.networks.config import ControlNetConfig
from calotype.networks.controlnet import ControlNet
from calotype.tasks import picture as files

SETTINGS = ("--steps", 2, "--seed", 3, "--size", "24x16")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sd1.safetensors, upscaler.safetensors, two ControlNets and two pictures."""
    folder = tmp_path_factory.mktemp("files")
    for name in ("sd1", "sd-upscaler"):
        single_file.write(folder / f"{name}.safetensors", build(CONFIGS[name], TOKENIZER), None, {})
    for name, unet in (("control", UNET1), ("xl", XL)):
        net = ControlNet(ControlNetConfig(unet, hint_channels=(4, 6)))
        randomise(net)
        save_file(diffusers_names.controlnet().write(net.state_dict()), folder / f"{name}.safetensors")
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 24, 3), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_controlled_picture_and_its_replay(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = place / "out.png"
    net, control = place / "control.safetensors", ["--control-image", place / "0.png"]
    twice = ["--control", net, "--control", net, *control, "--control-image", place / "1.png"]
    asked = ("generate", "a red apple", "--model", place / "sd1.safetensors", *SETTINGS, "-o", out)
    code, printed, err = run(
        capsys, *asked, *twice, "--control-scale", 0.5, "--control-end", 0.5, "--control-end", 1
    )
    assert (code, err) == (0, "")
    assert printed.strip() == str(out)
    _, record = files.read(out)
    assert [(c.scale, c.end, c.picture.path) for c in record.request.controls] == [
        (0.5, 0.5, str(place / "0.png")),
        (0.5, 1.0, str(place / "1.png")),
    ]
    code, printed, _ = run(capsys, "replay", out)
    assert (code, "identical" in printed) == (0, True)
    kept = (place / "0.png").read_bytes()
    PIL.Image.new("RGB", (24, 16)).save(place / "0.png")
    code, _, err = run(capsys, "replay", out)
    assert code == 2
    assert "0.png is not the picture this one was made from" in err
    (place / "0.png").write_bytes(kept)


def test_a_picture_enlarged_and_its_replay(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = place / "large.png"
    asked = ("generate", "a red apple", "--model", place / "sd-upscaler.safetensors", "-o", out)
    code, _, err = run(capsys, *asked, *SETTINGS[:4], "--image", place / "0.png", "--noise-level", 5)
    assert (code, err) == (0, "")
    with PIL.Image.open(out) as large:
        assert large.size == (48, 32)
    code, printed, _ = run(capsys, "replay", out)
    assert (code, "identical" in printed) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--control", "control.safetensors"], 2, "--control is given 1 times and --control-image 0"),
        (["--control-image", "0.png"], 2, "--control is given 0 times"),
        (
            [
                *("--control", "control.safetensors", "--control-image", "0.png"),
                *("--control-scale", "1", "--control-scale", "2"),
            ],
            2,
            "--control-scale is given 2 times for 1 ControlNets",
        ),
        (["--control", "xl.safetensors", "--control-image", "0.png"], 1, "for Stable Diffusion XL"),
        (["--control", "sd1.safetensors", "--control-image", "0.png"], 1, "is no ControlNet"),
        (["--control", "control.safetensors", "--control-image", "no.png"], 2, "no.png is missing"),
        (["--control", "control.safetensors", "--control-image", "xl.safetensors"], 2, "is not a picture"),
        (["--noise-level", "3"], 2, "does not enlarge pictures"),
    ],
)
def test_wrong_input_is_one_sentence(
    place: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(place)
    before = sorted(place.iterdir())
    found, out, err = run(capsys, "generate", "x", "--model", "sd1.safetensors", *SETTINGS, *arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert err.count("\n") == 1
    assert sorted(place.iterdir()) == before
