"""The U-Net beside diffusers', in float64 with every parameter random, and what it promises by itself."""

import dataclasses
from typing import Any

import pytest
import torch
from tests.networks.reference import UNET, X4, diffusers_unet, randomise, relative_error, rename

from calotype.errors import InputError
from calotype.models.presets import sd1, sd2, sdxl
from calotype.networks.config import UNetConfig
from calotype.networks.layers import sinusoids
from calotype.networks.unet import UNet

SD1 = UNetConfig(
    in_channels=4,
    out_channels=4,
    block_channels=(8, 16, 16, 24),
    layers_per_block=2,
    attention_levels=(True, True, True, False),
    transformer_depth=(1, 1, 1, 1),
    heads=(2, 2, 2, 2),
    context_width=12,
    norm_groups=4,
)
XL = dataclasses.replace(SD1, linear_projection=True, vector_width=10 + 6 * 8)
LIKE = {
    "sd1": SD1,
    "sd2": dataclasses.replace(SD1, heads=(1, 2, 4, 6), linear_projection=True),
    "sdxl": dataclasses.replace(
        XL,
        block_channels=(8, 16, 24),
        attention_levels=(False, True, True),
        transformer_depth=(1, 2, 3),
        heads=(1, 2, 3),
    ),
    "refiner": dataclasses.replace(
        XL, attention_levels=(False, True, True, False), transformer_depth=(2, 2, 2, 2), heads=(1, 2, 2, 3)
    ),
    "inpaint": dataclasses.replace(SD1, in_channels=9),
    "upscaler": dataclasses.replace(
        SD1,
        in_channels=7,
        attention_levels=(False, True, True, True),
        linear_projection=True,
        classes=50,
        context_only_levels=(True, True, True, False),
    ),
    "lcm": dataclasses.replace(SD1, guidance_width=6),
}


def inputs(config: UNetConfig, size: tuple[int, int] = (16, 8)) -> dict[str, Any]:
    """A batch of three that has every condition the config asks for, in float64."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(3, *shape, generator=generator, dtype=torch.float64)

    return {
        "x": normal(config.in_channels, *size),
        "noise_label": torch.tensor([0.0, 12.25, 999.0], dtype=torch.float64),
        "context": normal(5, config.context_width),
        "vector": None if config.vector_width is None else normal(config.vector_width),
        "label": None if config.classes is None else torch.tensor([3, 49, 0]),
        "guidance": None if config.guidance_width is None else normal(config.guidance_width),
    }


def network(config: UNetConfig, dtype: torch.dtype = torch.float64) -> UNet:
    net = UNet(config)
    randomise(net)
    return net.to(dtype).eval()


@pytest.mark.parametrize("name", LIKE)
@torch.no_grad()
def test_equals_diffusers(name: str) -> None:
    config = LIKE[name]
    theirs = diffusers_unet(config)
    ours = UNet(config).double().eval()
    ours.load_state_dict(rename(theirs.state_dict(), UNET, to_ours=True))
    given = inputs(config)
    added: dict[str, Any] = {}
    if config.vector_width is not None:
        sizes = torch.tensor([[512.0, 768.0, 0.0, 16.0, 1024.0, 1024.0]] * 3, dtype=torch.float64)
        text = given["vector"][:, :10]
        features = sinusoids(sizes.flatten(), 8).double().reshape(3, -1)  # (B*6) -> (B 6*8)
        given["vector"] = torch.cat([text, features], dim=1)
        added = {"text_embeds": text, "time_ids": sizes}
    wanted = theirs(
        given["x"],
        given["noise_label"],
        given["context"],
        class_labels=given["label"],
        timestep_cond=given["guidance"],
        added_cond_kwargs=added,
    ).sample
    assert relative_error(ours(**given), wanted) <= 1e-9
    channels_last = ours.to(memory_format=torch.channels_last)
    given["x"] = given["x"].contiguous(memory_format=torch.channels_last)
    assert relative_error(channels_last(**given), wanted) <= 1e-9
    with torch.enable_grad():  # where attention takes another way
        assert relative_error(channels_last(**given), wanted) <= 1e-9


@torch.no_grad()
def test_equals_diffusers_at_sizes_that_do_not_halve() -> None:
    theirs = diffusers_unet(SD1)
    ours = UNet(SD1).double()
    ours.load_state_dict(rename(theirs.state_dict(), UNET, to_ours=True))
    given = inputs(SD1, (13, 10))
    wanted = theirs(given["x"], given["noise_label"], given["context"]).sample
    assert relative_error(ours(**given), wanted) <= 1e-9


@pytest.mark.parametrize("name", LIKE)
def test_names_go_both_ways(name: str) -> None:
    with torch.device("meta"):
        weights = UNet(LIKE[name]).state_dict()
    theirs = rename(weights, UNET, to_ours=False)
    assert rename(theirs, UNET, to_ours=True).keys() == weights.keys()


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (sd1().unet, 859_520_964),
        (dataclasses.replace(sd1().unet, in_channels=9), 859_535_364),
        (sd2().unet, 865_910_724),
        (sdxl().unet, 2_567_463_684),
        (X4, 473_398_020),
    ],
    ids=["sd1", "sd1 inpainting", "sd2", "sdxl", "x4 upscaler"],
)
def test_parameter_counts(config: UNetConfig, parameters: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in UNet(config).parameters()) == parameters


@pytest.mark.parametrize("name", ["sdxl", "upscaler", "lcm"])
@torch.no_grad()
def test_rows_of_a_batch_know_nothing_of_each_other(name: str) -> None:
    net, given = network(LIKE[name]), inputs(LIKE[name])
    together = net(**given)
    for row in range(3):
        alone = net(**{key: None if value is None else value[row : row + 1] for key, value in given.items()})
        assert relative_error(alone, together[row : row + 1]) <= 1e-12


def test_gradients_are_the_same_in_either_memory_format() -> None:
    net, given = network(SD1), inputs(SD1)
    gradients = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        net.zero_grad()
        x = given["x"].to(memory_format=memory_format, copy=True).requires_grad_()
        net.to(memory_format=memory_format)(**{**given, "x": x}).square().mean().backward()
        gradients.append([x.grad, *(p.grad for p in net.parameters())])
    for found, wanted in zip(*gradients, strict=True):
        assert relative_error(found, wanted) <= 1e-9


def test_trains_in_bfloat16() -> None:
    net = network(SD1, torch.float32).to(memory_format=torch.channels_last)
    given = inputs(SD1)
    given["x"] = given["x"].float().contiguous(memory_format=torch.channels_last)
    given["context"] = given["context"].float()
    wanted = net(**given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = net(**given)
    assert found.dtype == torch.bfloat16
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert relative_error(found.float(), wanted) <= 0.1
    found.float().square().mean().backward()
    for parameter in net.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


@torch.no_grad()
def test_runs_with_bfloat16_weights() -> None:
    net, given = network(LIKE["sdxl"]), inputs(LIKE["sdxl"])
    wanted = net(**given)
    for key in ("x", "context", "vector"):
        given[key] = given[key].bfloat16()
    found = net.bfloat16()(**given)
    assert found.dtype == torch.bfloat16
    assert relative_error(found.double(), wanted) <= 0.1


def test_without_context() -> None:
    net = network(dataclasses.replace(SD1, context_width=0, transformer_depth=(1, 1, 1, 0)))
    given = inputs(SD1)
    assert net(given["x"], given["noise_label"]).shape == given["x"].shape
    assert net.middle.transformer is None


def test_fresh_weights() -> None:
    nets = [UNet(SD1) for _ in range(2)]
    for net in nets:
        net.initialise(torch.Generator().manual_seed(5))
    given = {key: None if value is None else value.float() for key, value in inputs(SD1).items()}
    assert nets[0](**given).abs().max() == 0
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("name", "missing"), [("sd1", "context"), ("sdxl", "vector"), ("upscaler", "label"), ("lcm", "guidance")]
)
def test_a_missing_condition_is_named(name: str, missing: str) -> None:
    net, given = network(LIKE[name]), inputs(LIKE[name])
    with pytest.raises(InputError, match=f"needs a {missing}"):
        net(**{**given, missing: None})


@pytest.mark.parametrize("extra", ["vector", "label", "guidance"])
def test_a_condition_without_a_place_is_named(extra: str) -> None:
    net, given = network(SD1), inputs(SD1)
    with pytest.raises(InputError, match=f"takes no {extra}"):
        net(**{**given, extra: torch.zeros(3, 1)})


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"heads": (2, 2)}, "heads"),
        ({"transformer_depth": (1,) * 5}, "transformer_depth"),
        ({"context_only_levels": (True,)}, "context_only_levels"),
        ({"norm_groups": 5}, "norm_groups=5"),
        ({"heads": (3, 2, 2, 2)}, "heads=3"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError, match=field):
        dataclasses.replace(SD1, **change)


def test_sinusoids() -> None:
    found = sinusoids(torch.tensor([0.0, 2.0]), 4)
    wanted = torch.tensor(
        [[1.0, 1.0, 0.0, 0.0], [-0.4161468, 0.9998000, 0.9092974, 0.0199987]]
    )  # cos 2, cos 0.02, sin 2, sin 0.02
    torch.testing.assert_close(found, wanted)


OUTLINED = dataclasses.replace(
    SD1,
    block_channels=(8, 16),
    attention_levels=(True, True),
    transformer_depth=(1, 1),
    heads=(2, 2),
    outline_cells=2,
    outline_side=4,
)


def test_the_outline_is_a_table_of_cells_in_reading_order() -> None:
    net = network(OUTLINED)
    context = torch.randn(3, 7, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert net.outline is not None
    with torch.no_grad():
        outline = net.foretold(context)
        assert outline.shape == (3, 4, 8, 8)
        for number, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
            cell = outline[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            said = net.outline(context[:, 3 + number])
            assert torch.allclose(cell.flatten(1), said, rtol=1e-12)


def test_the_outline_lies_beside_the_input() -> None:
    net = network(OUTLINED)
    plain = UNet(dataclasses.replace(OUTLINED, in_channels=8, outline_cells=0)).double()
    weights = {name: value for name, value in net.state_dict().items() if not name.startswith("outline.")}
    plain.load_state_dict(weights)
    given = inputs(OUTLINED, (8, 8))
    with torch.no_grad():
        beside = torch.cat([given["x"], net.foretold(given["context"])], dim=1)
        assert torch.allclose(net(**given), plain(**given | {"x": beside}), rtol=1e-12)
        # at another size it is the same outline, stretched
        wide = net.foretold(given["context"], (16, 8))
        assert wide.shape == (3, 4, 16, 8)
        assert torch.allclose(wide[:, :, 0], net.foretold(given["context"])[:, :, 0])


def test_an_outline_needs_text_to_foretell_it() -> None:
    with pytest.raises(InputError, match="outline_cells"):
        dataclasses.replace(OUTLINED, context_width=0)
