"""`calotype inspect`, `calotype models` with a folder, and what `generate` shares with them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.checkpoints.families import CONFIGS, TOKENIZER

from calotype.checkpoints import memory, shelf, single_file
from calotype.checkpoints.convert import convert
from calotype.cli import main as cli
from calotype.models.latent_diffusion import build
from calotype.tasks import probe as room
from calotype.tasks.probe import Answer


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "sd1.safetensors"
    config = replace(CONFIGS["sd1"], about="Stable Diffusion 1.x")
    single_file.write(path, build(config, TOKENIZER), None, {})
    return path


def test_a_model(sd1: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "inspect", sd1)
    assert (code, err) == (0, "")
    for told in (
        "Stable Diffusion 1.x",
        "eps, by Calotype's own metadata",
        "float32",
        "all there",
        "estimated",
    ):
        assert told in out
    assert "SHA-256" not in out
    assert "where memory is short" not in out
    code, out, err = run(capsys, "inspect", sd1, "--deep")
    assert code == 0
    for told in ("SHA-256", "AutoV1", "AutoV2", "AutoV3", "all finite"):
        assert told in out


def test_what_it_takes_where_memory_is_short(
    sd1: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    single_file.write(tmp_path / "half.safetensors", shelf.load(sd1), torch.float16, {})
    monkeypatch.setattr(memory, "LEAST_STAYING", 0)
    code, out, err = run(capsys, "inspect", tmp_path / "half.safetensors")
    assert (code, err) == (0, "")
    assert "on a CPU where memory is short" in out
    told = json.loads(run(capsys, "inspect", tmp_path / "half.safetensors", "--json")[1])["memory"]
    assert 0.5 * told["weights"] < told["least"] < 0.6 * told["weights"]


def test_for_machines(sd1: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "inspect", sd1, "--json", "--deep")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert (told["kind"], told["family"], told["prediction"]) == ("model", "Stable Diffusion 1.x", "eps")
    assert told["path"] == str(sd1)
    assert told["misfit"] == {"missing": [], "unknown": [], "misshapen": []}
    (hashes,) = told["deep"]["hashes"].values()
    assert hashes["autov2"] == hashes["sha256"][:10]
    assert told["memory"]["peak"] > told["memory"]["weights"] > 0
    assert told["config"]["unet"]["in_channels"] == 4


def test_a_sick_model(sd1: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "more.safetensors"
    save_file(load_file(sd1) | {"odd": torch.zeros(1)}, path)
    code, out, err = run(capsys, "inspect", path)
    assert (code, err) == (1, "")
    assert "1 unknown: odd" in out
    assert f"calotype convert {path} {tmp_path / 'more-mended.safetensors'} --drop-unknown" in out


def test_a_lora_and_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    weights = {f"{name}.lora_down.weight": torch.zeros(4, 768), f"{name}.lora_up.weight": torch.zeros(8, 4)}
    save_file(weights, tmp_path / "style.safetensors", {"ss_output_name": "style " * 100})
    code, out, _ = run(capsys, "inspect", tmp_path / "style.safetensors")
    assert code == 0
    for told in ("a LoRA, Stable Diffusion 1.x", "4 (1 layers)", "U-Net: 1 attention", "(600 characters)"):
        assert told in out
    save_file({"emb_params": torch.zeros(3, 768)}, tmp_path / "cat.safetensors")
    code, out, _ = run(capsys, "inspect", tmp_path / "cat.safetensors")
    assert code == 0
    assert "a textual inversion, Stable Diffusion 1.x" in out
    assert "3 tokens" in out
    code, out, err = run(capsys, "inspect", tmp_path / "cat.safetensors", "--probe")
    assert (code, out) == (1, "")
    assert "is no whole model" in err


def test_a_picture(tiny_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = tmp_path / "out.png"
    run(capsys, "generate", "a red apple", "--model", tiny_file, "--seed", 7, "--steps", 1, "-o", made)
    code, out, err = run(capsys, "inspect", made)
    assert (code, err) == (0, "")
    for told in ("32x32", "a red apple", "seed              7", f"calotype replay {made}"):
        assert told in out
    code, out, _ = run(capsys, "inspect", made, "--json")
    assert json.loads(out)["request"]["seed"] == 7


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.safetensors", b"", "is empty"),
        ("x.ckpt", b"<html>", "is a web page"),
        ("x.safetensors", (2**62).to_bytes(8, "little") + b"{}", "cut short or damaged"),
        ("x.png", b"\x89PNG\r\n\x1a\nrubbish", "no readable picture"),
        ("x.txt", b"plain words, no weights", "neither a safetensors file nor one of torch.save"),
    ],
)
def test_foreign_files_are_one_sentence(
    name: str, content: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    code, out, err = run(capsys, "inspect", tmp_path / name)
    assert code in (1, 2)
    assert out == ""
    assert err.startswith("calotype: ")
    assert err.count("\n") == 1
    assert message in err


def test_the_probe_is_asked(capsys: pytest.CaptureFixture[str], sd1: Path, tmp_path: Path) -> None:
    code, out, _ = run(capsys, "inspect", "icons", "--probe", "--json")
    assert code == 0
    assert json.loads(out)["probe"]["kind"] == "v"
    made = tmp_path / "out.png"
    code, out, err = run(capsys, "generate", "x", "--probe", "--steps", 1, "-o", made)
    assert (code, out) == (0, f"{made}\n")
    assert "predicts v" in err
    code, _, err = run(capsys, "generate", "x", "--probe", "--prediction", "v", "-o", made)
    assert code == 2
    assert "give one of them" in err
    code, _, err = run(capsys, "generate", "x", "--probe", "--model", sd1, "--device", "cpu")
    assert code == 1, "an untrained network tells nothing"
    assert "answers like none of eps, v and x0" in err


def test_a_wrong_prediction_is_mended_by_the_command_that_is_named(
    sd1: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network is not trained, so its answer is given; tests/tasks/test_probe.py asks a real one."""
    monkeypatch.setattr(room, "probe", lambda _: Answer("v", 0.07, 0.95, -0.3))
    path = tmp_path / "wrong.safetensors"
    path.write_bytes(sd1.read_bytes())
    code, out, _ = run(capsys, "inspect", path, "--probe")
    assert code == 1
    assert "Its U-Net predicts v, but is taken for one that predicts eps" in out
    command = out.split("calotype convert ")[1].split("\n")[0].split()
    assert run(capsys, "convert", *command)[0] == 0
    assert run(capsys, "inspect", command[1], "--probe")[0] == 0
    monkeypatch.setattr(room, "probe", lambda _: Answer(None, 0.5, 0.5, 0.5))
    assert "neither eps nor v nor x0" in run(capsys, "inspect", path, "--probe")[1]


def test_the_folder_is_listed(
    sd1: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models"
    (folder / "loras").mkdir(parents=True)
    (folder / "sd1.safetensors").symlink_to(sd1)
    save_file({"emb_params": torch.zeros(3, 768)}, folder / "cat.safetensors")
    save_file({"x.lora_down.weight": torch.zeros(3, 768)}, folder / "loras" / "style.safetensors")
    weights = load_file(sd1)
    vae = {name: value for name, value in weights.items() if name.startswith("first_stage_model.")}
    save_file(vae, folder / "vae.safetensors")
    (folder / "broken.ckpt").write_bytes(b"<html>")
    monkeypatch.setenv("CALOTYPE_MODELS", str(folder))
    code, out, err = run(capsys, "models")
    assert (code, err) == (0, "")
    rows = {line.split()[0]: line for line in out.splitlines() if line}
    assert "icons" in rows
    for name, told in (
        ("sd1", "Stable Diffusion 1.x"),
        ("cat", "textual inversion"),
        ("loras/style", "LoRA"),
        ("vae", "autoencoder"),
        ("broken", "is a web page"),
    ):
        assert told in rows[name]
    assert run(capsys, "inspect", "sd1")[0] == 0
    code, _, err = run(capsys, "inspect", "sd2")
    assert code == 2
    assert "did you mean 'sd1'" in err
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()
    (folder / "loras" / "style.safetensors").unlink()
    assert "holds no models" in run(capsys, "models")[1]


def test_torch_is_left_out(sd1: Path, tmp_path: Path) -> None:
    """It takes seconds to load; a file of any format is described without it."""
    torch.save({"state_dict": load_file(sd1)}, tmp_path / "sd1.ckpt")
    convert(sd1, tmp_path / "folder", "diffusers")
    lora = {
        "lora_unet_x.lora_down.weight": torch.zeros(4, 8),
        "lora_unet_x.lora_up.weight": torch.zeros(8, 4),
    }
    save_file(lora, tmp_path / "lora.safetensors")
    names = ["icons", "photo", *map(str, (sd1, *sorted(tmp_path.iterdir())))]
    program = (
        "import sys; from calotype.cli.main import run; "
        "codes = [run(['models']), *(run(['inspect', name]) for name in sys.argv[1:])]; "
        "assert codes == [0] * len(codes), codes; assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program, *names], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("It can be used as it is.") == len(names) == 6
