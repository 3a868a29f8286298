"""Every family, tiny: its config, and a folder of it that diffusers and transformers wrote, in float64."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from tests.networks.reference import diffusers_autoencoder, diffusers_unet, transformers_clip
from torch import nn

from calotype.conditioning.config import TextConfig
from calotype.conditioning.sizes import SizeConfig
from calotype.conditioning.tokenizer import END, START, Tokenizer
from calotype.models.config import Defaults, LowResConfig, ModelConfig, ScheduleConfig
from calotype.networks.config import AutoencoderConfig, ClipTextConfig, UNetConfig

TOKENIZER = Tokenizer.train(["a red apple", "a green car", "!"] * 4, size=560, context_length=12)

COMMON = {"layers_per_block": 2, "transformer_depth": (1, 1), "context_width": 64, "out_channels": 4}
OPENAI = ClipTextConfig(
    vocabulary=len(TOKENIZER),
    width=64,
    layers=3,
    heads=1,
    context_length=12,
    mlp_width=96,
    end_token=TOKENIZER.end,
)
OPEN_CLIP = replace(OPENAI, activation="gelu")
UNET1 = UNetConfig(
    in_channels=4, block_channels=(32, 64), attention_levels=(True, False), heads=(8, 8), **COMMON
)
UNET2 = replace(UNET1, block_channels=(64, 128), heads=(1, 2), layers_per_block=1, linear_projection=True)
XL = replace(
    UNET2,
    block_channels=(64, 64, 128),
    heads=(1, 1, 2),
    attention_levels=(False, True, True),
    transformer_depth=(1, 1, 2),
    context_width=128,
    vector_width=64 + 6 * 8,
)
REFINER = replace(
    XL,
    attention_levels=(False, True, False),
    transformer_depth=(1, 2, 2),
    context_width=64,
    vector_width=64 + 5 * 8,
)
UPSCALER = replace(
    UNET2,
    in_channels=7,
    heads=(8, 8),
    classes=20,
    attention_levels=(False, True),
    context_only_levels=(False, True),
)


def model(name: str, unet: UNetConfig, text: tuple[TextConfig, ...], **fields: object) -> ModelConfig:
    scale = 0.13025 if name.startswith("sdxl") else 0.08333 if name == "sd-upscaler" else 0.18215
    autoencoder = AutoencoderConfig(block_channels=(32, 64), layers_per_block=1, scale=scale)
    usual = ModelConfig(
        name=name,
        about="",
        size=512,
        autoencoder=autoencoder,
        text=text,
        unet=unet,
        parameterization="eps",
        schedule=ScheduleConfig("scaled_linear"),
        defaults=Defaults(20, 7.5, "dpmpp_2m", "karras", "a1111", offset=1, ends_at_first=True),
    )
    return replace(usual, **fields)


LEVELS = ScheduleConfig("scaled_linear", beta_start=1e-4, beta_end=0.02)
"""The x4 upscaler's, of its latents and of its small picture."""

TEXT1 = (TextConfig(OPENAI),)
TEXT2 = (TextConfig(replace(OPEN_CLIP, layers=23), pad_token="!"),)  # SD 2's own is 24, one cut off
BIG = TextConfig(
    replace(OPEN_CLIP, projection_width=64), layer=-2, final_norm=False, pooled=True, pad_token="!"
)
TEXT_XL = (TextConfig(OPENAI, layer=-2, final_norm=False), BIG)

CONFIGS = {
    config.name: config
    for config in (
        model("sd1", UNET1, TEXT1),
        model("sd1-inpainting", replace(UNET1, in_channels=9), TEXT1),
        model("lcm", replace(UNET1, guidance_width=16), TEXT1),
        model("sd2", UNET2, TEXT2, parameterization="v"),
        model("sd2-inpainting", replace(UNET2, in_channels=9), TEXT2),
        model(
            "sd-upscaler",
            UPSCALER,
            TEXT2,
            parameterization="v",
            schedule=LEVELS,
            low_res=LowResConfig(LEVELS),
        ),
        model("sdxl", XL, TEXT_XL, sizes=SizeConfig(8), zero_negative=True),
        model(
            "sdxl-inpainting", replace(XL, in_channels=9), TEXT_XL, sizes=SizeConfig(8), zero_negative=True
        ),
        model("sdxl-refiner", REFINER, (BIG,), sizes=SizeConfig(8, aesthetic=True)),
    )
}

PIPELINES = {
    "sd1": "StableDiffusionPipeline",
    "sd1-inpainting": "StableDiffusionInpaintPipeline",
    "lcm": "LatentConsistencyModelPipeline",
    "sd2": "StableDiffusionPipeline",
    "sd2-inpainting": "StableDiffusionInpaintPipeline",
    "sd-upscaler": "StableDiffusionUpscalePipeline",
    "sdxl": "StableDiffusionXLPipeline",
    "sdxl-inpainting": "StableDiffusionXLInpaintPipeline",
    "sdxl-refiner": "StableDiffusionXLImg2ImgPipeline",
}


@dataclass(frozen=True)
class Theirs:
    """A folder and the modules whose weights it holds."""

    folder: Path
    config: ModelConfig
    unet: nn.Module
    vae: nn.Module
    texts: tuple[nn.Module, ...]


def written_by_diffusers(name: str, folder: Path) -> Theirs:
    """The family as diffusers and transformers save it."""
    config = CONFIGS[name]
    assert config.autoencoder is not None
    unet, vae = diffusers_unet(config.unet), diffusers_autoencoder(config.autoencoder)
    texts = tuple(transformers_clip(text.clip) for text in config.text)
    vae.register_to_config(scaling_factor=config.autoencoder.scale)
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    index: dict[str, object] = {
        "_class_name": PIPELINES[name],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "force_zeros_for_empty_prompt": config.zero_negative,
    }
    suffixes = [""] if config.sizes is None else ["", "_2"] if len(texts) == 2 else ["_2"]
    for suffix, module, text in zip(suffixes, texts, config.text, strict=True):
        module.save_pretrained(folder / f"text_encoder{suffix}")
        index[f"text_encoder{suffix}"] = ["transformers", type(module).__name__]
        place = folder / f"tokenizer{suffix}"
        place.mkdir()
        TOKENIZER.save_clip_files(place)
        special = {"pad_token": text.pad_token or END, "bos_token": START, "eos_token": {"content": END}}
        (place / "special_tokens_map.json").write_text(json.dumps(special))
    (folder / "scheduler").mkdir()
    scheduler = {
        "_class_name": "PNDMScheduler",
        "beta_start": config.schedule.beta_start,
        "beta_end": config.schedule.beta_end,
        "beta_schedule": "scaled_linear",
        "prediction_type": {"eps": "epsilon", "v": "v_prediction"}[config.parameterization],
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    if config.low_res is not None:
        index["low_res_scheduler"] = ["diffusers", "DDPMScheduler"]
        index["max_noise_level"] = config.low_res.most
        (folder / "low_res_scheduler").mkdir()
        low_res = {"_class_name": "DDPMScheduler", "beta_schedule": "scaled_linear"}
        low_res |= {"beta_start": LEVELS.beta_start, "beta_end": LEVELS.beta_end}
        (folder / "low_res_scheduler" / "scheduler_config.json").write_text(json.dumps(low_res))
    (folder / "model_index.json").write_text(json.dumps(index))
    return Theirs(folder, config, unet, vae, texts)
