"""Drawn pictures as a set, and CLIPScore against transformers' own processing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import PIL.Image
import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

import calotype
from calotype.conditioning.tokenizer import clip_merges, clip_vocabulary
from calotype.errors import InputError
from calotype.evaluation import samples as samples_room
from calotype.evaluation.given import CLIP_WEIGHT, Clip

CAPTIONS = ["a red apple", "a very long caption of " + "many words " * 40, ""]


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    merges = clip_merges()[:500]
    vocabulary = clip_vocabulary(merges)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    ends = len(vocabulary) - 1
    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = CLIPTextConfig(
        **small,
        vocab_size=len(vocabulary),
        max_position_embeddings=24,
        bos_token_id=ends - 1,
        eos_token_id=ends,
        pad_token_id=ends,
    )
    vision = CLIPVisionConfig(**small, image_size=32, patch_size=8)
    torch.manual_seed(0)
    CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8)
    ).save_pretrained(folder)
    return folder


def test_clip_score_is_transformers_cosine(clip_folder: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (3, 3, 32, 32), generator=generator, dtype=torch.uint8)
    found = Clip(clip_folder)(pictures, CAPTIONS)
    model = CLIPModel.from_pretrained(clip_folder).eval()
    tokenizer = CLIPTokenizer.from_pretrained(clip_folder)
    mean, std = (
        torch.tensor([0.48145466, 0.4578275, 0.40821073]),
        torch.tensor([0.26862954, 0.26130258, 0.27577711]),
    )
    expected = []
    for picture, caption in zip(pictures, CAPTIONS, strict=True):  # one by one: no padding between them
        pixels = ((picture.permute(1, 2, 0) / 255 - mean) / std).permute(2, 0, 1)[None]
        words = tokenizer([caption], truncation=True, max_length=24, return_tensors="pt")
        with torch.no_grad():
            output = model(**words, pixel_values=pixels)
        expected.append(output.logits_per_image[0, 0] / model.logit_scale.exp())
    assert torch.allclose(found, CLIP_WEIGHT * torch.stack(expected).clamp(min=0), atol=1e-5)
    assert 0 < found.max() <= CLIP_WEIGHT


def test_a_folder_without_a_clip_is_refused(tmp_path: Path, clip_folder: Path) -> None:
    with pytest.raises(InputError, match=r"holds no CLIP \(config.json is missing\)"):
        Clip(tmp_path)
    (tmp_path / "config.json").write_bytes((clip_folder / "config.json").read_bytes())
    with pytest.raises(InputError, match="does not hold a whole CLIP"):
        Clip(tmp_path)


def plain(number: int) -> PIL.Image.Image:
    return PIL.Image.new("RGB", (32, 32), (20 * number, 255 - 20 * number, 90))


def test_a_perfect_model_gets_perfect_figures(
    tiny_file: Path, tmp_path: Path, clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the network for features takes seconds; colours decide here
    monkeypatch.setattr(samples_room, "Features", lambda: lambda pictures: pictures.float().mean((2, 3)))
    for number in range(12):
        plain(number).save(tmp_path / f"{number:02}.png")
        (tmp_path / f"{number:02}.txt").write_text(f"shade {number}", encoding="utf-8")

    def perfect(prompts: Sequence[str], seed: int) -> list[PIL.Image.Image]:
        assert seed == 0
        return [plain(int(prompt.split()[-1])) for prompt in prompts]

    def blind(prompts: Sequence[str], seed: int) -> list[PIL.Image.Image]:
        del seed
        return [PIL.Image.new("RGB", (32, 32), "white")] * len(prompts)

    def figures(draw: object) -> dict[str, object]:
        found = calotype.evaluate(
            tiny_file,
            tmp_path,
            split="train",
            samples=12,
            draw=draw,
            clip=clip_folder,  # type: ignore[arg-type]
        )
        samples: dict[str, object] = found["samples"]
        assert samples["protocol"]["drawn"] == 12  # type: ignore[index]
        return samples

    good, bad = figures(perfect), figures(blind)
    assert good["precision"]["precision"] == good["recall"]["recall"] == good["coverage"]["coverage"] == 1  # type: ignore[index]
    assert good["effnet_lite0_frechet"]["frechet"] == pytest.approx(0, abs=1e-3)  # type: ignore[index]
    assert bad["recall"]["recall"] == 0  # type: ignore[index]
    assert bad["effnet_lite0_frechet"]["frechet"] > 1  # type: ignore[index]
    assert good["clip_score"] == good["real"]["clip_score"]  # type: ignore[index]
    assert good["clip_score"] != bad["clip_score"]


def test_clip_score_needs_samples(tiny_file: Path, tmp_path: Path, clip_folder: Path) -> None:
    with pytest.raises(InputError, match="say how many to draw"):
        calotype.evaluate(tiny_file, tmp_path, clip=clip_folder)
