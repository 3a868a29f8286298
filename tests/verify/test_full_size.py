"""The networks of SD 1.5, SD 2.1, SDXL, the x4 upscaler and a ControlNet at their true sizes, beside
diffusers' and transformers', in float32.

A U-Net's weights are made, shared and given back block by block, while both sides go on with their own maps:
the last comparison is of the whole, and no more than one block is ever in memory, some 4 GB of SDXL's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.networks.reference import (
    AUTOENCODER,
    CLIP,
    CLIP_PROJECTED,
    UNET,
    X4,
    diffusers_autoencoder,
    diffusers_controlnet,
    diffusers_unet,
    relative_error,
    rename,
    transformers_clip,
)
from torch import Tensor, nn

from calotype.checkpoints import diffusers_names
from calotype.models.latent_diffusion import unfilled
from calotype.models.presets import CLIP_L, sd1, sd2, sdxl
from calotype.networks.autoencoder import Autoencoder
from calotype.networks.clip_text import ClipText
from calotype.networks.config import ClipTextConfig, ControlNetConfig, UNetConfig
from calotype.networks.controlnet import ControlNet
from calotype.networks.layers import sinusoids
from calotype.networks.unet import Level, UNet

pytestmark = [pytest.mark.verify, pytest.mark.timeout(1500)]

ROUNDING = 1e-4
"""Of float32 through some hundred layers; the same comparison in float64 is in tests/networks."""


def filled(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module, made on the meta device, with random float32 weights, norms' scales and biases too."""
    generator = torch.Generator().manual_seed(seed)
    module.float().to_empty(device="cpu")
    with torch.no_grad():
        for parameter in module.parameters():
            deviation = 0.3 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
            parameter.normal_(0.5 if parameter.ndim == 1 else 0.0, deviation, generator=generator)
    return module


def given_back(*modules: nn.Module) -> None:
    for module in modules:
        module.to("meta")


class Blocks:
    """A U-Net of ours and one of theirs, both without numbers but in the block that is being compared."""

    def __init__(self, config: UNetConfig) -> None:
        with torch.device("meta"):
            self.theirs: Any = diffusers_unet(config)
        with unfilled():
            self.ours = UNet(config)
        self.errors: list[float] = []

    def with_weights(self, pairs: dict[str, str], run: Callable[[], None]) -> None:
        """Run while these modules, theirs and ours by name, have the same weights."""
        for place, (theirs, ours) in enumerate(pairs.items()):
            module = filled(self.theirs.get_submodule(theirs), place + len(theirs))
            named = {f"{theirs}.{name}": value for name, value in module.state_dict().items()}
            state = rename(named, UNET, to_ours=True)
            self.ours.get_submodule(ours).load_state_dict(
                {name.removeprefix(f"{ours}."): value for name, value in state.items()}, assign=True
            )
        run()
        for theirs, ours in pairs.items():
            given_back(self.theirs.get_submodule(theirs), self.ours.get_submodule(ours))

    def same(self, found: Tensor, wanted: Tensor) -> None:
        self.errors.append(relative_error(found, wanted))
        assert self.errors[-1] <= ROUNDING  # also where it is no number


@pytest.mark.parametrize(
    "config", [sd1().unet, sd2().unet, sdxl().unet, X4], ids=["sd1", "sd2", "sdxl", "x4 upscaler"]
)
@torch.no_grad()
def test_unet(config: UNetConfig) -> None:
    both = Blocks(config)
    ours, theirs = both.ours, both.theirs
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, config.in_channels, 24, 16, generator=generator)
    context = torch.randn(1, 77, config.context_width, generator=generator)
    time = torch.tensor([601.0])
    vector = None if config.vector_width is None else torch.randn(1, config.vector_width, generator=generator)
    label = None if config.classes is None else torch.tensor([20])
    state: dict[str, Any] = {}

    def embed() -> None:
        found = ours.embed(time, vector, label)
        wanted = theirs.time_embedding(sinusoids(time, config.block_channels[0]))
        if vector is not None:
            wanted = wanted + theirs.add_embedding(vector)
        if label is not None:
            wanted = wanted + theirs.class_embedding(label)
        both.same(found, nn.functional.silu(wanted))
        state.update(embedding=found, temb=wanted)

    named = {"time_embedding": "time_embedding"}
    named |= {"add_embedding": "vector_embedding"} if vector is not None else {}
    named |= {"class_embedding": "class_embedding"} if label is not None else {}
    both.with_weights(named, embed)

    def enter() -> None:
        state.update(x=ours.enter(x), y=theirs.conv_in(x))

    both.with_weights({"conv_in": "enter"}, enter)
    kept, theirs_kept = [state["x"]], [state["y"]]

    def told(block: Any) -> dict[str, Any]:
        return {"encoder_hidden_states": context} if getattr(block, "has_cross_attention", False) else {}

    for i, block in enumerate(theirs.down_blocks):

        def descend(i: int = i, block: Any = block) -> None:
            level = ours.down[i]
            assert isinstance(level, Level)
            for j in range(config.layers_per_block):
                state["x"] = level(j, state["x"], state["embedding"], context)
                kept.append(state["x"])
            if level.resample is not None:
                state["x"] = level.resample(state["x"])
                kept.append(state["x"])
            state["y"], maps = block(state["y"], state["temb"], **told(block))
            theirs_kept.extend(maps)
            for found, wanted in zip(kept[-len(maps) :], maps, strict=True):
                both.same(found, wanted)

        both.with_weights({f"down_blocks.{i}": f"down.{i}"}, descend)

    def middle() -> None:
        state["x"] = ours.middle(state["x"], state["embedding"], context)
        state["y"] = theirs.mid_block(state["y"], state["temb"], **told(theirs.mid_block))
        both.same(state["x"], state["y"])

    both.with_weights({"mid_block": "middle"}, middle)
    for i, block in enumerate(theirs.up_blocks):

        def ascend(i: int = i, block: Any = block) -> None:
            level, count = ours.up[i], config.layers_per_block + 1
            assert isinstance(level, Level)
            for j in range(count):
                state["x"] = torch.cat([state["x"], kept.pop()], dim=1)  # (B C H W), (B S H W) -> (B C+S H W)
                state["x"] = level(j, state["x"], state["embedding"], context)
            if level.resample is not None:
                state["x"] = level.resample(state["x"])
            skips = tuple(theirs_kept[-count:])
            del theirs_kept[-count:]
            state["y"] = block(
                hidden_states=state["y"], temb=state["temb"], res_hidden_states_tuple=skips, **told(block)
            )
            both.same(state["x"], state["y"])

        both.with_weights({f"up_blocks.{i}": f"up.{i}"}, ascend)
    assert not kept
    assert not theirs_kept

    def leave() -> None:
        state["x"] = ours.leave(ours.norm(state["x"]))
        state["y"] = theirs.conv_out(nn.functional.silu(theirs.conv_norm_out(state["y"])))
        both.same(state["x"], state["y"])

    both.with_weights({"conv_norm_out": "norm", "conv_out": "leave"}, leave)


@torch.no_grad()
def test_autoencoder() -> None:
    config = sd1().autoencoder
    assert config is not None
    theirs = diffusers_autoencoder(config).float()
    ours = Autoencoder(config)
    ours.load_state_dict(rename(theirs.state_dict(), AUTOENCODER, to_ours=True))
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, 3, 128, 64, generator=generator) * 2 - 1
    assert relative_error(ours.encode(images).raw_mean, theirs.encode(images).latent_dist.mean) <= ROUNDING
    latents = torch.randn(1, 4, 16, 8, generator=generator)
    wanted = theirs.decode(latents / config.scale).sample
    assert relative_error(ours.decode(latents), wanted) <= ROUNDING


@pytest.mark.parametrize(
    "config", [CLIP_L, sd2().text[0].clip, sdxl().text[1].clip], ids=["CLIP-L", "OpenCLIP-H", "OpenCLIP-bigG"]
)
@torch.no_grad()
def test_text_transformer(config: ClipTextConfig) -> None:
    with torch.device("meta"):
        theirs: Any = transformers_clip(config)
    buffers = {name: torch.arange(77)[None] for name, value in theirs.named_buffers() if value.ndim == 2}
    filled(theirs)
    for name, value in buffers.items():
        theirs.get_buffer(name).copy_(value)
    with unfilled():
        ours = ClipText(config)
    projected = config.projection_width is not None
    table = CLIP_PROJECTED if projected else CLIP
    ours.load_state_dict(rename(theirs.state_dict(), table, to_ours=True), assign=True)
    tokens = torch.randint(0, 49406, (1, 77), generator=torch.Generator().manual_seed(0))
    tokens[:, 0], tokens[:, 40:] = 49406, 49407
    found, wanted = ours(tokens), theirs(tokens, output_hidden_states=True)
    for ours_hidden, theirs_hidden in zip(found.hidden, wanted.hidden_states, strict=True):
        assert relative_error(ours_hidden, theirs_hidden) <= ROUNDING
    pooled = wanted.text_embeds if projected else wanted.pooler_output
    assert relative_error(found.pooled, pooled) <= ROUNDING


@torch.no_grad()
def test_controlnet() -> None:
    config = ControlNetConfig(sd1().unet)
    with torch.device("meta"):
        theirs: Any = diffusers_controlnet(config)
    filled(theirs)
    stored = theirs.state_dict()
    sources, _ = diffusers_names.controlnet().find(stored)
    with unfilled():
        ours = ControlNet(config)
    ours.load_state_dict(
        {name: source.take(stored[source.name]) for name, source in sources.items()}, assign=True
    )
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, 24, 16, generator=generator)
    context = torch.randn(1, 77, 768, generator=generator)
    picture = torch.rand(1, 3, 192, 128, generator=generator)
    time = torch.tensor([601.0])
    down, middle = theirs(x, time, context, picture, return_dict=False)
    for found, wanted in zip(ours(x, ours.hinted(picture), time, context), [*down, middle], strict=True):
        assert relative_error(found, wanted) <= ROUNDING
