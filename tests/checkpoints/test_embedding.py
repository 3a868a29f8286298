"""Textual inversions in every layout; A1111's and diffusers' reading of the words they teach."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.checkpoints.families import CONFIGS, TOKENIZER
from tests.networks.reference import randomise
from torch import Tensor, nn

from calotype.checkpoints import collection, embedding
from calotype.conditioning.prompt import chunks, parse
from calotype.errors import CheckpointError, InputError
from calotype.models.latent_diffusion import LatentDiffusion, build


def model(name: str) -> LatentDiffusion:
    found = build(CONFIGS[name], TOKENIZER, seed=1)
    randomise(found.text_encoder)
    return found


@pytest.fixture(scope="module")
def sd1() -> LatentDiffusion:
    return model("sd1")


def vectors(count: int, width: int = 64, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def of_a1111(path: Path, value: Tensor, *, old: bool) -> Path:
    kept = nn.ParameterDict({"*": nn.Parameter(value)}) if old else {"*": value}
    tree = {"string_to_token": {"*": 265}, "string_to_param": kept, "name": "easy", "step": 500}
    tree |= {"sd_checkpoint": "abc", "sd_checkpoint_name": "v1-5"}
    torch.save(tree, path, _use_new_zipfile_serialization=not old)
    return path


def test_all_layouts(sd1: LatentDiffusion, tmp_path: Path) -> None:
    value = vectors(3)
    files = {
        of_a1111(tmp_path / "easy.pt", value, old=True): "easy",
        of_a1111(tmp_path / "hard.pt", value, old=False): "hard",
        tmp_path / "params.safetensors": "params",
        tmp_path / "x.safetensors": "<cat>",
        tmp_path / "y.bin": "<my.dog>",
    }
    save_file({"emb_params": value}, tmp_path / "params.safetensors")
    save_file({"<cat>": value}, tmp_path / "x.safetensors")
    torch.save({"<my.dog>": value}, tmp_path / "y.bin")
    for path, word in files.items():
        assert embedding.word_of(path) == word
        found = embedding.read(path, sd1)
        assert found.word == word
        assert len(found.vectors) == 1
        assert torch.equal(found.vectors[0], value)
    torch.save({"<one>": value[0].half()}, tmp_path / "one.bin")
    (one,) = embedding.read(tmp_path / "one.bin", sd1).vectors
    assert torch.equal(one, value[:1].half().float())


def test_sdxl_has_two(tmp_path: Path) -> None:
    path = tmp_path / "xl.safetensors"
    first, second = vectors(2), vectors(2, seed=1)
    save_file({"clip_g": second, "clip_l": first}, path)
    found = embedding.read(path, model("sdxl")).vectors
    assert torch.equal(found[0], first)
    assert torch.equal(found[1], second)
    (alone,) = embedding.read(path, model("sdxl-refiner")).vectors
    assert torch.equal(alone, second)
    with pytest.raises(
        CheckpointError, match="vectors for 2 text encoders, but the model sd1 has 1 text enc"
    ):
        embedding.read(path, model("sd1"))
    save_file({"clip_g": second, "clip_l": first[:1]}, path)
    with pytest.raises(CheckpointError, match="has 1 and 2 vectors"):
        embedding.read(path, model("sdxl"))


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"emb_params": torch.zeros(2, 768)}, "768 wide, but the text encoder of sd1 reads 64; use one that"),
        ({"emb_params": torch.zeros(0, 64)}, r"in the shape \[0, 64\]; a word has 1 to 1024 vectors"),
        ({"emb_params": torch.zeros(2000, 64)}, r"in the shape \[2000, 64\]"),
        ({"emb_params": torch.zeros(())}, r"in the shape \[\]"),
        ({"emb_params": torch.zeros(2, 64, 1)}, r"in the shape \[2, 64, 1\]"),
        ({"emb_params": torch.full((2, 64), float("nan"))}, "emb_params that are not finite"),
        ({"emb_params": torch.zeros(2, 64, dtype=torch.int32)}, r"as torch\.int32"),
        ({"a": torch.zeros(64), "b": torch.zeros(64)}, r"is no textual inversion \(a, b\)"),
        ({"conv.weight": torch.zeros(64)}, "is no textual inversion"),
        ({}, r"is no textual inversion \(it is empty\)"),
    ],
)
def test_what_is_none_is_one_sentence(
    sd1: LatentDiffusion, tensors: dict[str, Tensor], sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / "bad.safetensors"
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=sentence) as caught:
        embedding.read(path, sd1)
    assert str(path) in str(caught.value)


def test_a_file_that_calls_is_refused(sd1: LatentDiffusion, tmp_path: Path) -> None:
    class Call:
        def __reduce__(self) -> tuple[object, ...]:
            return print, ("called",)

    torch.save({"string_to_param": {"*": vectors(1)}, "x": Call()}, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError, match="print"):
        embedding.read(tmp_path / "bad.pt", sd1)


def test_words_are_read_whole_and_in_any_case() -> None:
    taught = TOKENIZER.taught({"Easy": (600,), "easy neg": (601, 602), "<cat>": (603,)})
    plain = TOKENIZER.ids
    assert taught.ids("a easy, car") == [*plain("a"), 600, *plain(", car")]
    assert taught.ids("EASY  neg") == [601, 602]
    assert taught.ids("uneasy easygoing") == plain("uneasy easygoing")
    assert taught.ids("a<cat>b") == [*plain("a"), 603, *plain("b")]
    assert taught.units("easy neg easy") == [(601, 602), (600,)]
    assert TOKENIZER.ids("easy") == plain("easy")  # the one it came from knows nothing
    assert taught.encode(["easy neg"])[0, :4].tolist() == [TOKENIZER.start, 601, 602, TOKENIZER.end]
    assert taught.dropped("car car car car car car car car car easy neg") == "easy neg"
    assert taught.dropped("easy neg") == ""


def test_the_vectors_of_a_word_stay_in_one_chunk() -> None:
    taught = TOKENIZER.taught({"word": (600, 601, 602, 603)})
    car = TOKENIZER.ids("car")
    assert len(car) == 1
    found = chunks(parse("car " * 8 + "(word:1.5) car"), taught)
    assert [chunk.ids for chunk in found] == [tuple(car * 8), (600, 601, 602, 603, *car)]
    assert found[1].weights == (1.5, 1.5, 1.5, 1.5, 1.0)


@torch.no_grad()
@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_a_word_that_repeats_what_is_known_says_the_same(name: str) -> None:
    """Vectors that are those of `red apple` make the features of `red apple`, and the encoder stays."""
    found = model(name)
    ids = TOKENIZER.ids("red apple")
    own = [tower.token_embedding.weight[ids].clone() for tower in found.text_encoder.towers]
    taught = found.text_encoder.taught({"<fruit>": own})
    wanted, before = found.text_encoder(["a red apple"]), found.text_encoder(["a <fruit>"])
    said = taught(["a <fruit>"])
    assert torch.equal(said.tokens, wanted.tokens)
    assert said.vector is None or torch.equal(said.vector, wanted.vector)
    emphasised = "a (<fruit>:1.3)"
    a, b = taught.encode_prompt(parse(emphasised)), taught.encode_prompt(parse("a (red apple:1.3)"))
    assert torch.equal(a.tokens, b.tokens)
    assert torch.equal(found.text_encoder(["a <fruit>"]).tokens, before.tokens)


@torch.no_grad()
def test_as_diffusers_reads_it(tmp_path: Path) -> None:
    """diffusers loads the same file, and its prompt with the word gives the same features."""
    import warnings

    import diffusers

    from calotype.checkpoints import diffusers_writer

    found = model("sd1")
    diffusers_writer.write(tmp_path / "m", found, None, {})
    value = vectors(3)
    save_file({"emb_params": value}, tmp_path / "easy.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "m")
        pipe.load_textual_inversion(str(tmp_path / "easy.safetensors"), token="<easy>")
        wanted, _ = pipe.encode_prompt("a <easy> apple", "cpu", 1, False)
    taught = found.text_encoder.taught(
        {"<easy>": embedding.read(tmp_path / "easy.safetensors", found).vectors}
    )
    torch.testing.assert_close(taught(["a <easy> apple"]).tokens, wanted, rtol=0, atol=1e-5)
    assert float((found.text_encoder(["a <easy> apple"]).tokens - wanted).abs().max()) > 0.1


def test_the_models_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CALOTYPE_MODELS", raising=False)
    assert collection.models_folder() is None
    monkeypatch.setenv("CALOTYPE_MODELS", str(tmp_path))
    assert collection.models_folder() == tmp_path
    (tmp_path / "styles" / "old").mkdir(parents=True)
    for name in ("styles/flat.safetensors", "styles/v1.2.safetensors", "a.pt", "styles/twice.safetensors"):
        (tmp_path / name).touch()
    (tmp_path / "styles/old/twice.safetensors").touch()
    for name in ("flat", "flat.safetensors"):
        assert collection.find(name, tmp_path) == tmp_path / "styles" / "flat.safetensors"
    assert collection.find("v1.2", tmp_path).name == "v1.2.safetensors"
    assert collection.find("a", tmp_path, (".safetensors", ".pt")).name == "a.pt"
    for name, sentence in (
        ("flatt", r"no flatt\.safetensors in .*; did you mean 'flat'"),
        ("zzzzz", "there are: a, styles/flat"),
        ("../flat", "There is no"),
        ("twice", "has several models called 'twice'"),
    ):
        with pytest.raises(InputError, match=sentence):
            collection.find(name, tmp_path)
    monkeypatch.setenv("CALOTYPE_MODELS", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"CALOTYPE_MODELS is .*nowhere, which is no folder"):
        collection.models_folder()
