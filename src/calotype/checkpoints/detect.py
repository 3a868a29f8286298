"""What a file or a U-Net is, from names and shapes alone; what Calotype cannot use is refused by name."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from calotype.errors import CheckpointError, shown
from calotype.networks.config import UNetConfig


@dataclass(frozen=True)
class Family:
    """size   pixels a side of its pictures
    v_size    the same for the variant that predicts v
    guidance  its usual scale
    scale     of its autoencoder's latents
    sampler, grid, steps  its usual way, where a folder says nothing
    text      whose its first text tower is, which tells the activation
    """

    name: str
    title: str
    size: int = 512
    v_size: int = 512
    guidance: float = 7.5
    scale: float = 0.18215
    sampler: str = "dpmpp_2m"
    grid: str = "karras"
    steps: int = 20
    text: Literal["openai", "open_clip"] = "openai"

    @property
    def sized(self) -> bool:
        """Whether its vector holds the pooled text and the picture's sizes, as SDXL's does."""
        return self.name.startswith("sdxl")

    @property
    def zero_negative(self) -> bool:
        """Whether no negative prompt means zeros, which only the refiner among SDXL's did not learn."""
        return self.sized and self.name != "sdxl-refiner"


FAMILIES = {
    family.name: family
    for family in (
        Family("sd1", "Stable Diffusion 1.x"),
        Family("sd1-inpainting", "Stable Diffusion 1.x, inpainting"),
        Family("sd2", "Stable Diffusion 2.x", v_size=768, text="open_clip"),
        Family("sd2-inpainting", "Stable Diffusion 2.x, inpainting", text="open_clip"),
        Family("sd-upscaler", "Stable Diffusion x4 upscaler", guidance=9.0, scale=0.08333, text="open_clip"),
        Family("sdxl", "Stable Diffusion XL base", 1024, 1024, guidance=7.0, scale=0.13025),
        Family("sdxl-inpainting", "Stable Diffusion XL, inpainting", 1024, 1024, guidance=7.0, scale=0.13025),
        Family("sdxl-refiner", "Stable Diffusion XL refiner", 1024, 1024, guidance=7.0, scale=0.13025),
        Family("lcm", "Stable Diffusion 1.x, LCM", guidance=8.5, sampler="lcm", grid="lcm", steps=4),
        Family("sdxl-lcm", "Stable Diffusion XL, LCM", 1024, 1024, 8.0, 0.13025, "lcm", "lcm", 4),
    )
}

LORA = ".lora_down. .lora_up. .lora_A. .lora_B. .lora.down. .lora.up. _lora. .hada_w1_ .lokr_w1 .dora_scale"
OTHERS = (
    ("a LoRA, which changes a model but is none and goes to --lora", LORA),
    (
        "a textual inversion, which teaches a model a word but is none and goes to --embedding",
        "emb_params string_to_param",
    ),
    ("an IP-Adapter", "ip_adapter. .to_k_ip."),
    ("a T2I-Adapter", "adapter.body. body.0.resnets.0.block1"),
    (
        "a ControlNet, which guides a model by --control but is none",
        "controlnet_cond_embedding. input_hint_block. controlnet_down_blocks. zero_convs.",
    ),
    ("an AnimateDiff motion module", "motion_modules."),
    ("Stable Video Diffusion", ".time_stack. temporal_transformer_blocks."),
    ("Hunyuan Video", "img_attn_qkv."),
    ("Flux", "double_blocks.0.img_attn. single_transformer_blocks.0.proj_mlp."),
    ("Stable Diffusion 3", "joint_blocks.0. transformer_blocks.0.ff_context."),
    ("Stable Cascade", "clip_txt_mapper. clip_txt_pooled_mapper."),
    ("AuraFlow", "double_layers.0."),
    ("PixArt", "adaln_single. t_block.1."),
    ("Qwen-Image", "transformer_blocks.0.img_mod."),
    ("Lumina", "cap_embedder."),
    ("Wan", "blocks.0.cross_attn.norm_k."),
    ("Stable Diffusion 2 depth-to-image", "depth_model."),
    ("Stable unCLIP", "embedder.model.visual."),
    ("DeepFloyd IF", "encoder_pooling."),
    ("a VQ autoencoder", "quantize.embedding."),
    ("an image upscaler of the ESRGAN kind", "body.0.rdb1. RDB1."),
    ("a T5 text encoder", ".SelfAttention."),
    ("a CLIP model of pictures", "vision_model."),
)
"""Title and tell-tale parts of names, first match first."""

PIPELINES = (
    ("StableDiffusion3", "Stable Diffusion 3"),
    ("StableDiffusionLatentUpscale", "the latent x2 upscaler"),
    ("StableDiffusionDepth2Img", "Stable Diffusion 2 depth-to-image"),
    ("StableDiffusionInstructPix2Pix", "InstructPix2Pix"),
    ("StableDiffusionXLInstructPix2Pix", "InstructPix2Pix XL"),
    ("StableUnCLIP", "Stable unCLIP"),
    ("StableVideoDiffusion", "Stable Video Diffusion"),
    ("StableCascade", "Stable Cascade"),
    ("Flux", "Flux"),
    ("PixArt", "PixArt"),
    ("Kandinsky", "Kandinsky"),
    ("Hunyuan", "Hunyuan"),
    ("QwenImage", "Qwen-Image"),
    ("Lumina", "Lumina"),
    ("AuraFlow", "AuraFlow"),
    ("Wan", "Wan"),
    ("IF", "DeepFloyd IF"),
)
"""Beginnings of diffusers' pipeline classes, and what they are."""


def refuse_others(path: Path, names: Collection[str]) -> None:
    """Raises CheckpointError that says what the file is, where it is known but of no use here."""
    for title, tell_tales in OTHERS:
        if any(part in name for part in tell_tales.split() for name in names):
            raise _refusal(path, title)
    words = len(names) <= 2 and all(name in ("clip_l", "clip_g") or name.startswith("<") for name in names)
    if names and words:
        raise _refusal(path, OTHERS[1][0])


def refuse_pipeline(path: Path, class_name: str) -> None:
    """The same for a diffusers folder, by the class of its pipeline."""
    if "ControlNet" in class_name:
        raise _refusal(path, "a model joined to a ControlNet")
    for beginning, title in PIPELINES:
        if class_name.startswith(beginning):
            raise _refusal(path, title)
    if not class_name.startswith(("StableDiffusion", "LatentConsistency")):
        raise _refusal(path, f"a pipeline {shown(class_name)} of diffusers")


def _refusal(path: Path, title: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is {title}; Calotype draws with Stable Diffusion 1.x, 2.x and XL, so name one of those."
    )


def family(path: Path, unet: UNetConfig, *, sized: bool = True) -> Family:
    """Which family a U-Net belongs to, by its build and not its size, so that small ones are known too.

    sized  False where a conditioning vector is known to hold no sizes

    Raises CheckpointError for one that takes other conditions than Calotype can give.
    """
    extra = unet.in_channels - unet.out_channels
    if unet.classes is not None:
        if extra != 3:
            raise _refusal(path, "a model with class labels")
        return FAMILIES["sd-upscaler"]
    if extra == unet.out_channels:
        raise _refusal(path, "InstructPix2Pix")
    if extra == 1:
        raise _refusal(path, "Stable Diffusion 2 depth-to-image")
    if extra not in (0, unet.out_channels + 1):
        raise _refusal(path, f"a model whose U-Net takes {unet.in_channels} channels")
    if unet.vector_width is not None and sized:
        # The refiner alone has no transformers at the coarsest level.
        kind = "sdxl" if unet.attention_levels[-1] else "sdxl-refiner"
    elif unet.context_width in (768, 1024):
        kind = "sd1" if unet.context_width == 768 else "sd2"
    else:
        kind = "sd2" if unet.linear_projection else "sd1"
    if unet.guidance_width is not None:
        kind = "sdxl-lcm" if kind == "sdxl" else "lcm"
    if extra and unet.guidance_width is not None:
        raise _refusal(path, "an LCM for inpainting")
    return FAMILIES[f"{kind}-inpainting" if extra else kind]
