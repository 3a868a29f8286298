"""Training a ControlNet: what it begins as, what learns, what others read in the end, what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import safetensors.torch
import torch
from tests.checkpoints.families import CONFIGS, TOKENIZER
from tests.networks.reference import randomise, relative_error
from tests.training.test_tuning import QUICK, SOON, go, plan, same, silent, weights

import calotype
from calotype.checkpoints import controlnet, native, shelf, single_file
from calotype.data.edges import edges
from calotype.errors import DataError, InputError, TrainingError
from calotype.models.latent_diffusion import build
from calotype.networks.layers import sinusoids
from calotype.training.config import override
from calotype.training.control import ControlObjective
from calotype.training.fit import Run
from calotype.training.sessions import DataSet, picture_shapes, read_data
from calotype.training.tune_config import ControlTraining, FineTuning
from calotype.training.tuning import Base, prepare_controlnet

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard.*")


@pytest.fixture(scope="module")
def data(shapes: Path) -> DataSet:
    return read_data(shapes, 32, strict=True, watch=silent)


@pytest.fixture(scope="module")
def file_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A family's tiny model, random in every weight: a single file, or of "icons" Calotype's own."""
    folder = tmp_path_factory.mktemp("models")

    def of(name: str) -> Path:
        path = folder / f"{name}.safetensors"
        if not path.exists():
            config = CONFIGS["sd1" if name == "icons" else name]
            if name == "icons":  # text pooled into a plain vector, and an outline
                text = (dataclasses.replace(config.text[0], pooled=True),)
                unet = dataclasses.replace(config.unet, vector_width=64, outline_cells=2)
                config = dataclasses.replace(config, name="icons", text=text, unet=unet)
            model = build(config, TOKENIZER, seed=1)
            for part in model.parts().values():
                randomise(part)
            write = native.save if name == "icons" else single_file.write
            write(path, model, *(() if name == "icons" else (torch.float32, {})))
        return path

    return of


def control_run(
    base: Base, data: DataSet, folder: Path, *settings: str, control: Path | None = None, **options: Any
) -> Run:
    config = override(ControlTraining(), [*QUICK, *SOON, *settings])
    root = data.records[0].path.parent
    return prepare_controlnet(
        config, base, data, plan(folder, **options), folder=root, control=control, watch=silent
    )


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["icons", *(pytest.param(n, marks=pytest.mark.verify) for n in ("sd1", "sdxl"))]
)
def test_before_it_learns_the_model_draws_what_it_drew_to_the_bit(
    file_of: Callable[[str], Path], data: DataSet, tmp_path: Path, name: str
) -> None:
    run = control_run(Base.of(str(file_of(name))), data, tmp_path / "run")
    objective, plain = run.objective, shelf.load(file_of(name))
    assert isinstance(objective, ControlObjective)
    told = objective.batch(torch.arange(3), 0, slice(None))
    known = objective.known(**{name: told[name] for name in told if name not in {"noise", "sigma"}})
    x, label = told["latents"].contiguous(), torch.tensor([3.0, 500.0, 999.0])
    bare = dataclasses.replace(known, control=None, strength=None)
    ours, theirs = (  # in one layout, on which the order of sums depends
        net.to(memory_format=torch.contiguous_format).raw(said)(x, label)
        for net, said in ((objective.denoiser, known), (plain.denoiser, bare))
    )
    assert torch.equal(ours, theirs)
    # the copy sees what the U-Net sees, and differs in nothing that both have
    shared, own = plain.denoiser.network.state_dict(), objective.net.state_dict()
    both = [name for name in own if name in shared and name != "enter.weight"]
    assert len(both) > 20
    same({name: own[name] for name in both}, {name: shared[name] for name in both})
    run.folder.close()


@pytest.mark.filterwarnings("ignore")  # diffusers warns of its own
@pytest.mark.verify
@pytest.mark.parametrize("name", ["icons", "sd1", "sdxl"])
def test_it_learns_alone_and_diffusers_loads_what_it_learned(
    file_of: Callable[[str], Path], data: DataSet, tmp_path: Path, name: str
) -> None:
    from diffusers import ControlNetModel

    base = Base.of(str(file_of(name)))
    run = control_run(
        base, data, tmp_path / "run", "steps=8", "batch=4", "learning_rate=0.01", "sample_every=8"
    )
    before = weights(base.load())
    go(run)
    model = run.objective._model[0]
    same({key: value for key, value in weights(model).items() if ".controls." not in key}, before)
    stored = safetensors.torch.load_file(sorted((tmp_path / "run" / "checkpoints").glob("*"))[-1])
    assert {key.split("/")[1].split(".")[0] for key in stored} == {"net"}
    found = controlnet.recognise(tmp_path / "run" / "controlnet")
    found.check(base.config)
    alone = controlnet.recognise(tmp_path / "run" / "controlnet" / "diffusion_pytorch_model.safetensors")
    assert alone.config == found.config
    ours = found.load(dtype=torch.float64)
    theirs = ControlNetModel.from_pretrained(tmp_path / "run" / "controlnet", torch_dtype=torch.float64)
    draw = torch.Generator().manual_seed(0)
    x, picture = (torch.rand(2, n, s, s, generator=draw).double() for n, s in ((4, 8), (3, 16)))
    context = torch.randn(2, 5, found.config.unet.context_width, generator=draw).double()
    width, sizes = found.config.unet.vector_width, base.config.sizes
    vector = None if width is None else torch.randn(2, width, generator=draw).double()
    more: dict[str, Any] = {}
    if vector is not None and sizes is None:
        more = {"class_labels": vector}
    elif vector is not None and sizes is not None:
        ids = torch.arange(12.0, dtype=torch.float64).view(2, 6)
        count = 6 * sizes.features
        more = {"added_cond_kwargs": {"text_embeds": vector[:, :-count], "time_ids": ids}}
        features = sinusoids(ids.flatten(), sizes.features).double().view(2, -1)  # (12 F) -> (2 6*F)
        vector = torch.cat([vector[:, :-count], features], dim=1)
    with torch.no_grad():
        down, middle = theirs(
            x, torch.tensor([3, 500]), context, controlnet_cond=picture, return_dict=False, **more
        )
        made = ours(x, ours.hinted(picture), torch.tensor([3.0, 500.0]), context, vector)
    assert len(made) == len(down) + 1
    for a, b in zip(made, (*down, middle), strict=True):
        assert float(b.abs().max()) > 0
        assert relative_error(a, b) <= 1e-6


@pytest.mark.verify
def test_the_loss_falls_where_the_control_picture_tells_what_words_do_not(
    tiny_file: Path, shapes: Path, data: DataSet, tmp_path: Path
) -> None:
    """Each picture is its own control picture, and no word is said."""
    shutil.copytree(shapes, tmp_path / "control", ignore=shutil.ignore_patterns("*.jsonl"))
    settings = ("steps=60", "batch=4", "learning_rate=0.01", "caption_dropout=1", "warmup=5")
    run = control_run(
        Base.of(str(tiny_file)), data, tmp_path / "run", *settings, control=tmp_path / "control"
    )
    told = run.objective.batch(torch.arange(16), 0, slice(None))

    def loss(**changed: torch.Tensor) -> float:
        with torch.no_grad():
            return float(run.objective(**told | changed)["loss"])

    before = loss()
    go(run)
    after, blind = loss(), loss(picture=torch.zeros_like(told["picture"]))
    assert after < 0.9 * before
    assert after < 0.95 * blind, "it has learnt to look"


@pytest.mark.verify
def test_an_interrupted_run_ends_with_the_same_bits(
    file_of: Callable[[str], Path], data: DataSet, tmp_path: Path
) -> None:
    base = Base.of(str(file_of("sd1")))
    go(control_run(base, data, tmp_path / "whole"))
    steps = control_run(base, data, tmp_path / "broken").steps()
    for _ in range(3):  # the checkpoint is of step 2
        next(steps)
    steps.close()
    go(control_run(base, data, tmp_path / "broken", resume=True))
    ends = [sorted((tmp_path / name / "checkpoints").glob("*"))[-1] for name in ("whole", "broken")]
    same(*(safetensors.torch.load_file(path) for path in ends))


def test_control_pictures_lie_upon_their_pictures(
    file_of: Callable[[str], Path], shapes: Path, data: DataSet, tmp_path: Path
) -> None:
    control = tmp_path / "control"
    control.mkdir()
    for i, record in enumerate((*data.records, *data.held_out_records)):
        PIL.Image.new("RGB", (64, 64), (i, 0, 200)).save(control / f"{record.path.stem}.bmp")
    base = Base.of(str(file_of("sd1")))
    for number, settings in enumerate(((), ("aspect=2", "image_size=32"))):
        config = override(ControlTraining(), [*QUICK, *SOON, *settings])
        own = read_data(shapes, 32, strict=True, watch=silent, shapes=picture_shapes(config, base.config))
        run = control_run(base, own, tmp_path / f"run{number}", *settings, control=control)
        told = run.objective.batch(torch.tensor([4, 2]), 0, slice(None))["picture"]
        assert told.shape == (2, 3, 32, 32)
        assert (told[:, 0, 5, 5] * 255).round().tolist() == [4, 2]
        assert (run.objective.validation()[0]["picture"][0, 0, 5, 5] * 255).round() == len(data.records)
        run.folder.close()
    go(control_run(base, data, tmp_path / "run", control=control))
    with pytest.raises(TrainingError, match="has control "):
        control_run(base, data, tmp_path / "run", resume=True)  # on edges
    name = data.records[3].path.stem
    PIL.Image.new("RGB", (64, 32)).save(control / f"{name}.bmp")
    with pytest.raises(DataError, match=f"{name}.bmp is 64x32, but its picture"):
        control_run(base, data, tmp_path / "other", control=control)
    (control / f"{name}.bmp").unlink()
    with pytest.raises(DataError, match=f"no control picture .*{name}.png"):
        control_run(base, data, tmp_path / "other", control=control)
    with pytest.raises(DataError, match="is not a folder"):
        control_run(base, data, tmp_path / "other", control=tmp_path / "nowhere")


def test_edges_are_where_the_colour_changes() -> None:
    picture = np.full((16, 16, 3), 255, np.uint8)
    picture[:, 8:] = (200, 30, 30)
    found = edges(picture)
    assert found.shape == (16, 16, 3)
    assert set(np.unique(found)) == {0, 255}
    assert set(np.nonzero(found[4, :, 0])[0]) <= {7, 8}
    assert found[4].any()


def test_what_would_change_the_model_is_refused() -> None:
    for name in ("train_text_encoder", "zero_terminal_snr"):
        with pytest.raises(InputError, match="ControlNet cannot carry"):
            override(ControlTraining(weighting="uniform"), [f"{name}=true"])
    with pytest.raises(InputError, match="epsilon is for"):
        FineTuning(epsilon=8.0)


def test_from_python_and_the_shell_to_a_picture(
    shapes: Path, tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from calotype.cli import main as cli

    monkeypatch.chdir(tmp_path)
    assert cli.run(["data", "edges", str(shapes), "edges"]) == 0
    drawn = sorted(path.stem for path in Path("edges").iterdir())
    assert drawn == sorted(path.stem for path in shapes.glob("*.png"))
    held_out = read_data(shapes, 32, strict=True, watch=silent).held_out_records[0].path.stem
    settings = {"steps": 2, "batch": 2, "precision": "float32", "evaluate_every": 0}
    made = calotype.tune("controlnet", str(tiny_file), shapes, control="edges", progress=False, **settings)
    assert made.path == Path("runs/controlnet/controlnet")
    told = json.loads(Path("runs/controlnet/report.json").read_text())
    assert (told["kind"], len(told["control"])) == ("controlnet", 64)
    request = ["generate", "a red circle", "--model", str(tiny_file), "--size", "32x32", "--steps", "2"]
    request += ["--control", str(made.path), "--control-image", f"edges/{drawn[0]}.png", "-o", "one.png"]
    assert cli.run(request) == 0
    assert cli.run(["data", "edges", "one.png", "one-edges.png"]) == 0
    with PIL.Image.open("one-edges.png") as found:
        assert found.size == (32, 32)
    with PIL.Image.open("runs/controlnet/samples/step-00000002.png") as sheet:  # three are held out
        assert sheet.size == (6 * 34 - 2, 32)
        first = np.asarray(sheet)[:, :32]
    with PIL.Image.open(f"edges/{held_out}.png") as found:
        assert np.array_equal(first, np.asarray(found.convert("RGB")))
    assert cli.run(["data", "edges", "nothing.png", "x.png"]) != 0
    with pytest.raises(InputError, match="leave control out"):
        calotype.tune("finetune", str(tiny_file), shapes, control="edges")
