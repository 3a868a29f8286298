"""LoRA files in every layout: diffusers and PEFT, kohya and LyCORIS themselves say what they should do."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.checkpoints import lora_files
from tests.checkpoints.families import CONFIGS, TOKENIZER
from tests.checkpoints.lora_files import Random, Tensors
from tests.networks.reference import randomise, relative_error
from torch import Tensor, nn

from calotype.checkpoints import diffusers_writer, lora
from calotype.checkpoints.lora_names import places
from calotype.diffusion.noise import PictureNoise
from calotype.models.latent_diffusion import LatentDiffusion, build
from calotype.networks.lora import Adapter, LowRank, sharing
from calotype.tasks.studio import Studio

pytestmark = pytest.mark.filterwarnings("ignore")  # diffusers, PEFT and LyCORIS warn of their own

EXACT = 1e-9
NAMES = ("sd1", "sd2", "sdxl")


def everywhere(name: str) -> bool:
    """One of every kind of layer; PEFT takes its time for each."""
    return not any(part in name for part in ("resnets.1", "attentions.1", "up_blocks.1", "resnets.2"))


def attention(name: str) -> bool:
    here = not name.startswith(("up_blocks.1", "mid_block", "up_blocks.2"))
    return here and name.endswith(("to_q", "to_k", "to_v", "to_out.0", "q_proj", "out_proj"))


@pytest.fixture(scope="module", params=NAMES)
def model(request: pytest.FixtureRequest) -> LatentDiffusion:
    return random(request.param)


def random(name: str) -> LatentDiffusion:
    found = build(CONFIGS[name], TOKENIZER, seed=1)
    for part in found.parts().values():
        randomise(part.double())
    return found


@pytest.fixture(scope="module")
def pipeline(model: LatentDiffusion, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return in_diffusers(model, tmp_path_factory.mktemp("folder"))


def in_diffusers(model: LatentDiffusion, folder: Path) -> Any:
    import diffusers

    diffusers_writer.write(folder / "m", model, None, {})
    sized = model.config.sizes is not None
    kind = diffusers.StableDiffusionXLPipeline if sized else diffusers.StableDiffusionPipeline
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch_dtype, which older ones of diffusers know alone
        pipe = kind.from_pretrained(folder / "m", torch_dtype=torch.float64)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def towers(pipe: Any) -> list[nn.Module]:
    return [
        tower for tower in (pipe.text_encoder, getattr(pipe, "text_encoder_2", None)) if tower is not None
    ]


def sgm(name: str) -> str:
    """diffusers' names to those of the tiny XL's single file, in which kohya trains."""
    for theirs, ours in (
        ("down_blocks.1.attentions.0", "input_blocks.3.1"),
        ("down_blocks.2.attentions.0", "input_blocks.5.1"),
        ("mid_block.attentions.0", "middle_block.1"),
        ("up_blocks.0.attentions.0", "output_blocks.0.1"),
        ("up_blocks.0.attentions.1", "output_blocks.1.1"),
        ("up_blocks.1.attentions.0", "output_blocks.2.1"),
        ("up_blocks.1.attentions.1", "output_blocks.3.1"),
    ):
        name = name.replace(theirs, ours)
    return name


def by_kohya(pipe: Any) -> Tensors:
    """As its trainer writes: SD 1 and 2 with all convolutions, XL the transformers under sgm's names."""
    numbers, texts = Random(1), towers(pipe)
    if len(texts) == 1:
        tensors = lora_files.kohya(pipe.unet, "lora_unet", everywhere, numbers)
    else:
        tensors = lora_files.kohya(
            pipe.unet, "lora_unet", lambda name: "attentions.0" in name, numbers, rename=sgm
        )
    for tower, prefix in zip(
        texts, ("lora_te",) if len(texts) == 1 else ("lora_te1", "lora_te2"), strict=True
    ):
        stem = (
            "" if any(name.startswith("text_model") for name, _ in tower.named_modules()) else "_text_model"
        )
        tensors |= lora_files.kohya(tower, prefix + stem, lambda name: "layers" in name, numbers, alpha=1.5)
    return tensors


def by_diffusers(pipe: Any) -> Tensors:
    numbers = Random(2)
    tensors = lora_files.diffusers(pipe.unet, "unet", attention, numbers)
    for tower, prefix in zip(towers(pipe), ("text_encoder", "text_encoder_2"), strict=False):
        found = lora_files.diffusers(tower, prefix, attention, numbers)
        bare = f"{prefix}.encoder."  # transformers 5 leaves out what every file has
        tensors |= {name.replace(bare, f"{prefix}.text_model.encoder."): found[name] for name in found}
    return tensors


def by_old_diffusers(pipe: Any) -> Tensors:
    """Before 0.20, attention had processors."""
    renamed = {}
    for name, value in by_diffusers(pipe).items():
        name = re.sub(r"\.lora_A\.", ".lora_linear_layer.down.", name)
        name = re.sub(r"\.lora_B\.", ".lora_linear_layer.up.", name)
        if name.startswith("unet."):
            name = re.sub(r"\.(to_q|to_k|to_v|to_out)(\.0)?\.lora_linear_layer", r".processor.\1_lora", name)
        renamed[name] = value
    return renamed


def dora(pipe: Any) -> Tensors:
    tensors = by_diffusers(pipe)
    for name in [name for name in tensors if name.endswith("lora_B.weight") and name.startswith("unet.")]:
        stem = name.removesuffix(".lora_B.weight")
        out = len(tensors[name])
        tensors[f"{stem}.lora_magnitude_vector"] = Random(3)(out, 1)[:, 0].abs() + 0.5
    return {name: value for name, value in tensors.items() if name.startswith("unet.")}


def metadata(pipe: Any) -> dict[str, str]:
    told: dict[str, object] = {}
    for network in ("unet", "text_encoder", "text_encoder_2"):
        if getattr(pipe, network, None) is not None:
            told |= {f"{network}.r": 4, f"{network}.lora_alpha": 6, f"{network}.target_modules": ["to_q"]}
            told[f"{network}.alpha_pattern"] = {"attn2.to_k": 1}
    told["unet.target_modules"] = ["to_q", "to_k", "to_v", "to_out.0"]
    for network in ("text_encoder", "text_encoder_2"):
        if f"{network}.r" in told:
            told[f"{network}.target_modules"] = ["q_proj", "out_proj"]
            told[f"{network}.alpha_pattern"] = {}
    return {lora.METADATA: json.dumps(told)}


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (by_kohya, False),
        (by_diffusers, False),
        (by_diffusers, True),
        (by_old_diffusers, False),
        (dora, False),
    ],
    ids=["kohya", "peft", "peft-alpha", "old", "dora"],
)
@torch.no_grad()
def test_as_diffusers_loads_it(
    model: LatentDiffusion, pipeline: Any, make: Callable[[Any], Tensors], told: bool, tmp_path: Path
) -> None:
    path = lora_files.write(tmp_path / "a.safetensors", make(pipeline), metadata(pipeline) if told else None)
    found = lora.read(path, model)
    assert found.unknown == ()
    assert found.warning("m") is None
    try:
        pipeline.load_lora_weights(str(path))
        for part in ("denoiser", "text_encoder"):
            wanted, plain = theirs(pipeline, model, part), ours(model, part)
            if not found.changes[part]:
                continue
            assert relative_error(plain, wanted) > 0.02
            for live in (False, True):
                twin = model.replace(**{part: sharing(getattr(model, part))})
                Adapter(getattr(twin, part)).apply([(found.changes[part], 1.0)], live=live)
                assert relative_error(ours(twin, part), wanted) <= EXACT
    finally:
        pipeline.unload_lora_weights()


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64)


STEPS = torch.tensor([901.0, 20.0], dtype=torch.float64)
TEXT = "a red apple"


def theirs(pipe: Any, model: LatentDiffusion, part: str) -> Tensor:
    if part == "denoiser":
        width = pipe.unet.config.cross_attention_dim
        options = {}
        if pipe.unet.config.addition_embed_type:
            options["added_cond_kwargs"] = {
                "text_embeds": normal(2, 64),
                "time_ids": torch.tensor([[8.0] * 6] * 2),
            }
        out: Tensor = pipe.unet(normal(2, 4, 8, 8), STEPS, normal(2, 5, width), **options).sample
        return out
    features = []
    for tower, text in zip(towers(pipe), model.config.text, strict=True):
        pad = None if text.pad_token is None else TOKENIZER.vocab[text.pad_token]
        found = tower(TOKENIZER.encode([TEXT], pad), output_hidden_states=True)
        features.append(found.last_hidden_state if text.final_norm else found.hidden_states[text.layer])
    return torch.cat(features, dim=-1)


def ours(model: LatentDiffusion, part: str) -> Tensor:
    if part == "denoiser":
        unet = model.config.unet
        vector = None
        if model.config.sizes is not None:
            told = model.config.sizes.vector(8, 8, negative=False)
            eight = torch.cat([normal(2, 64), features_of_eights(told)], dim=1)
            vector = eight
        out: Tensor = model.denoiser.network(
            normal(2, 4, 8, 8), STEPS, normal(2, 5, unet.context_width), vector=vector
        )
        return out
    tokens = model.text_encoder([TEXT]).tokens
    assert tokens is not None
    return tokens


def features_of_eights(told: Tensor) -> Tensor:
    """Six numbers, all 8: the first of `told` (height 8), six times."""
    each = told.shape[-1] // 6
    return told.reshape(1, -1)[:, :each].repeat(2, 6).double()


@pytest.mark.parametrize("name", ["sd1", pytest.param("sdxl", marks=pytest.mark.verify)])
def test_the_same_picture_as_diffusers(name: str, tmp_path: Path) -> None:
    """Text encoders, U-Net and a taught word at once, through both pipelines: the same latents."""
    from diffusers import DDIMScheduler

    model = random(name)
    pipe = in_diffusers(model, tmp_path)
    pipe.scheduler = DDIMScheduler.from_config(
        pipe.scheduler.config, clip_sample=False, set_alpha_to_one=False, use_karras_sigmas=False
    )
    path = lora_files.write(tmp_path / "style.safetensors", by_kohya(pipe))
    word = tmp_path / "easy.safetensors"
    vectors = {"emb_params": Random(4)(2, 64)}
    if name == "sdxl":
        vectors = {"clip_l": Random(4)(2, 64), "clip_g": Random(5)(2, 64)}
    lora_files.write(word, vectors)
    pipe.load_lora_weights(str(path))
    tokenizers = [pipe.tokenizer, getattr(pipe, "tokenizer_2", None)]
    for found, tower, tokenizer in zip(vectors.values(), towers(pipe), tokenizers, strict=False):
        pipe.load_textual_inversion(found, token="<easy>", text_encoder=tower, tokenizer=tokenizer)
    studio = Studio(model, name)
    size = {"width": 32, "height": 24}
    asked = {"seed": 5, "steps": 4, "guidance": 3.0, "sampler": "ddim", "grid": "leading", **size}
    (drawn,) = studio.pictures("a <easy> apple", loras=[str(path)], embeddings=[f"{word}:<easy>"], **asked)
    schedule = model.denoiser.schedule
    first = float(schedule.sigma_at(torch.tensor(3 * 250 + 1.0)))
    begun = PictureNoise([5])(torch.zeros(1, 4, 12, 16)) * first / (1 + first**2) ** 0.5
    options = {"num_inference_steps": 4, "guidance_scale": 3.0, "output_type": "latent", **size}
    wanted = pipe("a <easy> apple", latents=begun.double(), **options).images[0]
    ours = drawn.latents / (1 + schedule.sigma_min**2) ** 0.5
    assert relative_error(ours.double(), wanted.double()) <= 2e-5
    (plain,) = studio.pictures("a <easy> apple", **asked)
    assert relative_error(plain.latents / (1 + schedule.sigma_min**2) ** 0.5, ours) > 0.01


@pytest.mark.parametrize("name", ["sd1", pytest.param("sdxl", marks=pytest.mark.verify)])
@torch.no_grad()
def test_what_is_written_is_what_diffusers_reads(name: str, tmp_path: Path) -> None:
    model = random(name)
    numbers = Random(5)
    changes: dict[Any, dict[str, LowRank]] = {"denoiser": {}, "text_encoder": {}}
    for place in dict.fromkeys(places(model).values()):
        if "attend" in place.path or "attention." in place.path or place.path.endswith("enter"):
            if place.path == "network.enter":
                continue
            weight = place.layer.weight
            down, up = numbers(3, *weight.shape[1:]), numbers(len(weight), 3)
            changes[place.part][place.path] = LowRank(down, up, 0.5)
    pipe = in_diffusers(model, tmp_path)
    for fashion in ("kohya", "diffusers"):
        path = tmp_path / f"{fashion}.safetensors"
        lora.write(path, model, changes, fashion)
        again = lora.read(path, model)
        assert again.unknown == ()
        pipe.load_lora_weights(str(path))
        for part in ("denoiser", "text_encoder"):
            assert again.changes[part].keys() == changes[part].keys()
            twin = model.replace(**{part: sharing(getattr(model, part))})
            Adapter(getattr(twin, part)).apply([(changes[part], 1.0)])
            assert relative_error(ours(twin, part), theirs(pipe, model, part)) <= 1e-6
        pipe.unload_lora_weights()
