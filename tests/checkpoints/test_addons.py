"""LoRAs and textual inversions are told by their names and shapes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from calotype.checkpoints import addons
from calotype.checkpoints.weights_file import open_weights


def opened(folder: Path, weights: dict[str, Tensor], **metadata: str):  # type: ignore[no-untyped-def]
    save_file(weights, folder / "x.safetensors", metadata)
    return open_weights(folder / "x.safetensors")


KOHYA = {
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight": (4, 768),
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_up.weight": (320, 4),
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.alpha": (),
    "lora_unet_down_blocks_0_resnets_0_conv1.lora_down.weight": (8, 320, 3, 3),
    "lora_unet_down_blocks_0_resnets_0_conv1.lora_up.weight": (320, 8, 1, 1),
    "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (4, 768),
    "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": (3072, 4),
}
PEFT = {
    "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight": (16, 2048),
    "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_B.weight": (640, 16),
    "text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight": (16, 1280),
    "text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj.lora_B.weight": (1280, 16),
}
OLD = {
    "unet.mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora.down.weight": (4, 1024),
    "unet.mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora.up.weight": (1280, 4),
}
LOHA = {
    "lora_unet_mid_block_attentions_0_proj_in.hada_w1_a": (1280, 6),
    "lora_unet_mid_block_attentions_0_proj_in.hada_w1_b": (6, 1280),
    "lora_unet_mid_block_attentions_0_proj_in.hada_w2_a": (1280, 6),
    "lora_unet_mid_block_attentions_0_proj_in.hada_w2_b": (6, 1280),
}
LOKR = {
    "lora_unet_mid_block_attentions_0_proj_in.lokr_w1": (16, 16),
    "lora_unet_mid_block_attentions_0_proj_in.lokr_w2": (80, 80),
    "lora_te2_text_model_encoder_layers_0_mlp_fc1.lokr_w1": (16, 16),
}
FLUX = {
    "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": (4, 3072),
    "lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight": (9216, 4),
    "lora_unet_double_blocks_0_img_attn_qkv.dora_scale": (9216, 1),
}


@pytest.mark.parametrize(
    ("shapes", "method", "family", "ranks", "alphas", "targets"),
    [
        (
            KOHYA,
            *("LoRA", "Stable Diffusion 1.x", {4: 2, 8: 1}, True),
            {"U-Net": {"attention": 1, "convolutions": 1}, "text encoder": {"feed-forward": 1}},
        ),
        (
            PEFT,
            *("LoRA", "Stable Diffusion XL", {16: 2}, False),
            {"U-Net": {"attention": 1}, "second text encoder": {"attention": 1}},
        ),
        (OLD, "LoRA", "Stable Diffusion 2.x", {4: 1}, False, {"U-Net": {"attention": 1}}),
        (LOHA, "LoHa", None, {6: 1}, False, {"U-Net": {"projections": 1}}),
        (
            LOKR,
            *("LoKr", "Stable Diffusion XL", {0: 2}, False),
            {"U-Net": {"projections": 1}, "second text encoder": {"feed-forward": 1}},
        ),
        (FLUX, "LoRA with DoRA's magnitudes", "Flux", {4: 1}, False, {"U-Net": {"attention": 1}}),
    ],
)
def test_loras(
    shapes: dict[str, tuple[int, ...]],
    method: str,
    family: str | None,
    ranks: dict[int, int],
    alphas: bool,
    targets: dict[str, dict[str, int]],
    tmp_path: Path,
) -> None:
    found = addons.lora(opened(tmp_path, {name: torch.zeros(shape) for name, shape in shapes.items()}))
    assert found == addons.LoraInfo(method, family, ranks, alphas, targets)


def test_a_loras_metadata_tells_what_its_names_do_not(tmp_path: Path) -> None:
    weights = {name: torch.zeros(shape) for name, shape in LOHA.items()}
    for told, family in (
        ({"ss_base_model_version": "sdxl_base_v1-0"}, "Stable Diffusion XL"),
        ({"modelspec.architecture": "stable-diffusion-v1/lora"}, "Stable Diffusion 1.x"),
        ({"ss_base_model_version": "sd_v2_v"}, "Stable Diffusion 2.x"),
    ):
        found = addons.lora(opened(tmp_path, weights, **told))
        assert found is not None
        assert found.family == family


@pytest.mark.parametrize(
    ("shapes", "tokens", "family"),
    [
        ({"emb_params": (3, 768)}, 3, "Stable Diffusion 1.x"),
        ({"<cat>": (1024,)}, 1, "Stable Diffusion 2.x"),
        ({"clip_l": (2, 768), "clip_g": (2, 1280)}, 2, "Stable Diffusion XL"),
    ],
)
def test_textual_inversions(
    shapes: dict[str, tuple[int, ...]], tokens: int, family: str, tmp_path: Path
) -> None:
    file = opened(tmp_path, {name: torch.zeros(shape) for name, shape in shapes.items()})
    assert addons.embedding(file) == addons.EmbeddingInfo(tokens, family)
    assert addons.lora(file) is None


def test_an_embedding_of_torch_save(tmp_path: Path) -> None:
    torch.save({"string_to_param": {"*": torch.zeros(2, 768)}, "name": "cat"}, tmp_path / "cat.pt")
    file = open_weights(tmp_path / "cat.pt")
    assert addons.embedding(file) == addons.EmbeddingInfo(2, "Stable Diffusion 1.x")


def test_a_model_is_neither(tmp_path: Path) -> None:
    file = opened(tmp_path, {"model.diffusion_model.out.2.bias": torch.zeros(4)})
    assert addons.lora(file) is None
    assert addons.embedding(file) is None
