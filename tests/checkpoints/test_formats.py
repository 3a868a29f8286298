"""Families as diffusers and transformers wrote them, read by us: the same function, and back to the bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.checkpoints.families import CONFIGS, TOKENIZER, Theirs, written_by_diffusers
from tests.networks.reference import relative_error
from torch import Tensor

from calotype.checkpoints import shelf, single_file
from calotype.checkpoints.number_type import TYPES
from calotype.checkpoints.weights_file import TensorInfo, open_weights
from calotype.conditioning.tokenizer import Tokenizer
from calotype.models.latent_diffusion import LatentDiffusion, build, unfilled
from calotype.models.presets import PRESETS

EXACT = 1e-9


@pytest.fixture(scope="module", params=CONFIGS)
def theirs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Theirs:
    return written_by_diffusers(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def model(theirs: Theirs) -> LatentDiffusion:
    return shelf.load(theirs.folder, dtype=None)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64)


def test_the_folder_is_recognised(theirs: Theirs, model: LatentDiffusion) -> None:
    found = shelf.recognise(theirs.folder)
    assert found.config == replace(
        theirs.config, about=found.config.about, defaults=found.config.defaults, size=found.config.size
    )
    assert found.config.name == theirs.config.name
    assert found.config.defaults.ends_at_first
    assert found.config.defaults.offset == 1
    assert found.decided == "by scheduler_config.json"
    assert model.text_encoder.tokenizer is not None
    assert model.text_encoder.tokenizer.vocab == TOKENIZER.vocab


@torch.no_grad()
def test_the_networks_agree(theirs: Theirs, model: LatentDiffusion) -> None:
    unet = theirs.config.unet
    x, context = normal(2, unet.in_channels, 8, 8), normal(2, 5, unet.context_width)
    label = torch.tensor([901.0, 20.0], dtype=torch.float64)
    options: dict[str, Any] = {}
    ours: dict[str, Tensor] = {}
    sizes = theirs.config.sizes
    if sizes is not None:
        told = sizes.vector(24, 16, negative=False)
        numbers = [16, 24, 0, 0, 6] if sizes.aesthetic else [16, 24, 0, 0, 16, 24]
        pooled = normal(2, 64)
        options["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": torch.tensor([numbers] * 2)}
        ours["vector"] = torch.cat([pooled, told.expand(2, -1)], dim=1)
    if unet.guidance_width is not None:
        options["timestep_cond"] = ours["guidance"] = normal(2, unet.guidance_width)
    if unet.classes is not None:
        options["class_labels"] = ours["label"] = torch.tensor([3, 17])
    wanted = theirs.unet(x, label, context, **options).sample
    assert relative_error(model.denoiser.network(x, label, context, **ours), wanted) <= EXACT

    images = normal(1, 3, 16, 8)
    assert (
        relative_error(model.autoencoder.encode(images).raw_mean, theirs.vae.encode(images).latent_dist.mean)
        <= EXACT
    )
    latents = normal(1, 4, 4, 6)
    wanted = theirs.vae.decode(latents / model.autoencoder.config.scale).sample
    assert relative_error(model.autoencoder.decode(latents), wanted) <= EXACT


@torch.no_grad()
def test_the_texts_agree(theirs: Theirs, model: LatentDiffusion) -> None:
    texts = ["a red apple", "", "car"]
    features = []
    for text, module in zip(theirs.config.text, theirs.texts, strict=True):
        pad = None if text.pad_token is None else TOKENIZER.vocab[text.pad_token]
        found = module(TOKENIZER.encode(texts, pad=pad), output_hidden_states=True)
        features.append(found.last_hidden_state if text.final_norm else found.hidden_states[text.layer])
    condition = model.text_encoder(texts)
    assert relative_error(condition.tokens, torch.cat(features, dim=-1)) <= EXACT
    if theirs.config.sizes is None:
        assert condition.vector is None
    else:
        assert relative_error(condition.vector, found.text_embeds) <= EXACT


def strip(path: Path, *keys: str) -> None:
    """Takes our own entries out of a file's metadata."""
    kept = {key: value for key, value in open_weights(path).metadata.items() if key not in keys}
    save_file(load_file(path), path, kept)


def same_weights(a: LatentDiffusion, b: LatentDiffusion) -> None:
    for part, module in a.parts().items():
        other = b.parts()[part].state_dict()
        assert other.keys() == module.state_dict().keys()
        for name, value in module.state_dict().items():
            assert value.dtype == other[name].dtype
            assert torch.equal(value, other[name]), name


def test_a_single_file_there_and_back(model: LatentDiffusion, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    single_file.write(path, model, None, {"by": "test"})
    found = shelf.recognise(path)
    assert found.config == model.config
    again = found.load(dtype=None)
    same_weights(model, again)
    # Without our config the shapes tell it.
    strip(path, single_file.CONFIG)
    found = shelf.recognise(path)
    assert found.config == replace(model.config, defaults=found.config.defaults, size=found.config.size)
    same_weights(model, found.load(dtype=None))


def test_diffusers_reads_our_single_file(theirs: Theirs, model: LatentDiffusion, tmp_path: Path) -> None:
    """Their converter from CompVis' names gives the weights that the folder had."""
    from diffusers.loaders import single_file_utils as converters

    path = tmp_path / "model.safetensors"
    single_file.write(path, model, None, {})
    stored = load_file(path)
    stored.pop("model.diffusion_model.time_embed.cond_proj.weight", None)  # for which it has no name
    unet = converters.convert_ldm_unet_checkpoint(dict(stored), dict(theirs.unet.config))
    vae = converters.convert_ldm_vae_checkpoint(dict(stored), dict(theirs.vae.config))
    for found, wanted in ((unet, theirs.unet.state_dict()), (vae, theirs.vae.state_dict())):
        assert found.keys() == wanted.keys() - {"time_embedding.cond_proj.weight"}
        for name, value in found.items():
            assert torch.equal(value.reshape(wanted[name].shape), wanted[name]), name
    for prefix, module in zip(TOWERS[theirs.config.name], theirs.texts, strict=True):
        if prefix.endswith("transformer."):
            texts = {
                name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)
            }
        else:
            texts = converters.convert_open_clip_checkpoint(module, dict(stored), prefix)
        texts = {name.removeprefix("text_model."): value for name, value in texts.items()}
        wanted = {name.removeprefix("text_model."): value for name, value in module.state_dict().items()}
        assert texts.keys() == wanted.keys()
        for name, value in texts.items():
            assert torch.equal(value, wanted[name]), name


class OnlyShapes:
    """A weights file of the true size, of which nothing can be read."""

    path = Path("model.safetensors")
    metadata: Mapping[str, str] = {}
    scalars: Mapping[str, str] = {}

    def __init__(self, model: LatentDiffusion) -> None:
        self.shapes = {
            name: TensorInfo(tuple(value.shape), TYPES["float16"])
            for name, value in single_file.named(model).items()
        }

    def tensor(self, name: str) -> Tensor:
        raise AssertionError(f"{name} was read")

    def forget(self, name: str) -> None:
        raise AssertionError(f"{name} was read")


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl"])
def test_the_true_sizes_are_recognised_unread(name: str) -> None:
    config = PRESETS[name]()
    with unfilled():
        model = build(config, Tokenizer.clip())
    file = OnlyShapes(model)
    found = single_file.recognise(file)
    assert found.config == replace(config, about=found.config.about, defaults=found.config.defaults)
    # An inpainting model of the same family.
    enter = "model.diffusion_model.input_blocks.0.0.weight"
    file.shapes[enter] = TensorInfo((320, 9, 3, 3), TYPES["float16"])
    assert single_file.recognise(file).config.name == f"{name}-inpainting"


TOWERS = {
    "sd1": ("cond_stage_model.transformer.",),
    "sd1-inpainting": ("cond_stage_model.transformer.",),
    "lcm": ("cond_stage_model.transformer.",),
    "sd2": ("cond_stage_model.model.",),
    "sd2-inpainting": ("cond_stage_model.model.",),
    "sd-upscaler": ("cond_stage_model.model.",),
    "sdxl": ("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."),
    "sdxl-inpainting": ("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."),
    "sdxl-refiner": ("conditioner.embedders.0.model.",),
}
