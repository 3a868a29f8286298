"""Weights that stay in their file until they are used, or for good: the same pictures to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.checkpoints.families import written_by_diffusers
from tests.tasks.test_additions import write

from calotype.checkpoints import diffusers_writer, memory, shelf, single_file
from calotype.checkpoints.loading import staying
from calotype.models.config import ModelConfig
from calotype.models.latent_diffusion import LatentDiffusion, unfilled
from calotype.models.offload import Offload
from calotype.models.presets import sd1, sdxl
from calotype.networks import processor
from calotype.networks.narrow import Widen, narrow_layers
from calotype.networks.unet import UNet
from calotype.tasks.studio import Studio

ASKED = {"seed": 3, "steps": 2, "width": 24, "height": 16}


@pytest.fixture(scope="module")
def halves(tiny_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny models of 16 bits, by their format."""
    place = tmp_path_factory.mktemp("halves")
    whole = shelf.load(written_by_diffusers("sd1", place / "sd1").folder)
    single_file.write(place / "sd1.safetensors", whole, torch.float16, {})
    diffusers_writer.write(place / "half", whole, torch.bfloat16, {})
    return {"native": tiny_file, "single-file": place / "sd1.safetensors", "folder": place / "half"}


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny models are loaded as large ones are."""
    monkeypatch.setattr(memory, "LEAST_STAYING", 0)


def drawn(model: LatentDiffusion, **asked: object) -> tuple[bytes, torch.Tensor]:
    (picture,) = Studio(model, "m").pictures("a red apple", **{**ASKED, **asked})
    return picture.image.tobytes(), picture.latents


def assert_same(a: tuple[bytes, torch.Tensor], b: tuple[bytes, torch.Tensor]) -> None:
    assert a[0] == b[0]
    assert torch.equal(a[1], b[1])


def sizes(model: LatentDiffusion) -> dict[bool, set[int]]:
    """Bytes of a number: of the weights that may be narrow, and of all others."""
    found: dict[bool, set[int]] = {True: set(), False: set()}
    for part in model.parts().values():
        narrow = {f"{path}.weight" for path in narrow_layers(part)}
        for name, value in part.named_parameters():
            found[name in narrow].add(value.itemsize)
    return found


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize(
    ("kind", "widen"),
    [
        ("native", "once"),
        ("single-file", "always"),
        *(
            pytest.param(*case, marks=pytest.mark.verify)
            for case in (
                ("native", "always"),
                ("single-file", "once"),
                ("folder", "once"),
                ("folder", "always"),
            )
        ),
    ],
)
def test_pictures_are_those_of_converted_weights(halves: dict[str, Path], kind: str, widen: Widen) -> None:
    plain, spared = shelf.load(halves[kind]), shelf.load(halves[kind], widen=widen)
    assert spared.dtype == plain.dtype == torch.float32
    assert spared.weights_hash == plain.weights_hash
    assert sizes(plain) == {True: {4}, False: {4}}
    assert sizes(spared) == {True: {2}, False: {4}}
    expected = drawn(plain)
    assert_same(drawn(spared), expected)
    assert_same(drawn(spared), expected)
    assert spared.dtype == torch.float32
    # what works once for a picture has kept nothing
    assert sizes(spared)[True] == ({2} if widen == "always" else {2, 4})
    one = Offload("cpu", torch.float32)
    assert_same(drawn(shelf.load(halves[kind], widen=widen, offload=one)), expected)


@pytest.mark.usefixtures("large")
def test_what_was_widened_lies_as_kernels_like_it(halves: dict[str, Path]) -> None:
    plain, spared = (shelf.load(halves["single-file"], widen=widen) for widen in ("now", "once"))
    drawn(spared)
    for (name, one), (_, other) in zip(
        plain.denoiser.named_parameters(), spared.denoiser.named_parameters(), strict=True
    ):
        assert torch.equal(one, other), name
        assert one.stride() == other.stride(), name


def test_small_networks_and_other_numbers_are_converted(halves: dict[str, Path]) -> None:
    for dtype in (torch.float32, torch.float64):
        model = shelf.load(halves["single-file"], dtype=dtype, widen="always")
        assert sizes(model) == {True: {dtype.itemsize}, False: {dtype.itemsize}}


@pytest.mark.usefixtures("large")
def test_other_precisions_are_converted_however_large(halves: dict[str, Path]) -> None:
    for dtype in (torch.float16, torch.float64):
        model = shelf.load(halves["folder"], dtype=dtype, widen="always")
        types = {value.dtype for part in model.parts().values() for value in part.parameters()}
        assert types == {dtype}


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize(
    ("widen", "live", "units"),
    [
        ("once", False, False),
        ("once", True, False),
        ("once", False, True),
        *(
            pytest.param(*case, marks=pytest.mark.verify)
            for case in (
                ("always", False, False),
                ("always", True, False),
                ("once", True, True),
                ("always", False, True),
                ("always", True, True),
            )
        ),
    ],
)
def test_fp16_in_a_network_that_computes_in_bf16(
    halves: dict[str, Path],
    widen: Widen,
    live: bool,
    units: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It becomes bf16 in the layers too; where those multiply in float32, it is what they multiply."""
    monkeypatch.setattr(processor, "multiplies_bf16", lambda: units)
    bf16 = torch.bfloat16
    plain = shelf.load(halves["native"], dtype=bf16)
    spared = shelf.load(halves["native"], dtype=bf16, widen=widen)
    assert spared.dtype == plain.dtype == bf16
    if not units:
        exact = shelf.load(halves["native"], dtype=torch.float32)
        for part, module in plain.parts().items():
            others = narrow_layers(exact.parts()[part])
            for path, layer in narrow_layers(module).items():
                layer.weight.data = others[path].weight.data

    def types() -> set[torch.dtype]:
        layers = (narrow_layers(part).values() for part in spared.parts().values())
        return {layer.weight.dtype for some in layers for layer in some}

    uses = [f"{write(tmp_path / 'a.safetensors', plain, 1)}:0.5"]
    changed = drawn(plain, loras=uses, lora_live=live)
    assert types() == {torch.float16}
    assert_same(drawn(spared, loras=uses, lora_live=live), changed)
    assert_same(drawn(spared), drawn(plain))
    assert types() == ({torch.float16, bf16} if units and widen == "once" else {torch.float16})
    # a LoRA is added to the same weights as before
    assert_same(drawn(spared, loras=uses, lora_live=live), changed)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("widen", ["once", pytest.param("always", marks=pytest.mark.verify)])
def test_loras(halves: dict[str, Path], tmp_path: Path, widen: Widen) -> None:
    plain, spared = shelf.load(halves["native"]), shelf.load(halves["native"], widen=widen)
    before = {name: value.clone() for name, value in plain.denoiser.state_dict().items()}
    uses = [f"{write(tmp_path / 'a.safetensors', plain, 1)}:0.5"]
    assert_same(drawn(spared, loras=uses), drawn(plain, loras=uses))
    live = drawn(spared, loras=uses, lora_live=True)
    torch.testing.assert_close(live[1], drawn(plain, loras=uses)[1], rtol=1e-4, atol=1e-4)
    for name, value in spared.denoiser.state_dict().items():
        assert torch.equal(value.float(), before[name])


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("kind", ["native", pytest.param("folder", marks=pytest.mark.verify)])
def test_memory_decides(halves: dict[str, Path], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = shelf.recognise(halves[kind])
    parts = memory.held(found.stored).values()
    for offload, weights in ((None, sum(parts)), (Offload("cpu", torch.float32), max(parts))):
        peak = memory.estimate(found.config, weights).peak
        for room, expected in ((peak, {2, 4}), (peak - 1, {2})):
            monkeypatch.setattr(memory, "free", lambda _, room=room: room)
            model = found.load(widen=None, offload=offload)
            drawn(model)
            if offload is None:
                assert sizes(model)[True] == expected
            else:
                layers = narrow_layers(model.denoiser).values()
                assert {layer.keeps for layer in layers} == {expected != {2}}


@pytest.mark.parametrize("config", [sd1(), sdxl()], ids=lambda config: config.name)
def test_the_memory_foretold_is_the_memory_taken(config: ModelConfig) -> None:
    from calotype.checkpoints.found import wanted
    from calotype.checkpoints.number_type import TYPES
    from calotype.checkpoints.tensor_info import TensorInfo

    half = TYPES["float16"]
    told = {name: TensorInfo(shape, half) for name, shape in wanted(config)["denoiser"].items()}
    with unfilled():
        network = UNet(config.unet)
    stay = staying(network, torch.device("cpu"), torch.float32)
    taken = sum((2 if name in stay else 4) * value.numel() for name, value in network.state_dict().items())
    assert memory.narrow({"denoiser": told})["denoiser"] == pytest.approx(taken, rel=0.01)
    assert taken < 0.6 * 4 * sum(value.numel() for value in network.state_dict().values())
