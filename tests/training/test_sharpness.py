"""What makes an autoencoder's pictures sharp: a distance to a network's eyes, a judge of patches."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from calotype.errors import InputError
from calotype.models.latent_diffusion import build
from calotype.models.presets import tiny
from calotype.networks.discriminator import PatchDiscriminator
from calotype.training import perceptual
from calotype.training.autoencoding import AutoencoderObjective
from calotype.training.config import AutoencoderTraining, override
from calotype.training.fit import Plan, Run
from calotype.training.recipes import tiny_autoencoder
from calotype.training.sessions import prepare_autoencoder, read_data

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard.*")


def objective(*settings: str) -> AutoencoderObjective:
    config = override(tiny_autoencoder(), ["precision=float32", *settings])
    model = build(tiny().of_classes(("thing",)), None, seed=3)
    pictures = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=torch.manual_seed(0))
    return AutoencoderObjective(config, model, pictures, pictures[:2])


def gradients(trained: AutoencoderObjective, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    trained.zero_grad()
    trained(**batch)["loss"].backward()
    return {name: value.grad.clone() for name, value in trained.named_parameters() if value.grad is not None}


def test_a_judge_sees_patches_of_46_pixels() -> None:
    judge = PatchDiscriminator()
    picture = torch.randn(1, 3, 128, 128, requires_grad=True)
    for module in judge.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.forward = lambda x: x  # type: ignore[method-assign]  # which sees the whole picture
    said = judge(picture)
    said[0, 0, said.shape[2] // 2, said.shape[3] // 2].backward()
    assert picture.grad is not None
    seen = picture.grad[0].abs().sum(0).nonzero()
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [46, 46]


def test_judge_and_autoencoder_do_not_move_each_other_s_weights_by_their_own_losses() -> None:
    torch.manual_seed(1)
    judged, plain = objective("adversarial_weight=0.3", "adversarial_from=2"), objective()
    rows = torch.arange(4)
    before, after = judged.batch(rows, 1, slice(None)), judged.batch(rows, 2, slice(None))
    assert before["adversarial"].tolist() == [0.0] * 4
    assert after["adversarial"].tolist() == pytest.approx([0.3] * 4)
    found, own = gradients(judged, before), gradients(plain, plain.batch(rows, 1, slice(None)))
    for name, value in own.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-4)
    judge = judged.discriminator
    assert judge is not None
    again = judged.autoencoder.decode(judged.autoencoder.encode(before["images"]).sample(before["noise"]))
    judge.zero_grad()
    real, made = judge(before["images"]), judge(again.detach())
    (0.5 * (F.relu(1 - real).mean() + F.relu(1 + made).mean())).backward()
    for name, value in judge.named_parameters():
        torch.testing.assert_close(found[f"discriminator.{name}"], value.grad, atol=1e-6, rtol=1e-4)
    # doubt moves the autoencoder, with the weight it was given
    with torch.no_grad():
        loss, shown = judged(**after), judged(**(after | {"adversarial": torch.zeros(4)}))
    assert float(loss["loss"] - shown["loss"]) == pytest.approx(0.3 * float(loss["doubt"]), abs=1e-5)
    moved, still = gradients(judged, after), gradients(judged, before | {"noise": after["noise"]})
    decoder = "autoencoder.decoder.leave.weight"
    assert not torch.allclose(moved[decoder], still[decoder])


def test_the_eyes_are_the_network_s_own_maps() -> None:
    eye = perceptual.EffNetDistance()
    pictures = torch.rand(2, 3, 64, 64, generator=torch.manual_seed(0)) * 2 - 1
    maps = eye.maps(pictures)
    assert [tuple(one.shape[2:]) for one in maps] == [(side, side) for side in (32, 16, 8, 4, 2)]
    network: Any = perceptual.effnet_lite0("This test")
    found = network.extract_features(((pictures + 1) * 127.5 - 127) / 128)
    again = network._swish(network._bn1(network._conv_head(maps[-1])))
    torch.testing.assert_close(again, found)
    assert not any(value.requires_grad for value in eye.parameters())


def test_the_distance_grows_with_blur_and_is_nothing_for_pictures_alike() -> None:
    eye = perceptual.EffNetDistance()
    clear = torch.rand(2, 3, 32, 32, generator=torch.manual_seed(0)) * 2 - 1
    blurred = [clear, *(F.avg_pool2d(clear, size, 1, size // 2) for size in (3, 5))]
    distances = torch.stack([eye(one, clear) for one in blurred])  # (3 B)
    assert distances.shape == (3, 2)
    assert distances[0].tolist() == [0, 0]
    assert (distances[2] > distances[1]).all()
    assert (distances[1] > 0.01).all()
    torch.testing.assert_close(eye(clear, blurred[1]), distances[1])
    # LPIPS's equation on the finest maps alone, written out
    a, b = eye.maps(clear)[0], eye.maps(blurred[1])[0]
    unit = [F.normalize(maps, dim=1) for maps in (a, b)]
    by_hand = ((unit[0] - unit[1]) ** 2).sum(1).mean((1, 2))
    eye.maps = lambda pictures: [a if pictures is clear else b]  # type: ignore[method-assign]
    torch.testing.assert_close(eye(clear, blurred[1]), by_hand, atol=1e-5, rtol=1e-4)


@pytest.mark.verify
def test_a_run_with_both_is_exact_and_leaves_the_autoencoder_alone(shapes: Path, tmp_path: Path) -> None:
    data = read_data(shapes, 32, strict=True, watch=lambda *_: None)
    settings = ["adversarial_weight=0.1", "adversarial_from=3", "perceptual_weight=0.2", "evaluate_every=8"]

    def prepare(place: str, resume: bool = False) -> Run:
        config = override(tiny_autoencoder(), ["precision=float32", "steps=8", *settings])
        return prepare_autoencoder(config, tiny(), data, Plan(tmp_path / place, resume, device="cpu"))

    whole, broken = prepare("whole"), prepare("broken")
    for _ in whole.steps():
        pass
    whole.finish({})
    for progress in (steps := broken.steps()):
        if progress.report.step == 6:  # the checkpoint is of step 5
            steps.close()
    broken = prepare("broken", resume=True)
    for _ in broken.steps():
        pass
    broken.finish({})
    ends = [
        safetensors.torch.load_file(tmp_path / place / "model.safetensors") for place in ("whole", "broken")
    ]
    assert [name for name in ends[0] if not torch.equal(ends[0][name], ends[1][name])] == []
    assert {name.partition(".")[0] for name in ends[0]} == {"autoencoder"}
    metrics = (tmp_path / "whole" / "metrics.jsonl").read_text()
    for name in ('"doubt"', '"discriminator"', '"perceptual"', '"validation_perceptual"'):
        assert name in metrics
    assert '"validation_doubt"' not in metrics


def test_lpips_is_asked_for_by_name_and_fetches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(InputError, match=r"package lpips, which is not installed.*perceptual=effnet"):
        objective("perceptual_weight=1", "perceptual=lpips")
    package: Any = types.ModuleType("lpips")
    package.LPIPS = lambda **_: _Stand()
    monkeypatch.setitem(sys.modules, "lpips", package)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(InputError, match=r"VGG-16's weights at .*vgg16-397923af\.pth"):
        objective("perceptual_weight=1", "perceptual=lpips")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / perceptual.VGG).touch()
    found = perceptual.distance("lpips")(torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 8, 8))
    assert found.tolist() == [1, 1]


class _Stand(torch.nn.Module):
    """What `lpips.LPIPS` gives: (B 1 1 1) of pictures (B 3 H W) in [-1, 1]."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).square().mean((1, 2, 3), keepdim=True)


@pytest.mark.parametrize("name", ["perceptual_weight", "adversarial_weight", "adversarial_from"])
def test_no_weight_is_below_nothing(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} is -1"):
        override(AutoencoderTraining(), [f"{name}=-1"])
