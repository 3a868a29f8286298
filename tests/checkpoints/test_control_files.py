"""ControlNets as diffusers and CompVis wrote them, read by us; what they do not fit, and what is none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.checkpoints.families import CONFIGS, UNET1, UNET2, XL
from tests.networks.reference import diffusers_controlnet
from torch import Tensor

from calotype.checkpoints import compvis_names, controlnet, diffusers_names, shelf
from calotype.checkpoints.number_type import TYPES
from calotype.checkpoints.weights_file import TensorInfo
from calotype.errors import CheckpointError, InputError
from calotype.models.presets import PRESETS
from calotype.networks.config import ControlNetConfig
from calotype.networks.controlnet import ControlNet

HINT = (4, 6)  # the autoencoders of the tiny families halve once
CONFIGS_OF = {
    "sd1": ControlNetConfig(UNET1, hint_channels=HINT),
    "sd2": ControlNetConfig(UNET2, hint_channels=HINT),
    "sdxl": ControlNetConfig(XL, hint_channels=HINT),
    "sdxl-small": ControlNetConfig(
        replace(
            XL,
            attention_levels=(False,) * 3,
            transformer_depth=(1, 1, 0),
            linear_projection=False,
            context_width=0,
        ),
        hint_channels=HINT,
        short_middle=True,
    ),
}


def equal(a: ControlNet, weights: dict[str, Tensor]) -> bool:
    state = a.state_dict()
    return state.keys() == weights.keys() and all(torch.equal(state[name], weights[name]) for name in state)


@pytest.mark.parametrize("name", CONFIGS_OF)
def test_a_folder_a_file_and_compvis_names_are_the_same_network(name: str, tmp_path: Path) -> None:
    config = CONFIGS_OF[name]
    full = replace(config, unet=replace(config.unet, context_width=config.unet.context_width or 8))
    theirs = diffusers_controlnet(full)
    folder = tmp_path / "net"
    theirs.save_pretrained(folder)
    found = controlnet.recognise(folder)
    assert found.config == full
    wanted = found.load(dtype=None)
    weights = wanted.state_dict()
    assert all(value.dtype == torch.float64 for value in weights.values())

    # without its config: the shapes tell it
    file = controlnet.recognise(folder / "diffusion_pytorch_model.safetensors")
    assert file.config == config
    assert equal(file.load(dtype=None), weights)
    if config.short_middle:
        return  # no one has CompVis' names for those

    unet = config.unet
    stored = {
        name: TensorInfo((), TYPES["float32"])
        for name in (f"input_hint_block.{i}.weight" for i in range(0, 4 + 4 * len(HINT) - 4, 2))
    }
    rows = compvis_names.unet(unet.layers_per_block, unet.attention_levels).rows
    beside = [row for row in compvis_names.controlnet_met(stored, "").rows if "hint" in row.theirs]
    beside += [row for row in compvis_names.controlnet_met(stored, "").rows if "zero" in row.ours[0]]
    layout = compvis_names.Layout((*rows, *beside)).below("control_model.")
    compvis = layout.write(weights)
    assert "control_model.middle_block_out.0.weight" in compvis
    for names, extra in (
        (compvis, {}),
        ({name.removeprefix("control_model."): value for name, value in compvis.items()}, {}),
        (compvis, {"model.diffusion_model.out.2.bias": torch.zeros(4), "alphas_cumprod": torch.zeros(3)}),
    ):
        path = tmp_path / "compvis.safetensors"
        save_file({name: value.contiguous() for name, value in (names | extra).items()}, path)
        again = controlnet.recognise(path)
        assert again.config == config
        assert equal(again.load(dtype=None), weights)
    torch.save({"state_dict": compvis}, tmp_path / "net.pth")
    assert equal(controlnet.recognise(tmp_path / "net.pth").load(dtype=None), weights)


def test_diffusers_reads_compvis_names_alike(tmp_path: Path) -> None:
    """Their converter gives the weights that we read."""
    from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint

    theirs = diffusers_controlnet(ControlNetConfig(UNET1))  # it knows hints of eight convolutions only
    theirs.save_pretrained(tmp_path / "net")
    wanted = theirs.state_dict()
    weights = controlnet.recognise(tmp_path / "net").load(dtype=None).state_dict()
    stored = {f"input_hint_block.{i}.weight": TensorInfo((), TYPES["float32"]) for i in range(0, 16, 2)}
    rows = compvis_names.unet(2, UNET1.attention_levels).rows
    beside = compvis_names.controlnet_met(stored, "").rows
    hint_and_zeros = tuple(row for row in beside if "hint" in row.theirs or "zero" in row.ours[0])
    compvis = compvis_names.Layout((*rows, *hint_and_zeros)).below("control_model.").write(weights)
    converted = convert_controlnet_checkpoint(dict(compvis), dict(theirs.config))
    assert converted.keys() == wanted.keys()
    for name, value in converted.items():
        assert torch.equal(value.reshape(wanted[name].shape), wanted[name]), name


class OnlyShapes:
    """A ControlNet's file of the true size, of which nothing can be read."""

    path = Path("control.safetensors")
    metadata: Mapping[str, str] = {}
    scalars: Mapping[str, str] = {}

    def __init__(self, config: ControlNetConfig) -> None:
        with torch.device("meta"):
            weights = diffusers_names.controlnet().write(ControlNet(config).state_dict())
        self.shapes = {
            name: TensorInfo(tuple(value.shape), TYPES["float16"]) for name, value in weights.items()
        }


@pytest.mark.parametrize(
    ("name", "title"),
    [("sd1", "Stable Diffusion 1.x"), ("sd2", "Stable Diffusion 2.x"), ("sdxl", "Stable Diffusion XL")],
)
def test_the_true_sizes_are_recognised_and_checked_unread(
    name: str, title: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = ControlNetConfig(PRESETS[name]().unet)
    path = tmp_path / "control.safetensors"
    path.touch()
    monkeypatch.setattr(controlnet, "open_weights", lambda _: OnlyShapes(config))
    found = controlnet.recognise(path)
    assert found.config == config
    assert found.title == title
    for other in ("sd1", "sd2", "sdxl"):
        if other == name:
            found.check(PRESETS[other]())
            continue
        with pytest.raises(
            CheckpointError, match=f"for {title} .*does not fit the model {other} .*use one for"
        ):
            found.check(PRESETS[other]())


def test_what_is_no_ControlNet_says_what_it_is(tmp_path: Path) -> None:  # noqa: N802
    path = tmp_path / "x.safetensors"
    for name, sentence in (
        ("task_embedding", "is a ControlNet Union"),
        ("lora_controlnet", "is a Control-LoRA"),
        ("lllite_unet.x", "is a ControlNet-LLLite"),
        ("difference", "kept as its difference"),
        ("controlnet_blocks.0.weight", "of Stable Diffusion 3 or Flux"),
        ("model.diffusion_model.out.2.bias", "is no ControlNet; name one"),
    ):
        save_file({name: torch.zeros(1)}, path)
        with pytest.raises(CheckpointError, match=sentence):
            controlnet.recognise(path)
    with pytest.raises(InputError, match="There is no file"):
        controlnet.recognise(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        controlnet.recognise(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "FluxControlNetModel"}))
    with pytest.raises(CheckpointError, match="is a 'FluxControlNetModel' of diffusers and no ControlNet"):
        controlnet.recognise(tmp_path)


def test_a_ControlNet_is_no_model_and_may_be_damaged(tmp_path: Path) -> None:  # noqa: N802
    theirs = diffusers_controlnet(CONFIGS_OF["sd1"])
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    with pytest.raises(CheckpointError, match=r"is a ControlNet, which guides a model by --control"):
        shelf.recognise(path)
    weights: dict[str, Any] = dict(theirs.state_dict())
    gone = {name: value for name, value in weights.items() if name != "controlnet_mid_block.weight"}
    save_file(gone, path)
    with pytest.raises(CheckpointError, match=r"lacks controlnet_mid_block\.weight"):
        controlnet.recognise(path).load()
    save_file(weights | {"surplus": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"for which a ControlNet has no place \(surplus\)"):
        controlnet.recognise(path)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"mid_block_type": "Other"}))
    with pytest.raises(CheckpointError, match="mid_block_type 'Other'"):
        controlnet.recognise(tmp_path)


def test_one_that_halves_otherwise_does_not_fit(tmp_path: Path) -> None:
    diffusers_controlnet(ControlNetConfig(UNET1, hint_channels=(4, 6, 8))).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="does not fit the model sd1"):
        controlnet.recognise(tmp_path).check(CONFIGS["sd1"])
