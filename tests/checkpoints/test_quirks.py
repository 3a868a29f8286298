"""What real files have besides, or differently; and one sentence for every file that is none of ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.checkpoints.families import CONFIGS, TOKENIZER
from torch import Tensor

from calotype.checkpoints import diffusers_writer, native, shelf, single_file
from calotype.checkpoints.detect import OTHERS
from calotype.checkpoints.found import Found
from calotype.errors import CheckpointError, InputError
from calotype.models.latent_diffusion import LatentDiffusion, build

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.text_model."
Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def model() -> LatentDiffusion:
    return build(CONFIGS["sd1"], TOKENIZER, seed=1)


@pytest.fixture(scope="module")
def weights(model: LatentDiffusion, tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """SD 1.x as a single file."""
    path = tmp_path_factory.mktemp("sd1") / "sd1.safetensors"
    single_file.write(path, model, None, {})
    return load_file(path)


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., LatentDiffusion]:
    """Loads weights by way of a file that says nothing but which tokenizer it has."""

    def load(weights: Weights, **metadata: str) -> LatentDiffusion:
        return shelf.load(write(tmp_path / "model.safetensors", weights, **metadata), dtype=None)

    return load


def write(path: Path, weights: Weights, **metadata: str) -> Path:
    kept = {name: value.contiguous() for name, value in weights.items()}
    save_file(kept, path, metadata | {single_file.TOKENIZER: native.tokenizer_to_json(TOKENIZER)})
    return path


def renamed(weights: Weights, old: str, new: str) -> Weights:
    assert any(old in name for name in weights)
    return {name.replace(old, new): value for name, value in weights.items()}


def same(a: LatentDiffusion, b: LatentDiffusion) -> None:
    for part, module in a.parts().items():
        other = b.parts()[part].state_dict()
        assert other.keys() == module.state_dict().keys()
        assert all(torch.equal(value, other[name]) for name, value in module.state_dict().items())


def test_buffers_training_and_averages_are_passed_by(
    model: LatentDiffusion, weights: Weights, tmp_path: Path
) -> None:
    extra = {
        "betas": torch.zeros(3),
        "alphas_cumprod": torch.zeros(3),
        "model_ema.decay": torch.zeros(()),
        "model_ema.diffusion_modelinput_blocks00weight": torch.zeros(2),
        "first_stage_model.loss.logvar": torch.zeros(()),
        "cond_stage_model.logit_scale": torch.zeros(()),
        f"{TEXT}embeddings.position_ids": torch.zeros(1, 12, dtype=torch.int64),
    }
    path = write(tmp_path / "model.safetensors", weights | extra)
    found = shelf.recognise(path)
    assert isinstance(found, Found)
    assert found.notes == ("It also holds an averaged copy of the U-Net, 1 tensors, which is not used.",)
    same(model, found.load(dtype=None))


def test_attention_of_the_autoencoder_as_linear_layers(
    model: LatentDiffusion, weights: Weights, load: Callable[..., LatentDiffusion]
) -> None:
    assert weights[f"{VAE}encoder.mid.attn_1.q.weight"].shape == (64, 64, 1, 1)
    flat = {
        name: value.flatten(1) if ".attn_1." in name and value.ndim == 4 else value
        for name, value in weights.items()
    }
    same(model, load(flat))


def test_text_names_without_their_prefix(
    model: LatentDiffusion, weights: Weights, load: Callable[..., LatentDiffusion]
) -> None:
    same(model, load(renamed(weights, "transformer.text_model.", "transformer.")))


def test_linear_ways_into_the_transformers(weights: Weights, load: Callable[..., LatentDiffusion]) -> None:
    flat = {
        name: value.flatten(1) if ".proj_" in name and name.startswith(UNET) and value.ndim == 4 else value
        for name, value in weights.items()
    }
    loaded = load(flat)
    assert loaded.config.unet.linear_projection
    assert loaded.config.name == "sd2"  # which it then is, to all appearances


@pytest.mark.parametrize("layers", [23, 24])
def test_sd2_reads_the_last_layer_but_one_of_24(layers: int, tmp_path: Path) -> None:
    config = CONFIGS["sd2"]
    (text,) = config.text
    text = replace(text, clip=replace(text.clip, layers=layers, projection_width=64))
    path = tmp_path / "full.safetensors"
    single_file.write(path, build(replace(config, text=(text,)), TOKENIZER), None, {})
    stored = load_file(path)
    assert stored["cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight"].shape == (192, 64)
    (found,) = shelf.recognise(write(path, stored)).config.text
    assert found == replace(text, layer=-1 if layers == 23 else -2)


def test_a_separate_autoencoder_in_either_fashion(
    model: LatentDiffusion, weights: Weights, tmp_path: Path
) -> None:
    other = build(CONFIGS["sd1"], TOKENIZER, seed=2)
    whole, alone, old = (tmp_path / f"{name}.safetensors" for name in ("whole", "alone", "old"))
    write(whole, weights)
    single_file.write(alone, other, None, {})
    stored = {
        name.removeprefix(VAE): value for name, value in load_file(alone).items() if name.startswith(VAE)
    }
    save_file(stored | {"loss.logvar": torch.zeros(())}, alone)
    folder = tmp_path / "folder"
    diffusers_writer.write(folder, other, None, {})
    new = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    aliases = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    early = {}
    for name, value in new.items():
        for now, then in aliases.items():
            name = name.replace(f"attentions.0.{now}.", f"attentions.0.{then}.")
        early[name] = value
    assert early.keys() != new.keys()
    save_file(early, old)
    hashes = {shelf.load(whole, dtype=None).weights_hash}
    for source in (alone, old, folder / "vae"):
        loaded = shelf.load(whole, dtype=None, vae=source)
        same(model.replace(autoencoder=other.autoencoder), loaded)
        hashes.add(loaded.weights_hash)
    assert len(hashes) == 2, "the fingerprint is that of the weights, whatever file they come from"
    with pytest.raises(CheckpointError, match="is an autoencoder alone, only a part of a model"):
        shelf.recognise(alone)
    with pytest.raises(CheckpointError, match="has no autoencoder"):
        shelf.load(whole, vae=write(tmp_path / "none.safetensors", {"x": torch.zeros(1)}))
    with pytest.raises(InputError, match="There is no file nowhere"):
        shelf.load(whole, vae="nowhere")


def test_half_precision_folders_and_shards(model: LatentDiffusion, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    diffusers_writer.write(folder, model, None, {})
    unet = folder / "unet" / "diffusion_pytorch_model.safetensors"
    stored = load_file(unet)
    names = sorted(stored)
    for i, part in enumerate((names[::2], names[1::2])):
        save_file({name: stored[name] for name in part}, folder / "unet" / f"part-{i}.safetensors")
    told = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(names)}
    unet.unlink()
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": told}))
    vae = folder / "vae" / "diffusion_pytorch_model.safetensors"
    vae.rename(vae.with_name("diffusion_pytorch_model.fp16.safetensors"))
    same(model, shelf.load(folder, dtype=None))
    index.write_text(json.dumps({"weight_map": told | {"more": "part-0.safetensors"}}))
    with pytest.raises(CheckpointError, match="promises more, which its files lack"):
        shelf.recognise(folder)
    index.write_text(json.dumps({"weight_map": told | {"more": "../part-0.safetensors"}}))
    with pytest.raises(CheckpointError, match="names a file outside its own folder"):
        shelf.recognise(folder)
    index.unlink()
    with pytest.raises(CheckpointError, match=r"has no diffusion_pytorch_model\.safetensors"):
        shelf.recognise(folder)


def test_missing_unknown_and_misshapen_names_are_the_files_own(
    weights: Weights, load: Callable[..., LatentDiffusion]
) -> None:
    gone = dict(weights)
    for i in range(5):
        del gone[f"{UNET}output_blocks.{i}.0.out_layers.3.bias"]
    with pytest.raises(
        CheckpointError, match=rf"lacks {UNET}output_blocks\.0\.0\.out_layers\.3\.bias, .* and 2"
    ):
        load(gone)
    with pytest.raises(CheckpointError, match=r"1 tensors for which a denoiser has no place .*\.surplus"):
        load(weights | {f"{UNET}surplus": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"belong to no part of a Stable Diffusion \(surplus\)"):
        load(weights | {"surplus": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=rf"misshapen {UNET}out\.2\.bias \(9,\) instead of \(4,\)"):
        load(weights | {f"{UNET}out.2.bias": torch.zeros(9)})
    gone = {name: value for name, value in weights.items() if not name.startswith(f"{UNET}input_blocks.0.")}
    with pytest.raises(CheckpointError, match=rf"lacks {UNET}input_blocks\.0\.0\.weight"):
        load(gone)
    with pytest.raises(CheckpointError, match="shapes make no denoiser"):
        load(weights | {f"{UNET}out.2.weight": torch.zeros(())})


@pytest.mark.parametrize(
    ("prefix", "what"), [(UNET, "U-Net"), (VAE, "autoencoder"), ("cond_stage_model.", "text encoder")]
)
def test_parts_alone_and_parts_missing(
    prefix: str, what: str, weights: Weights, load: Callable[..., LatentDiffusion]
) -> None:
    only = {name: value for name, value in weights.items() if name.startswith(prefix)}
    with pytest.raises(CheckpointError, match=f"is an? {what} alone, only a part of a model; name a whole"):
        load(only)
    bare = {name.removeprefix(prefix).removeprefix("transformer."): value for name, value in only.items()}
    with pytest.raises(CheckpointError, match=f"is an? {what} alone"):
        load(bare)
    rest = {name: value for name, value in weights.items() if not name.startswith(prefix)}
    with pytest.raises(CheckpointError, match=f"has no {what}, it is only a part of a model"):
        load(rest)


@pytest.mark.parametrize(("title", "tell_tales"), OTHERS)
def test_other_models_are_refused_by_name(
    title: str, tell_tales: str, load: Callable[..., LatentDiffusion]
) -> None:
    for part in tell_tales.split():
        with pytest.raises(CheckpointError, match=f"is {title}; Calotype draws with"):
            load({f"model{part}weight": torch.zeros(1)})


def test_words_taught_to_a_model_are_refused_by_name(load: Callable[..., LatentDiffusion]) -> None:
    for names in (["clip_l", "clip_g"], ["<cat>"]):
        with pytest.raises(CheckpointError, match="is a textual inversion"):
            load({name: torch.zeros(2, 768) for name in names})


@pytest.mark.parametrize(
    ("channels", "title"), [(8, "InstructPix2Pix"), (5, "depth-to-image"), (6, "takes 6 channels")]
)
def test_other_inputs_are_refused_by_name(
    channels: int, title: str, weights: Weights, load: Callable[..., LatentDiffusion]
) -> None:
    wider = torch.zeros(32, channels, 3, 3)
    with pytest.raises(CheckpointError, match=title):
        load(weights | {f"{UNET}input_blocks.0.0.weight": wider})


@pytest.mark.parametrize(
    ("class_name", "title"),
    [
        ("StableDiffusion3Pipeline", "Stable Diffusion 3"),
        ("FluxPipeline", "Flux"),
        ("StableDiffusionControlNetPipeline", "ControlNet"),
        ("MarigoldPipeline", "a pipeline 'MarigoldPipeline' of diffusers"),
    ],
)
def test_other_pipelines_are_refused_by_name(class_name: str, title: str, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": class_name}))
    with pytest.raises(CheckpointError, match=f"is .*{title}"):
        shelf.recognise(tmp_path)


def test_folders_that_differ_from_our_networks_are_refused(model: LatentDiffusion, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with pytest.raises(CheckpointError, match=r"has no model_index\.json"):
        shelf.recognise(tmp_path)
    diffusers_writer.write(folder, model, None, {})
    for place, changed, sentence in (
        ("unet", {"act_fn": "gelu"}, "has act_fn 'gelu', but"),
        ("unet", {"layers_per_block": [1, 2]}, "layers_per_block"),
        ("unet", {"down_block_types": ["AttnDownBlock2D", "DownBlock2D"]}, "block types"),
        ("unet", {"attention_head_dim": 7}, "makes no model"),
        ("unet", {"cross_attention_dim": 32}, "for text 32 wide, but text encoders of 64"),
        ("vae", {"use_quant_conv": False}, "use_quant_conv"),
        ("text_encoder", {"hidden_act": "relu"}, "hidden_act"),
        ("scheduler", {"beta_schedule": "sigmoid"}, "beta_schedule"),
        ("scheduler", {"num_train_timesteps": "many"}, "steps is 'many', but should be a whole number"),
        ("scheduler", {"prediction_type": "flow_prediction"}, "should be one of eps, v and x0"),
    ):
        name = "scheduler_config.json" if place == "scheduler" else "config.json"
        path = folder / place / name
        before = path.read_text()
        path.write_text(json.dumps(json.loads(before) | changed))
        with pytest.raises(CheckpointError, match=sentence):
            shelf.recognise(folder)
        path.write_text(before)
    (folder / "unet" / "config.json").write_text("[")
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        shelf.recognise(folder)


@pytest.mark.parametrize("layout", ["zip", "old"])
def test_a_ckpt_is_the_same_model(weights: Weights, tmp_path: Path, layout: str) -> None:
    told = {"state_dict": weights, "global_step": 12, "epoch": 1}
    torch.save(told, tmp_path / "model.ckpt", _use_new_zipfile_serialization=layout == "zip")
    save_file(weights, tmp_path / "model.safetensors")
    plain, pickled = (shelf.recognise(tmp_path / f"model.{kind}") for kind in ("safetensors", "ckpt"))
    assert isinstance(plain, Found)
    assert isinstance(pickled, Found)
    assert plain.config == pickled.config
    for one, other in zip(plain.pieces, pickled.pieces, strict=True):
        for name, source in one.sources.items():
            stored = other.file.tensor(other.sources[name].name)
            assert torch.equal(source.take(one.file.tensor(source.name)), other.sources[name].take(stored))


def test_weights_are_views_of_the_file(weights: Weights, tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", weights)
    loaded = shelf.load(path, dtype=None)
    mapped = Path("/proc/self/maps")
    if not mapped.exists():
        pytest.skip("the system does not say what is mapped")
    spans = [
        tuple(int(end, 16) for end in line.split()[0].split("-"))
        for line in mapped.read_text().splitlines()
        if line.endswith(str(path))
    ]
    for name, value in loaded.denoiser.state_dict().items():
        assert any(low <= value.data_ptr() < high for low, high in spans), name
