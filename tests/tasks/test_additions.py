"""LoRAs and textual inversions in requests: from the command line, in prompts, in a Studio, replayed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import calotype
from calotype.checkpoints import lora, native
from calotype.checkpoints.lora_names import places
from calotype.cli.main import run as command
from calotype.errors import CheckpointError, InputError
from calotype.models.latent_diffusion import LatentDiffusion
from calotype.networks.lora import LowRank
from calotype.tasks import picture as files
from calotype.tasks.additions import EmbeddingUse, LoraUse
from calotype.tasks.generate import Progress
from calotype.tasks.picture import Picture
from calotype.tasks.request import Request

PROMPT = "a red apple"


def write(path: Path, model: LatentDiffusion, seed: int) -> Path:
    """A LoRA on every attention of the tiny model, in kohya's layout."""
    generator = torch.Generator().manual_seed(seed)
    changes: dict[str, dict[str, LowRank]] = {"denoiser": {}, "text_encoder": {}}
    for place in dict.fromkeys(places(model).values()):
        if "attend" in place.path or "attention" in place.path:
            out, into = place.layer.weight.shape
            down, up = (torch.randn(*size, generator=generator) for size in ((2, into), (out, 2)))
            changes[place.part][place.path] = LowRank(down, up, 0.3)
    lora.write(path, model, changes, "kohya")  # type: ignore[arg-type]
    return path


@pytest.fixture(scope="module")
def folder(tiny_model: LatentDiffusion, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("loras")
    write(found / "flat.safetensors", tiny_model, 1)
    write(found / "round.safetensors", tiny_model, 2)
    width = tiny_model.config.text[0].clip.width
    save_file({"emb_params": torch.randn(2, width)}, found / "easy.safetensors")
    return found


@pytest.fixture(scope="module")
def studio(tiny_file: Path) -> calotype.Studio:
    return calotype.load(str(tiny_file), device="cpu")


def latents(studio: calotype.Studio, prompt: str | list[str] = PROMPT, **options: object) -> list[Tensor]:
    asked = {"seed": 7, "steps": 2, "prompt_syntax": "a1111", **options}
    return [picture.latents for picture in studio.pictures(prompt, **asked)]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(map(torch.equal, a, b))


def test_a_studio_applies_and_removes_exactly(studio: calotype.Studio, folder: Path) -> None:
    before = {
        part: {name: value.clone() for name, value in module.state_dict().items()}
        for part, module in studio.model.parts().items()
    }
    plain = latents(studio)
    (merged,) = latents(studio, loras=[f"{folder / 'flat.safetensors'}:0.8"])
    (live,) = latents(studio, loras=[f"{folder / 'flat.safetensors'}:0.8"], lora_live=True)
    assert float((merged - plain[0]).abs().max()) > 0.01
    assert float((merged - live).abs().max() / merged.abs().max()) <= 1e-5
    assert same(latents(studio), plain)
    assert same(latents(studio, loras=[f"{folder / 'flat.safetensors'}:0"]), plain)
    for part, module in studio.model.parts().items():
        state = module.state_dict()
        assert state.keys() == before[part].keys()
        assert all(torch.equal(value, before[part][name]) for name, value in state.items())


def test_a_prompt_names_its_own(
    studio: calotype.Studio, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat, round_ = str(folder / "flat.safetensors"), str(folder / "round.safetensors")
    by_option = latents(studio, loras=[f"{flat}:0.5", f"{round_}:-1"])
    monkeypatch.setenv("CALOTYPE_MODELS", str(folder))
    assert same(latents(studio, PROMPT + "<lora:flat:0.5><lora:round:-1>"), by_option)
    monkeypatch.delenv("CALOTYPE_MODELS")
    named = PROMPT + "<lora:flat:0.5>"
    assert same(latents(studio, named, loras=[flat]), latents(studio, loras=[f"{flat}:0.5"]))
    # Several prompts: each picture as if alone, whatever stands beside it.
    prompts = [PROMPT, named, PROMPT + "<lora:round>", PROMPT]
    together = latents(studio, prompts, loras=[f"{flat}:0", f"{round_}:0"], seed=7)
    for i, prompt in enumerate(prompts):
        assert same([together[i]], latents(studio, prompt, loras=[f"{flat}:0", f"{round_}:0"], seed=7 + i))


def test_requests_that_alternate_do_not_meet(studio: calotype.Studio, folder: Path) -> None:
    def events(**options: object) -> Iterator[object]:
        return studio.events(Request(prompts=PROMPT, seed=7, steps=3, **options))

    def finish(found: Iterator[object]) -> Tensor:
        return next(event.latents for event in found if isinstance(event, Picture))

    flat = [str(folder / "flat.safetensors")]
    wanted = finish(events(loras=flat)), finish(events())
    first, second = events(loras=flat), events()
    for found in (first, second):
        next(event for event in found if isinstance(event, Progress))
    assert torch.equal(finish(second), wanted[1])
    assert torch.equal(finish(first), wanted[0])


def test_a_taught_word(studio: calotype.Studio, folder: Path) -> None:
    easy = str(folder / "easy.safetensors")
    plain = latents(studio, "a red easy")
    taught = latents(studio, "a red easy", embeddings=[easy])
    assert not same(taught, plain)
    assert same(latents(studio, "a red <x>", embeddings=[f"{easy}:<x>"]), taught)
    assert same(latents(studio, "a red easy", embeddings=[f"{easy}:<x>"]), plain)
    assert same(latents(studio, "a red easy", prompt_syntax="plain", embeddings=[easy]), taught)
    assert not same(latents(studio, "a red easy", negative="easy", embeddings=[easy]), taught)


def test_the_command_line_and_replay(
    tiny_file: Path,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moved = tmp_path / "loras"
    moved.mkdir()
    for name in ("flat", "easy"):
        (moved / f"{name}.safetensors").write_bytes((folder / f"{name}.safetensors").read_bytes())
    out = tmp_path / "out.png"
    given = (
        "generate",
        "a red easy",
        "--model",
        str(tiny_file),
        "--steps",
        "2",
        "--seed",
        "7",
        "-o",
        str(out),
    )
    added = ("--lora", f"{moved / 'flat.safetensors'}:0.8", "--embedding", f"{moved / 'easy.safetensors'}")
    assert command([*given, *added]) == 0
    record = files.read(out)[1].request
    (use,) = record.loras
    assert (use.name, use.weight, len(use.sha256 or "")) == ("flat", 0.8, 64)
    assert [use.word for use in record.embeddings] == ["easy"]
    assert Request.from_json(record.model_dump_json(include=set(Request.model_fields))).loras == record.loras
    assert str(tmp_path).encode() not in out.read_bytes()
    again = ["replay", str(out), "--model", str(tiny_file)]
    assert command([*again, "--look-in", str(moved)]) == 0
    assert "identical" in capsys.readouterr().out
    moved.rename(tmp_path / "elsewhere")  # found again by name in the models folder
    assert command(again) == 2
    assert "flat.safetensors; give its file, or name the folder" in capsys.readouterr().err
    monkeypatch.setenv("CALOTYPE_MODELS", str(tmp_path))
    assert command(again) == 0
    other = tmp_path / "elsewhere" / "flat.safetensors"
    other.write_bytes((folder / "round.safetensors").read_bytes())
    assert command(again) == 2
    assert "is another file than the one asked for" in capsys.readouterr().err
    assert command([*given[:-1], str(tmp_path / "b.png"), "--lora", "flatt"]) == 2
    assert "There is no flatt.safetensors in" in (said := capsys.readouterr().err)
    assert "did you mean 'flat'" in said
    assert not (tmp_path / "b.png").exists()


def test_what_fits_in_part_is_warned_of_and_what_does_not_refused(
    studio: calotype.Studio, folder: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    tensors = load_file(folder / "flat.safetensors")
    part = tmp_path / "part.safetensors"
    save_file({**tensors, "lora_unet_nowhere.lora_up.weight": torch.zeros(2, 2)}, part)
    with pytest.warns(UserWarning, match=r"only in part: 1 of its \d+ tensors .*lora_unet_nowhere.lora_up"):
        latents(studio, loras=[str(part)])
    none = tmp_path / "none.safetensors"
    save_file({f"lora_prior_{name}": value for name, value in tensors.items()}, none)
    with pytest.raises(CheckpointError, match="LoRA for another model than tiny"):
        latents(studio, loras=[str(none)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        latents(studio, loras=[str(folder / "flat.safetensors")])


def test_uses_are_parsed(tmp_path: Path) -> None:
    def loras(text: str) -> tuple[str, float]:
        (use,) = Request(prompts="a", loras=text).loras
        return use.file, use.weight

    assert loras("flat") == ("flat", 1.0)
    assert loras("a/flat.safetensors:0.8") == ("a/flat.safetensors", 0.8)
    assert loras("flat:-1") == ("flat", -1.0)
    assert loras("C:\\flat.safetensors") == ("C:\\flat.safetensors", 1.0)
    assert loras("odd:name") == ("odd:name", 1.0)
    (tmp_path / "x:1").touch()
    assert loras(str(tmp_path / "x:1")) == (str(tmp_path / "x:1"), 1.0)
    (use,) = Request(prompts="a", embeddings=["dir/easy.pt:my word"]).embeddings
    assert (use.file, use.word) == ("dir/easy.pt", "my word")
    (use,) = Request(prompts="a", embeddings=["C:\\easy.pt"]).embeddings
    assert (use.file, use.word) == ("C:\\easy.pt", None)
    assert Request(prompts="a", loras=[LoraUse(file="a"), {"file": "b", "weight": 2}]).loras[1].weight == 2


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"loras": ["x:nan"]}, "weight nan; give a number"),
        ({"loras": [":0.5"]}, "A LoRA has no file"),
        ({"loras": [""]}, "A LoRA has no file"),
        ({"loras": [3]}, "loras.0"),
        ({"loras": [{"file": "x", "much": 1}]}, "no field 'loras.0.much'"),
        ({"embeddings": ["x.pt:a(b"]}, "cannot be called 'a.b' in a prompt"),
        ({"embeddings": ["x.pt: "]}, "cannot be called ' '"),
        ({"embeddings": [""]}, "textual inversion has no file"),
    ],
)
def test_wrong_uses_are_one_sentence(fields: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Request(prompts="a", **fields)


def test_wrong_files_are_one_sentence(
    studio: calotype.Studio, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CALOTYPE_MODELS", raising=False)
    flat, easy = str(folder / "flat.safetensors"), str(folder / "easy.safetensors")
    twin = tmp_path / "flat.safetensors"
    twin.write_bytes((folder / "round.safetensors").read_bytes())
    long, wide = tmp_path / "long.safetensors", tmp_path / "wide.safetensors"
    save_file({"emb_params": torch.zeros(15, studio.model.config.text[0].clip.width)}, long)
    save_file({"emb_params": torch.zeros(1, 768)}, wide)
    for prompt, options, error, sentence in (
        (PROMPT, {"loras": ["nowhere"]}, InputError, "no file nowhere; give its file, or name the folder"),
        (PROMPT + "<lora:flat>", {}, InputError, "asks for the LoRA 'flat'; give its file"),
        (PROMPT + "<lora:flatt>", {"loras": [flat]}, InputError, "which is not given; did you mean 'flat'"),
        (PROMPT + "<lora:flat>", {"loras": [flat, str(twin)]}, InputError, "may be .* or .*; rename one"),
        (PROMPT, {"negative": "<lora:flat>"}, InputError, "negative prompt asks for the LoRA 'flat'"),
        (PROMPT, {"embeddings": [easy, f"{wide}:EASY"]}, InputError, "both stand for the word 'easy'"),
        (PROMPT, {"embeddings": [str(wide)]}, CheckpointError, "vectors 768 wide"),
        (PROMPT, {"embeddings": [str(long)]}, CheckpointError, "has 15 vectors, but .* 14 tokens at once"),
        (PROMPT, {"embeddings": [flat]}, CheckpointError, "is no textual inversion"),
        (PROMPT, {"loras": [easy]}, CheckpointError, "is no LoRA"),
        (PROMPT, {"loras": [LoraUse(file=flat, sha256="0" * 64)]}, InputError, "is another file than"),
        (PROMPT, {"embeddings": [EmbeddingUse(file=easy, sha256="0" * 64)]}, InputError, "is another file"),
    ):
        with pytest.raises(error, match=sentence) as caught:
            latents(studio, prompt, **options)
        assert "\n" not in str(caught.value)


def test_the_shipped_icons_take_a_lora(icons_model: LatentDiffusion, tmp_path: Path) -> None:
    path = write(tmp_path / "style.safetensors", icons_model, 3)
    found = lora.read(path, icons_model)
    assert found.unknown == ()
    assert found.changes["denoiser"]
    assert found.changes["text_encoder"]
    native.save(tmp_path / "icons.safetensors", icons_model)
    studio = calotype.load(str(tmp_path / "icons.safetensors"), device="cpu")
    options = {"steps": 1, "width": 32, "height": 32, "prompt_syntax": "plain"}
    assert not same(latents(studio, loras=[str(path)], **options), latents(studio, **options))
