from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

import calotype
from calotype.errors import DataError, InputError, OutputError
from calotype.evaluation.reconstruction import psnr, reconstruction
from calotype.networks.autoencoder import Autoencoder
from calotype.networks.config import AutoencoderConfig


def test_psnr_of_a_known_error() -> None:
    # an error of 1/255 of the range everywhere: 20 log10(255)
    assert float(psnr(torch.tensor((2 / 255) ** 2))) == pytest.approx(20 * math.log10(255))


class Dimmed(Autoencoder):
    """Gives pictures back darker by a known amount."""

    def __init__(self, by: float) -> None:
        super().__init__(AutoencoderConfig(block_channels=(4,), norm_groups=1, latent_channels=3, scale=1.0))
        self.by = by

    def encode(self, images: torch.Tensor):  # type: ignore[no-untyped-def]
        from calotype.networks.autoencoder import LatentDistribution

        return LatentDistribution(images, torch.zeros_like(images))

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents - self.by


def test_reconstruction_measures_the_error_it_is_given() -> None:
    pictures = torch.full((3, 3, 8, 8), 200, dtype=torch.uint8)
    found = reconstruction(Dimmed(10 / 127.5), pictures)  # ten grey levels
    assert found["psnr"] == pytest.approx(20 * math.log10(255 / 10), abs=1e-3)
    assert found["psnr_pooled"] == pytest.approx(found["psnr"], abs=1e-3)
    mixed = torch.cat(
        [pictures, torch.full((1, 3, 8, 8), 3, dtype=torch.uint8)]
    )  # clipped at black: 3 levels
    found = reconstruction(Dimmed(10 / 127.5), mixed)
    each = [20 * math.log10(255 / 10)] * 3 + [20 * math.log10(255 / 3)]
    assert found["psnr"] == pytest.approx(sum(each) / 4, abs=1e-3)
    assert found["psnr_pooled"] < found["psnr"]


def test_ssim_of_a_known_shift() -> None:
    assert "ssim" not in reconstruction(Dimmed(0.1), torch.full((1, 3, 8, 8), 200, dtype=torch.uint8))
    found = reconstruction(Dimmed(20 / 127.5), torch.full((2, 3, 16, 16), 200, dtype=torch.uint8))
    a, b, c = 200 / 255, 180 / 255, 0.01**2  # flat pictures: only the term of the means is left
    assert found["ssim"] == pytest.approx((2 * a * b + c) / (a * a + b * b + c), abs=1e-5)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(5):
        Image.new("RGB", (32, 32), (40 * number, 200, 90)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a square, number {number}", encoding="utf-8")
    return folder


def test_evaluate_writes_figures_with_their_protocol(tiny_file: Path, pictures: Path, tmp_path: Path) -> None:
    found = calotype.evaluate(tiny_file, pictures, split="train", count=4, out=tmp_path / "figures.json")
    assert json.loads((tmp_path / "figures.json").read_text()) == found
    assert found["protocol"]["pictures"] == 4
    assert len(found["protocol"]["weights_sha256"]) == 64
    assert math.isfinite(found["reconstruction"]["psnr"])
    assert found["denoising"]["loss"] > 0
    assert found == calotype.evaluate(tiny_file, pictures, split="train", count=4)


def test_evaluate_refuses_what_it_cannot_do(tiny_file: Path, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="kind 'emoji'; this split has none at all"):
        calotype.evaluate(tiny_file, pictures, split="train", kinds=["emoji"])
    with pytest.raises(InputError, match="at least 1"):
        calotype.evaluate(tiny_file, pictures, split="train", count=0)
    with pytest.raises(DataError, match="no split named test"):
        calotype.evaluate(tiny_file, pictures)
    with pytest.raises(OutputError, match="cannot be written"):
        calotype.evaluate(tiny_file, pictures, split="train", count=1, out=tmp_path / "absent" / "x.json")
