"""What the doctor says of whole, damaged and foreign files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.checkpoints.families import CONFIGS, TOKENIZER
from torch import Tensor

from calotype.checkpoints import diffusers_writer, doctor, memory, native, shelf, single_file
from calotype.checkpoints.convert import convert
from calotype.checkpoints.digests import NotFinite, digests
from calotype.checkpoints.weights_file import open_weights
from calotype.conditioning.tokenizer import Tokenizer
from calotype.errors import CheckpointError
from calotype.models.config import ModelConfig
from calotype.models.latent_diffusion import LatentDiffusion, build, unfilled
from calotype.models.presets import sd1

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.text_model."
Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def model() -> LatentDiffusion:
    return build(CONFIGS["sd1"], TOKENIZER, seed=1)


@pytest.fixture(scope="module")
def weights(model: LatentDiffusion, tmp_path_factory: pytest.TempPathFactory) -> Weights:
    path = tmp_path_factory.mktemp("sd1") / "sd1.safetensors"
    single_file.write(path, model, torch.float16, {})
    return load_file(path)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(weights: Weights, name: str = "model.safetensors", **metadata: str) -> Path:
        told = metadata | {single_file.TOKENIZER: native.tokenizer_to_json(TOKENIZER)}
        save_file({key: value.contiguous() for key, value in weights.items()}, tmp_path / name, told)
        return tmp_path / name

    return write


def test_a_whole_model(weights: Weights, model: LatentDiffusion, write: Callable[..., Path]) -> None:
    averaged = {"model_ema.diffusion_modelx": torch.zeros(5, dtype=torch.float32)}
    path = write(weights | averaged, **{"modelspec.prediction_type": "epsilon"})
    report = doctor.examine(path)
    assert (report.kind, report.family, report.format) == ("model", "Stable Diffusion 1.x", "safetensors")
    assert (report.prediction, report.decided) == ("eps", "by the file's metadata modelspec.prediction_type")
    assert (report.problem, report.mend, report.deep) == (None, None, None)
    assert not report.misfit
    assert report.size == path.stat().st_size
    assert report.precisions == {"float16": len(weights), "float32": 1}
    assert report.averaged == (1, 20)
    for part, module in model.parts().items():
        count = sum(value.numel() for value in module.state_dict().values())
        assert report.parameters[doctor.NETWORKS[part]] == count
    assert report.memory is not None
    assert report.memory.weights == 4 * sum(report.parameters.values())
    assert report.memory.least == report.memory.weights  # nothing large enough to matter
    assert doctor.glance(path) == ("model", "Stable Diffusion 1.x")


@pytest.mark.parametrize("name", ["sd2", "sd-upscaler", "sdxl-inpainting", "sdxl-refiner", "lcm"])
def test_other_families_are_whole(name: str, tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    single_file.write(path, build(CONFIGS[name], TOKENIZER), None, {})
    report = doctor.examine(path)
    assert report.problem is None, report.problem
    assert report.config is not None
    assert report.config.name == name


def test_a_folder(tmp_path: Path) -> None:
    diffusers_writer.write(tmp_path / "folder", build(CONFIGS["sdxl"], TOKENIZER), None, {})
    report = doctor.examine(tmp_path / "folder", deep=True)
    assert (report.format, report.family, report.problem) == (
        "diffusers folder",
        "Stable Diffusion XL base",
        None,
    )
    assert report.decided == "by scheduler_config.json"
    assert report.deep is not None
    assert [Path(place).parent.name for place in report.deep.hashes] == [
        "unet",
        "vae",
        "text_encoder",
        "text_encoder_2",
    ]


def test_all_keys_that_are_wrong_are_told(weights: Weights, write: Callable[..., Path]) -> None:
    wrong = {name: value for name, value in weights.items() if not name.startswith(f"{UNET}output_blocks.0.")}
    gone = sorted(weights.keys() - wrong.keys())
    wrong |= {f"{UNET}out.2.bias": torch.zeros(9), f"{UNET}strange": torch.zeros(1), "odd": torch.zeros(1)}
    report = doctor.examine(write(wrong))
    assert report.misfit.missing == tuple(gone)
    assert report.misfit.misshapen == ((f"{UNET}out.2.bias", (9,), (4,)),)
    assert set(report.misfit.unknown) == {f"{UNET}strange", "odd"}
    assert report.problem is not None
    assert "different models" in report.problem
    with pytest.raises(CheckpointError):
        shelf.load(write(wrong))


def test_left_over_tensors_are_dropped_by_the_command_that_is_named(
    weights: Weights, write: Callable[..., Path]
) -> None:
    path = write(weights | {f"{UNET}strange": torch.zeros(1), "odd": torch.zeros(1)})
    report = doctor.examine(path)
    assert report.problem is not None
    assert "2 tensors for which a Stable Diffusion 1.x has no place" in report.problem
    mended = path.with_name("model-mended.safetensors")
    assert report.mend == f"calotype convert {path} {mended} --drop-unknown"
    convert(str(path), mended, drop_unknown=True)
    assert doctor.examine(mended).problem is None
    stored = load_file(mended)
    assert all(torch.equal(value, stored[name]) for name, value in weights.items())


@pytest.mark.parametrize("damage", ["none", "cut", "lost its entry", "misshapen", "nan"])
def test_an_autoencoder_is_mended_by_another(
    damage: str, weights: Weights, write: Callable[..., Path]
) -> None:
    sick = dict(weights)
    first = f"{VAE}encoder.conv_in.weight"
    if damage == "none":
        sick = {name: value for name, value in weights.items() if not name.startswith(VAE)}
    elif damage == "cut":
        del sick[f"{VAE}decoder.conv_out.bias"]
    elif damage == "lost its entry":
        del sick[first]
    elif damage == "misshapen":
        sick[f"{VAE}decoder.conv_out.bias"] = torch.zeros(7)
    else:
        sick[first] = sick[first].clone()
        sick[first].view(-1)[:3] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    path = write(sick)
    report = doctor.examine(path, deep=damage == "nan")
    assert report.problem is not None
    assert "autoencoder" in report.problem or first in report.problem
    if damage == "nan":
        assert report.deep is not None
        assert report.deep.not_finite == {first: NotFinite(1, 2)}
    if damage != "lost its entry":
        assert report.mend is not None
        assert report.mend.endswith("--vae VAE.safetensors")
    vae = write({name: value for name, value in weights.items() if name.startswith(VAE)}, "vae.safetensors")
    mended = path.with_name("mended.safetensors")
    convert(str(path), mended, vae=str(vae))
    whole = doctor.examine(mended, deep=True)
    assert (whole.problem, whole.family) == (None, "Stable Diffusion 1.x")
    stored = load_file(mended)
    assert all(torch.equal(value, stored[name]) for name, value in weights.items())


def test_parts_and_what_cannot_be_told(weights: Weights, write: Callable[..., Path]) -> None:
    vae = doctor.examine(write({n: v for n, v in weights.items() if n.startswith(VAE)}))
    assert (vae.kind, vae.family, vae.problem) == (
        "autoencoder",
        "latents of 4 channels, 2 times smaller",
        None,
    )
    unet = doctor.examine(write({n: v for n, v in weights.items() if n.startswith(UNET)}))
    assert (unet.kind, unet.family) == ("part", "a U-Net")
    assert unet.problem is not None
    assert "is a U-Net alone" in unet.problem
    headless = {n: v for n, v in weights.items() if not n.startswith(TEXT)}
    report = doctor.examine(write(headless))
    assert (report.kind, report.family) == ("part", "a model without its text encoder")
    gone = f"{UNET}input_blocks.0.0.weight"
    report = doctor.examine(write({n: v for n, v in weights.items() if n != gone}))
    assert report.misfit.missing == (gone,)
    assert report.problem is not None
    assert "cut short or damaged" in report.problem


def test_calotypes_own(tiny_file: Path, tiny_model: LatentDiffusion, tmp_path: Path) -> None:
    report = doctor.examine(tiny_file)
    assert (report.format, report.problem, report.kind) == ("Calotype's own", None, "model")
    assert report.prediction == "v"
    native.save(tmp_path / "part.safetensors", tiny_model, parts=("autoencoder",))
    report = doctor.examine(tmp_path / "part.safetensors")
    assert report.kind == "part"
    assert report.problem is not None
    assert "no U-Net and no text encoder" in report.problem
    stored = load_file(tiny_file)
    name = sorted(stored)[0]
    metadata = dict(open_weights(tiny_file).metadata)
    save_file({n: v for n, v in stored.items() if n != name}, tmp_path / "cut.safetensors", metadata)
    report = doctor.examine(tmp_path / "cut.safetensors")
    assert report.misfit.missing == (name,)
    assert report.problem is not None


def test_foreign_and_hostile_files_are_one_sentence(tmp_path: Path) -> None:
    for name, content in (
        ("empty.safetensors", b""),
        ("text.safetensors", b"nothing of the kind"),
        ("page.ckpt", b"<!doctype html><html>"),
        ("lie.safetensors", (2**63 - 1).to_bytes(8, "little") + b'{"a": 1}'),
        ("call.ckpt", b"\x80\x02cos\nsystem\nq\x00X\x02\x00\x00\x00lsq\x01\x85q\x02Rq\x03."),
    ):
        (tmp_path / name).write_bytes(content)
        for read in (doctor.examine, doctor.glance):
            with pytest.raises(CheckpointError) as caught:
                read(tmp_path / name)
            assert str(tmp_path / name) in str(caught.value)
            assert "\n" not in str(caught.value)
    save_file({"double_blocks.0.img_attn.qkv.weight": torch.zeros(1)}, tmp_path / "flux.safetensors")
    with pytest.raises(CheckpointError, match="is Flux; Calotype draws with"):
        doctor.examine(tmp_path / "flux.safetensors")
    save_file({"whatever": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="belong to no part of a Stable Diffusion"):
        doctor.examine(tmp_path / "other.safetensors")


def test_hashes_as_others_count_them(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.arange(600_000, dtype=torch.float32)}, path)
    raw = path.read_bytes()
    behind = 8 + int.from_bytes(raw[:8], "little")
    found = digests(path)
    assert found.sha256 == hashlib.sha256(raw).hexdigest()
    assert found.autov2 == found.sha256[:10]
    assert found.autov1 == hashlib.sha256(raw[0x100000:0x110000]).hexdigest()[:8]
    assert found.autov3 == hashlib.sha256(raw[behind:]).hexdigest()[:12]
    torch.save({"a": torch.zeros(3)}, tmp_path / "x.ckpt")
    assert digests(tmp_path / "x.ckpt").autov3 is None


def test_numbers_that_are_none_are_counted_in_every_precision(tmp_path: Path) -> None:
    bad = torch.tensor([1.0, float("nan"), float("inf"), float("nan")])
    weights: dict[str, Any] = {"f32": bad, "bf16": bad.bfloat16(), "whole": torch.ones(2, dtype=torch.int64)}
    weights["f8"] = torch.tensor([1.0, float("nan")]).to(torch.float8_e4m3fn)
    weights["fine"] = torch.ones(3)
    save_file(weights, tmp_path / "x.safetensors")
    found = doctor.not_finite(open_weights(tmp_path / "x.safetensors"))
    assert found == {"f32": NotFinite(2, 1), "bf16": NotFinite(2, 1), "f8": NotFinite(1, 0)}


@pytest.mark.parametrize(
    ("part", "config", "measured"),
    [
        # growth of the resident set over one call at 256x256 pixels, float32, one thread of a CPU
        (memory._unet, replace(sd1(), size=256), 128.3e6),
        (memory._decoder, replace(sd1(), size=256), 234.7e6),
    ],
)
def test_memory_is_estimated_within_a_third(part: Any, config: ModelConfig, measured: float) -> None:
    assert measured / 1.33 < part(config) < measured * 1.33


def test_four_gigabytes_without_reading_them(tmp_path: Path) -> None:
    """Stable Diffusion 1.x of true size in float32, in a sparse file; benchmarks/inspecting.py times it."""
    path = tmp_path / "sd1.safetensors"
    with unfilled():
        shapes = {n: list(v.shape) for n, v in single_file.named(build(sd1(), Tokenizer.clip())).items()}
    path.write_bytes(sparse_header(shapes))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + 4 * sum(map(prod, shapes.values())))
    report = doctor.examine(path)
    assert (report.problem, report.family) == (None, "Stable Diffusion 1.x")
    assert 4.2e9 < report.size < 4.3e9
    assert report.parameters == {
        "U-Net": 859_520_964,
        "autoencoder": 83_653_863,
        "text encoder": 123_060_480,
    }
    assert report.config is not None
    expected: ModelConfig = sd1()
    assert report.config.unet == expected.unet


def sparse_header(shapes: dict[str, list[int]]) -> bytes:
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    told = json.dumps(header).encode()
    return len(told).to_bytes(8, "little") + told
