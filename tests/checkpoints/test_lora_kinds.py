"""Kinds of LoRA: LyCORIS itself makes the numbers and the merged weight; other ways; what is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.checkpoints import lora_files
from tests.checkpoints.families import TOKENIZER
from tests.checkpoints.lora_files import Random, Tensors
from tests.checkpoints.test_lora_files import normal, random
from tests.networks.reference import relative_error
from torch import Tensor, nn

from calotype.checkpoints import lora
from calotype.checkpoints.lora_names import places
from calotype.errors import CheckpointError
from calotype.models.latent_diffusion import LatentDiffusion, build
from calotype.models.presets import PRESETS
from calotype.networks.lora import Adapter, LowRank, sharing

pytestmark = pytest.mark.filterwarnings("ignore")  # diffusers, PEFT and LyCORIS warn of their own


def kinds() -> dict[str, Callable[[nn.Module], Any]]:
    from lycoris.modules.full import FullModule
    from lycoris.modules.locon import LoConModule
    from lycoris.modules.loha import LohaModule
    from lycoris.modules.lokr import LokrModule

    def make(kind: Any, **options: Any) -> Callable[[nn.Module], Any]:
        return lambda layer: kind("x", layer, 1.0, **{"lora_dim": 3, "alpha": 2.0, **options})

    return {
        "locon": make(LoConModule),
        "tucker": make(LoConModule, use_tucker=True),
        "rslora": make(LoConModule, rs_lora=True),
        "loha": make(LohaModule),
        "loha-tucker": make(LohaModule, use_tucker=True),
        "lokr": make(LokrModule, factor=4),
        "lokr-tucker": make(LokrModule, factor=4, use_tucker=True),
        "lokr-both": make(LokrModule, factor=4, decompose_both=True, lora_dim=2),
        "lokr-full": make(LokrModule, factor=4, lora_dim=100000),
        "dora-out": make(LoConModule, weight_decompose=True, wd_on_out=True),
        "dora-in": make(LoConModule, weight_decompose=True, wd_on_out=False),
        "doha": make(LohaModule, weight_decompose=True, wd_on_out=True),
        "full": make(FullModule),
    }


KINDS = (
    *("locon", "tucker", "rslora", "loha", "loha-tucker", "lokr", "lokr-tucker", "lokr-both", "lokr-full"),
    *("dora-out", "dora-in", "doha", "full"),
)


@pytest.fixture(scope="module")
def small() -> LatentDiffusion:
    return random("sd1")


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_as_lycoris_merges_it(small: LatentDiffusion, kind: str, tmp_path: Path) -> None:
    tensors: Tensors = {}
    wanted: dict[str, Tensor] = {}
    paths = {
        "network.down.0.blocks.0.conv1": "lora_unet_down_blocks_0_resnets_0_conv1",
        "network.down.0.resample.conv": "lora_unet_down_blocks_0_downsamplers_0_conv",
        "network.down.0.transformers.0.enter": "lora_unet_down_blocks_0_attentions_0_proj_in",
        "network.down.0.transformers.1.blocks.0.feed.up": (
            "lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_ff_net_0_proj"
        ),
    }
    torch.manual_seed(0)
    for path, name in paths.items():
        layer = copy.deepcopy(small.denoiser.get_submodule(path))
        if isinstance(layer, nn.Conv2d):
            layer.__class__ = nn.Conv2d  # they make theirs by its class
        theirs = kinds()[kind](layer).double().eval()
        theirs.apply_to()  # from here on the layer is theirs
        for key, value in theirs.named_parameters():
            value.mul_(1.3) if "dora_scale" in key else value.add_(torch.randn_like(value) * 0.3)
        tensors |= {f"{name}.{key}": value.clone() for key, value in theirs.custom_state_dict().items()}
        wanted[path] = layer(picture(small.denoiser.get_submodule(path)))
    read = lora.read(lora_files.write(tmp_path / "a.safetensors", tensors), small)
    assert read.unknown == ()
    for live in (False, True):
        twin = sharing(small.denoiser)
        Adapter(twin).apply([(read.changes["denoiser"], 1.0)], live=live)
        for path, output in wanted.items():
            found = twin.get_submodule(path)(picture(small.denoiser.get_submodule(path)))
            assert relative_error(found, output) <= 1e-7, path  # its alpha is in single precision


def picture(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return normal(2, weight.shape[1], 6, 6) if weight.ndim == 4 else normal(2, 5, weight.shape[1])


# Layouts that are seldom met


def test_the_processors_of_old_diffusers(small: LatentDiffusion, tmp_path: Path) -> None:
    stem = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor"
    numbers = Random(1)
    tensors = {}
    for part in ("to_q", "to_out"):
        tensors[f"unet.{stem}.{part}_lora.down.weight"] = numbers(4, 32)
        tensors[f"unet.{stem}.{part}_lora.up.weight"] = numbers(32, 4)
    found = lora.read(lora_files.write(tmp_path / "a.safetensors", tensors), small)
    place = "network.down.0.transformers.0.blocks.0.attend_self"
    assert found.changes["denoiser"].keys() == {f"{place}.query", f"{place}.out"}


def test_pefts_own_folder_says_alpha(small: LatentDiffusion, tmp_path: Path) -> None:
    stem = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    numbers = Random(1)
    tensors = {f"{stem}.lora_A.weight": numbers(4, 32), f"{stem}.lora_B.weight": numbers(32, 4)}
    path = lora_files.write(tmp_path / "adapter_model.safetensors", tensors)
    with pytest.raises(CheckpointError, match=r"adapter_config\.json cannot be read"):
        lora.read(path, small)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 6, "use_rslora": True}))
    (found,) = lora.read(path, small).changes["denoiser"].values()
    assert isinstance(found, LowRank)
    assert found.scale == 3.0


def test_names_of_all_models_are_their_own() -> None:
    from calotype.conditioning.tokenizer import Tokenizer
    from calotype.models.latent_diffusion import unfilled

    for name in ("icons", "sd1", "sdxl"):
        config = PRESETS[name]()
        tokenizer = TOKENIZER if name == "icons" else Tokenizer.clip()
        with unfilled():
            model = build(config.fitted_to(tokenizer), tokenizer)
        found = places(model)
        layers = {
            (part, path)
            for part in ("denoiser", "text_encoder")
            for path, layer in getattr(model, part).named_modules()
            if isinstance(layer, nn.Linear | nn.Conv2d)
        }
        assert {(place.part, place.path) for place in found.values()} == layers
        assert "lora_unet_conv_in" in found
        assert "unet.conv_in" in found


# What is refused


GOOD = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


def good() -> Tensors:
    numbers = Random(1)
    return {
        f"{GOOD}.lora_down.weight": numbers(4, 32),
        f"{GOOD}.lora_up.weight": numbers(32, 4),
        f"{GOOD}.alpha": torch.tensor(4.0),
    }


def without(name: str) -> Tensors:
    return {key: value for key, value in good().items() if not key.endswith(name)}


def changed(**values: Tensor) -> Tensors:
    return good() | {f"{GOOD}.{name.replace('_weight', '.weight')}": value for name, value in values.items()}


NAN = torch.tensor(float("nan"))


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"something.weight": torch.zeros(2)}, r"is no LoRA \(something\.weight\); name one"),
        (
            {"lora_unet_nowhere.alpha": torch.ones(())},
            "LoRA for another model than sd1: none of its 1 tensors",
        ),
        (without("lora_up.weight"), "has .*, but no up to go with it"),
        (without("lora_down.weight"), "has .*, but no down to go with it"),
        ({f"{GOOD}.alpha": torch.tensor(4.0)}, "but nothing that it belongs to"),
        (changed(lora_up_weight=torch.zeros(32, 5)), r"in the shape \[32, 5\], which does not fit a layer"),
        (changed(lora_up_weight=torch.zeros(64, 4)), r"in the shape \[64, 4\], which does not fit"),
        (changed(lora_down_weight=torch.zeros(4, 64)), r"in the shape \[4, 64\], which does not fit"),
        (changed(lora_down_weight=torch.zeros(4)), r"in the shape \[4\], which does not fit"),
        (changed(lora_down_weight=torch.zeros(())), r"in the shape \[\], which does not fit"),
        (changed(lora_down_weight=torch.zeros(4, 32, 3, 3)), r"in the shape \[4, 32, 3, 3\]"),
        (
            changed(lora_down_weight=torch.zeros(0, 32), lora_up_weight=torch.zeros(32, 0)),
            "down.weight of rank 0",
        ),
        (changed(lora_down_weight=torch.full((4, 32), float("inf"))), "down.weight that are not finite"),
        (changed(lora_down_weight=torch.zeros(4, 32, dtype=torch.int8)), r"as torch\.int8"),
        (changed(alpha=NAN), "alpha that are not finite"),
        (changed(alpha=torch.tensor(0.0)), "alpha of 0"),
        (changed(alpha=torch.zeros(3)), r"alpha in the shape \[3\]"),
        (changed(dora_scale=torch.ones(7)), r"dora_scale in the shape \[7\]"),
        (changed(lora_mid_weight=torch.zeros(4, 4, 3, 3)), r"lora_mid.weight in the shape"),
        (changed(diff=torch.zeros(32, 32)), "changes one layer of sd1 in two ways"),
        (changed(lokr_w1=torch.zeros(2, 2)), "changes one layer of sd1 in two ways"),
        ({f"{GOOD}.diff": torch.zeros(32, 32), f"{GOOD}.diff_b": torch.zeros(32)}, "diff_b in the shape"),
        (
            {f"{GOOD}.lokr_w1": torch.zeros(5, 2), f"{GOOD}.lokr_w2": torch.zeros(6, 16)},
            "lokr_w1 in the shape",
        ),
        ({f"{GOOD}.hada_w1_b": torch.zeros(2, 32), f"{GOOD}.hada_t1": torch.zeros(2, 2)}, "hada_t1 in the"),
        (
            good() | {f"unet.{GOOD}.oft_blocks": torch.zeros(1)},
            "of the kind OFT or BOFT, which Calotype does",
        ),
        ({f"{GOOD}.on_input": torch.zeros(()), f"{GOOD}.weight": torch.zeros(3)}, r"of the kind \(IA\)³"),
        (
            good() | {f"{GOOD.replace('_0_attn1', '.0.attn1')}.lora_up.weight": torch.zeros(1)},
            None,
        ),
        (
            good()
            | {
                "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight": torch.zeros(
                    4, 32
                )
            },
            "says twice how",
        ),
    ],
)
def test_hostile_files_are_one_sentence(
    small: LatentDiffusion, tensors: Tensors, sentence: str | None, tmp_path: Path
) -> None:
    path = lora_files.write(tmp_path / "bad.safetensors", tensors)
    if sentence is None:
        warning = lora.read(path, small).warning("sd1")
        assert warning is not None
        assert "fits the model sd1 only in part: 1 of its 4 tensors" in warning
        return
    with pytest.raises(CheckpointError, match=sentence) as caught:
        lora.read(path, small)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_metadata(small: LatentDiffusion, tmp_path: Path) -> None:
    stem = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {f"{stem}.lora_A.weight": torch.zeros(4, 32), f"{stem}.lora_B.weight": torch.zeros(32, 4)}
    for text, sentence in (
        ("{", "holds a damaged lora_adapter_metadata"),
        ("[]", "holds a damaged lora_adapter_metadata"),
        ('{"unet.lora_alpha": "much"}', "says that alpha is 'much'"),
        ('{"unet.lora_alpha": NaN}', "says that alpha is nan"),
        ('{"unet.lora_alpha": true}', "says that alpha is True"),
    ):
        path = lora_files.write(tmp_path / "a.safetensors", tensors, {lora.METADATA: text})
        with pytest.raises(CheckpointError, match=sentence):
            lora.read(path, small)


def test_a_lora_of_another_family_is_told_by_its_widths(small: LatentDiffusion, tmp_path: Path) -> None:
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    tensors = {f"{name}.lora_down.weight": torch.zeros(4, 1024), f"{name}.lora_up.weight": torch.zeros(32, 4)}
    with pytest.raises(CheckpointError, match=r"\[4, 1024\], which does not fit a layer of \[32, 64\]"):
        lora.read(lora_files.write(tmp_path / "a.safetensors", tensors), small)
