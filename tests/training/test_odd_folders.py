"""Folders that are not as one would expect: captions in many tongues, a single picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from calotype.checkpoints import native
from calotype.models.presets import tiny
from calotype.tasks.picture import read
from calotype.tasks.studio import Studio
from calotype.training.config import override
from calotype.training.fit import Plan, Run
from calotype.training.recipes import tiny_diffusion, tiny_text
from calotype.training.sessions import prepare_diffusion, prepare_text, read_data

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard.*")

CAPTIONS = (
    "un café à la crème, 10 €",
    "красный дом у реки",
    "赤いリンゴと猫",
    "تفاحة حمراء صغيرة",
    "👩‍🚀 🏳️‍🌈 🇩🇪 🚀",
)


def go(run: Run) -> dict[str, Any]:
    for _ in run.steps():
        pass
    return run.finish({})


def silent(what: str, done: int, total: int) -> None:
    del what, done, total


def test_captions_in_four_languages_and_emoji(tiny_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tongues"
    folder.mkdir()
    for i, caption in enumerate(CAPTIONS):
        Image.new("RGB", (32, 32), (40 * i, 90, 200)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(caption, encoding="utf-8")
    data = read_data(folder, 32, strict=True, watch=silent)
    assert {record.captions for record in (*data.records, *data.held_out_records)} == {
        (caption,) for caption in CAPTIONS
    }
    config = override(tiny_diffusion(), ["steps=2", "sample_every=2", f"sample_prompts={';'.join(CAPTIONS)}"])
    plan = Plan(tmp_path / "run", device="cpu")
    go(prepare_diffusion(config, tiny(), data, plan, autoencoder=tiny_file, watch=silent))
    assert (tmp_path / "run" / "samples" / "step-00000002.png").is_file()
    model = native.load(tmp_path / "run" / "model.safetensors")
    rows = model.text_encoder.tokenize(CAPTIONS)[0].tolist()
    assert len({tuple(row) for row in rows}) == len(CAPTIONS), "no two are read alike"
    studio = Studio(model, str(tmp_path / "run" / "model.safetensors"))
    picture = studio.pictures(CAPTIONS[-1], seed=1, steps=1)[0]
    picture.save(tmp_path / "emoji.png")
    assert read(tmp_path / "emoji.png")[1].request.prompts == (CAPTIONS[-1],)


def test_one_picture_trains_everything(tiny_file: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    Image.new("RGB", (40, 30), "teal").save(tmp_path / "one" / "only.png")
    data = read_data(tmp_path / "one", 32, strict=True, watch=silent)
    assert (len(data.pictures), len(data.held_out)) == (1, 0)
    settings = ["steps=2", "evaluate_every=1", "sample_every=1"]
    made = {
        "text": prepare_text(
            override(tiny_text(), settings),
            tiny(),
            data,
            Plan(tmp_path / "text", device="cpu"),
            autoencoder=tiny_file,
            watch=silent,
        ),
        "diffusion": prepare_diffusion(
            override(tiny_diffusion(), settings),
            tiny(),
            data,
            Plan(tmp_path / "diffusion", device="cpu"),
            autoencoder=tiny_file,
            watch=silent,
        ),
    }
    for name, run in made.items():
        report = go(run)
        assert report["finished"], name
        assert report["epochs"] == 8, "each batch of four holds it four times"
