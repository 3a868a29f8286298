"""An audit of a model that copies, and of one that does not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import PIL.Image
import pytest
import torch

from calotype.data.folder import PictureFolder
from calotype.errors import DataError
from calotype.evaluation import audit as auditing
from calotype.evaluation import membership as member_room
from calotype.evaluation.audit import audit, of_same_kinds
from calotype.evaluation.membership import membership
from calotype.models.latent_diffusion import LatentDiffusion


def noise(seed: int) -> PIL.Image.Image:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (8, 8, 3), generator=generator, dtype=torch.uint8)
    return PIL.Image.fromarray(coarse.numpy()).resize((32, 32), PIL.Image.Resampling.NEAREST)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    lines = []
    for i in range(60):
        noise(i).save(folder / f"{i}.png")
        split = "train" if i < 40 else "test"
        record = {"file_name": f"{i}.png", "text": f"picture {i}", "split": split, "kind": "ab"[i % 2]}
        lines.append(json.dumps(record))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def number(prompt: str) -> int:
    return int(prompt.split()[-1])


def test_a_copying_model_is_caught(
    tiny_file: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the network for features takes seconds; pixels decide here
    monkeypatch.setitem(auditing._SPACES, "features", auditing._SPACES["pixels"])

    def copying(prompts: Sequence[str], seed: int) -> list[PIL.Image.Image]:
        assert seed == 0
        return [noise(number(prompt)) for prompt in prompts]

    def honest(prompts: Sequence[str], seed: int) -> list[PIL.Image.Image]:
        del seed
        return [noise(1000 + number(prompt)) for prompt in prompts]

    found = audit(tiny_file, pictures, copying, samples=12, members=12, out=tmp_path / "audit.json")
    assert json.loads((tmp_path / "audit.json").read_text()) == found.figures
    assert found.figures["memorisation"]["pixels"]["near_copies"]["share"] == 1
    assert found.figures["protocol"]["training"] == 40
    drawn, nearest = found.sheet[::2], found.sheet[1::2]
    assert torch.equal(drawn, nearest)
    assert set(found.distances) == {0.0}
    assert all(number(caption) < 40 for caption in found.captions)
    better = audit(tiny_file, pictures, honest, samples=12, members=12)
    assert better.figures["memorisation"]["pixels"]["near_copies"]["share"] <= 1 / 12
    assert not torch.equal(better.sheet[0], better.sheet[1])


def test_a_random_model_knows_no_members(tiny_model: LatentDiffusion) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, 256, (40, 3, 32, 32), generator=generator, dtype=torch.uint8)
    words = ["a red apple"] * 20
    found = membership(tiny_model, (drawn[:20], words), (drawn[20:], words))
    for name in ("captioned", "uncaptioned"):
        assert found[name]["low"] < 0.5 < found[name]["high"]
        assert set(found[name]["by_level"]) == {"0.1", "0.3", "0.5", "0.7"}


def test_lower_losses_give_members_away(tiny_model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    def errors(model: object, pictures: torch.Tensor, texts: object, levels: torch.Tensor) -> torch.Tensor:
        del model, texts
        base = pictures[:, 0, 0, :1].float() * torch.ones_like(levels)  # (N 1) -> (N E)
        return torch.stack([base, torch.ones_like(levels)])  # (2 N E): under no words all are alike

    monkeypatch.setattr(member_room, "denoising_errors", errors)
    pictures = torch.arange(20, dtype=torch.uint8)[:, None, None, None].expand(20, 3, 32, 32)
    words = [""] * 10
    found = membership(tiny_model, (pictures[:10], words), (pictures[10:], words))
    assert found["captioned"]["auc"] == found["captioned"]["caught"] == 1
    assert found["uncaptioned"]["auc"] == 0.5
    assert found["uncaptioned"]["caught"] == 0
    assert membership(tiny_model, (pictures[10:], words), (pictures[:10], words))["captioned"]["auc"] == 0


def test_both_sides_have_the_same_kinds(pictures: Path) -> None:
    records = PictureFolder(pictures).records
    known, unseen = records[:40:4] + records[1:40], records[40:50]
    same, other = of_same_kinds(known, unseen, 6)
    assert len(same) == len(other) == 6
    assert sorted(r.meta["kind"] for r in same) == sorted(r.meta["kind"] for r in other)


def test_a_folder_without_held_out_pictures_is_refused(tiny_file: Path, tmp_path: Path) -> None:
    noise(1).save(tmp_path / "a.png")

    def never(prompts: Sequence[str], seed: int) -> list[PIL.Image.Image]:
        raise AssertionError(f"{prompts} {seed}")

    with pytest.raises(DataError, match="has 0 pictures of a validation or test split"):
        audit(tiny_file, tmp_path, never)
