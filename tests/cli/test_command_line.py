"""The command line: what it prints and writes, and one sentence for everything that is wrong."""

import subprocess
import sys
from pathlib import Path

import PIL.Image
import pytest

from calotype.cli import main as cli
from calotype.tasks import picture as files


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_picture_and_its_replay(here: Path, tiny_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(
        capsys, "generate", "a red apple", "--model", tiny_file, "--seed", 7, "-o", "out.png", "--timing"
    )
    assert (code, out) == (0, "out.png\n")
    for stage in ("start-up", "imports", "load", "text", "sampling", "decoding", "write", "together"):
        assert stage in err
    assert [path.name for path in here.iterdir()] == ["out.png"]
    assert str(tiny_file.parent).encode() not in Path("out.png").read_bytes()
    code, _, err = run(capsys, "replay", "out.png")
    assert (code, "model tiny.safetensors is not here; say with --model" in err) == (2, True)
    code, out, _ = run(capsys, "replay", "out.png", "--look-in", tiny_file.parent, "-o", "again.png")
    assert code == 0
    assert out == "out.png: identical, largest difference 0, mean 0.000000 of 255\n"
    assert files.read("again.png")[1] == files.read("out.png")[1]
    image, record = files.read("out.png")
    touched = image.copy()
    touched.paste((0, 0, 0), (0, 0, 9, 9))
    files.Picture(touched, None, record, 0).save("touched.png")  # type: ignore[arg-type]
    code, out, _ = run(capsys, "replay", "touched.png", "--model", tiny_file)
    assert code == 1
    assert "different, largest difference" in out


@pytest.mark.usefixtures("here")
def test_several_pictures_and_a_sheet(tiny_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(
        capsys,
        *("generate", "a red apple", "a green car", "--count", 2, "--model", tiny_file, "--seed", 7),
        *("--size", "24x16", "--steps", 2, "--sheet", "all.png", "--sampler", "ddim", "--option", "eta=1"),
        *("--interval", "0,100", "--apg", "--rescale", 0.5, "--negative", "blue", "--grid", "karras"),
        *("--noise", "philox", "--prompt-syntax", "a1111", "--clip-skip", 2),
    )
    assert code == 0
    names = ["a-red-apple-7.png", "a-red-apple-8.png", "a-green-car-9.png", "a-green-car-10.png"]
    assert out.split() == [*names, "all.png"]
    request = files.read("a-green-car-10.png")[1].request
    assert request.seed == 10
    assert request.prompts == ("a green car",)
    assert (request.width, request.height, request.steps) == (24, 16, 2)
    assert request.sampler_options == {"eta": 1.0}
    assert request.interval == (0, 100)
    assert (request.noise, request.prompt_syntax, request.clip_skip) == ("philox", "a1111", 2)
    assert request.apg is not None
    with PIL.Image.open("all.png") as sheet:
        assert sheet.size == (50, 34)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["generate", "x", "--model", "icon5"], 2, "There is no model 'icon5'"),
        (["generate", "x", "--model", "no/where.safetensors"], 2, "There is no file"),
        (["generate", "x", "--sampler", "dpmp_2m"], 2, "did you mean 'dpmpp_2m'?"),
        (["generate", "x", "--grid", "karas"], 2, "did you mean 'karras'?"),
        (["generate", "x", "--noise", "pytorch"], 2, "did you mean 'torch'?"),
        (["generate", "x", "--prompt-syntax", "plan"], 2, "did you mean 'plain'?"),
        (["generate", "x", "--clip-skip", "3", "--model", "TINY"], 2, "has 2 text layers, give 1 to 2"),
        (["generate", "(x:1.2.3)", "--prompt-syntax", "a1111", "--model", "TINY"], 2, "is no number"),
        (["generate", "<lora:x:1>", "--prompt-syntax", "a1111", "--model", "TINY"], 2, "the LoRA 'x'"),
        (["generate", "x", "--steps", "0"], 2, "steps is 0"),
        (["generate", "x", "--count", "0"], 2, "count is 0"),
        (["generate", "x", "--guidance", "nan"], 2, "guidance is nan"),
        (["generate", "x", "--guidance", "-1"], 2, "guidance is -1"),
        (["generate", "x", "--seed", "-1"], 2, "seed is -1"),
        (["generate", "x", "--seed", str(2**64)], 2, "seed is"),
        (["generate", "x", "--size", "big"], 2, "WIDTHxHEIGHT"),
        (["generate", "x", "--size", "60000"], 2, "width is 60000"),
        (["generate", "x", "--option", "eta"], 2, "not NAME=NUMBER"),
        (["generate", "x", "--interval", "1"], 2, "LOW,HIGH"),
        (["generate", "x", "--threads", "0", "--model", "TINY"], 2, "threads is 0"),
        (["generate", "x", "--device", "gpu9", "--model", "TINY"], 2, "no device 'gpu9'"),
        (["generate", "x", "--size", "31", "--model", "TINY"], 2, "nearest are 28 and 32"),
        (["generate", ""], 2, "prompt is empty"),
        (["generate", "word " * 10_000], 2, "10000 words"),
        (["generate"], 2, "There is no prompt"),
        (["generate", "--label", "boot", "--model", "TINY"], 2, "draws what words say"),
        (["generate", "x", "--stepz", "3"], 2, "No such option"),
        (["generate", "x", "--steps", "many"], 2, "steps"),
        (["generate", "x", "-o", "missing/out.png"], 1, "missing does not exist"),
        (["generate", "x", "-o", "out.jpg"], 1, "should end in .png"),
        (["generate", "x", "-o", "folder.png"], 1, "is a folder"),
        (["generate", "x", "--sheet", "missing/out.png"], 1, "missing does not exist"),
        (["generate", "x", "--model", "broken.safetensors"], 1, "cut short"),
        (["replay", "plain.png"], 2, "does not say how it was made"),
        (["generate", "x", "--image", "plain.png", "-o", "plain.png", "--model", "TINY"], 1, "begins from"),
        (["denoise", "plain.png", "-o", "plain.png"], 1, "begins from"),
        (["inpaint", "plain.png", "plain.png", "-o", "plain.png"], 1, "begins from"),
        (["denoise", "plain.png", "-o", "folder.png"], 1, "is a folder"),
        (["replay", "missing.png"], 2, "There is no file missing.png;"),
        (["replay", "broken.safetensors"], 2, "no readable picture"),
        (["data", "icons", "broken.safetensors"], 1, "is a file"),
        (["data", "photos", "broken.safetensors"], 1, "is a file"),
        (["data", "mnist", "broken.safetensors"], 1, "is not an empty folder"),
        (["data", "photos", "new", "--from", "nowhere"], 1, "nowhere is not a folder"),
        (["paint", "x"], 2, "No such command"),
    ],
)
def test_wrong_input_is_one_sentence_and_leaves_nothing(
    here: Path,
    tiny_file: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    (here / "folder.png").mkdir()
    (here / "broken.safetensors").write_bytes(tiny_file.read_bytes()[:1000])
    PIL.Image.new("RGB", (8, 8)).save(here / "plain.png")
    before = sorted(here.iterdir())
    given = [str(tiny_file) if argument == "TINY" else argument for argument in arguments]
    found, out, err = run(capsys, *given)
    assert (found, out) == (code, "")
    assert message in err
    assert err.startswith("calotype: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert sorted(here.iterdir()) == before


@pytest.mark.usefixtures("here")
def test_other_weights_are_not_replayed(tiny_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from calotype.checkpoints import native

    run(capsys, "generate", "x", "--model", tiny_file, "--seed", 1, "-o", "out.png")
    other = native.load(tiny_file)
    next(other.denoiser.parameters()).data += 1
    native.save("other.safetensors", other)
    code, out, err = run(capsys, "replay", "out.png", "--model", "other.safetensors")
    assert (code, out) == (2, "")
    assert "made with other weights" in err


def test_finished_latents_survive_a_failing_decoder(
    here: Path, tiny_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from calotype.tasks import latents

    asked = ("generate", "x", "--model", tiny_file, "--count", 2, "--seed", 3, "--steps", 1)
    assert run(capsys, *asked, "-o", "whole.png")[0] == 0
    decode, left = latents.decode, iter([True])

    def fail_second(*arguments: object) -> PIL.Image.Image:
        if next(left, None):
            return decode(*arguments)  # type: ignore[arg-type]
        raise RuntimeError("out of memory")

    with monkeypatch.context() as broken:
        broken.setattr(latents, "decode", fail_second)
        code, out, err = run(capsys, *asked, "-o", "out.png")
    assert (code, out) == (1, "out-0.png\n")
    assert "out of memory" in err
    assert f"calotype decode --model {tiny_file} out-1.latents.safetensors" in err
    names = ["out-0.png", "out-1.latents.safetensors", "whole-0.png", "whole-1.png"]
    assert sorted(path.name for path in here.iterdir()) == names
    code, out, _ = run(capsys, "decode", "out-1.latents.safetensors", "--model", tiny_file)
    assert (code, out) == (0, "out-1.png\n")
    (image, record), (whole, told) = files.read("out-1.png"), files.read("whole-1.png")
    assert record == told
    assert image.tobytes() == whole.tobytes()
    code, _, err = run(capsys, "decode", tiny_file)
    assert code == 2
    assert "holds no latents that Calotype kept" in err


@pytest.mark.usefixtures("here")
def test_finished_latents_survive_a_killed_process(tiny_file: Path) -> None:
    """As the system ends one that takes too much memory."""
    script = (
        "import os, signal\n"
        "from calotype.cli import main\n"
        "from calotype.tasks import latents\n"
        "latents.decode = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"main.run(['generate', 'x', '--model', {str(tiny_file)!r}, '--steps', '1', '-o', 'out.png'])\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    assert [path.name for path in Path().iterdir()] == ["out.latents.safetensors"]
    assert cli.run(["decode", "out.latents.safetensors", "--look-in", str(tiny_file.parent)]) == 0
    assert files.read("out.png")[0].size == (32, 32)


def test_a_cut_prompt_is_told(here: Path, tiny_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = "a red apple " * 10 + "zebra"
    code, _, err = run(capsys, "generate", long, "--model", tiny_file, "--steps", 1, "-o", here / "out.png")
    assert code == 0
    assert "left out of the prompt" in err
    assert "zebra" in err


def test_ctrl_c_is_quiet(
    here: Path, tiny_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from calotype.tasks import start

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(start, "steady", lambda *_: interrupt)
    code, out, err = run(capsys, "generate", "x", "--model", tiny_file, "-o", "out.png")
    assert (code, out, err) == (130, "", "")
    assert list(here.iterdir()) == []


def test_models_are_listed(
    tiny_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from calotype.checkpoints import native, shelf

    monkeypatch.setattr(shelf, "shipped", lambda: {"tiny": tiny_file})
    code, out, err = run(capsys, "models")
    assert (code, err) == (0, "")
    assert native.describe(tiny_file).weights_hash[:12] in out
    assert "32x32" in out
    assert "a toy for tests" in out
    monkeypatch.setattr(shelf, "shipped", dict)
    assert run(capsys, "models") == (0, "There are no models in this package.\n", "")


@pytest.mark.parametrize("command", [[], ["train"], ["data"]])
def test_help_where_nothing_is_asked(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    _, out, err = run(capsys, *command)
    assert "Usage: calotype" in out + err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "command",
    [
        ["generate"],
        ["replay"],
        ["vary"],
        ["models"],
        ["convert"],
        ["serve"],
        ["inspect"],
        ["evaluate"],
        ["train", "autoencoder"],
        ["train", "diffusion"],
        ["data", "icons"],
    ],
)
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    code, out, _ = run(capsys, *command, "--help")
    assert code == 0
    assert "Usage: calotype " + " ".join(command) in out


def test_the_installed_command() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from calotype.cli.main import main; main(['--version'])"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.startswith("calotype 0.")
    assert done.stderr == ""
