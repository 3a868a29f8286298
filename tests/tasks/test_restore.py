"""Restoration with a denoiser that is known exactly, and with a network for what hangs on sizes and files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from calotype.checkpoints import native
from calotype.cli import main as cli
from calotype.diffusion.grids import exponential
from calotype.errors import InputError
from calotype.models.pixel_diffusion import PixelDiffusion, build_pixel, tiny_photo
from calotype.networks import processor
from calotype.tasks.noise_level import (
    CameraNoise,
    estimate_camera,
    estimate_sigma,
    stabilise,
    unstabilise,
)
from calotype.tasks.operators import Blur, gaussian_blur
from calotype.tasks.photo_file import Photo
from calotype.tasks.posterior import settled, turning
from calotype.tasks.restore import SETTLING, Options, deblur, denoise, inpaint, restore, upscale
from calotype.tasks.uncertainty import half_width, heat_map


@pytest.fixture(scope="module")
def gaussian() -> PixelDiffusion:
    """Untrained, the network is silent: what remains is the exact denoiser of N(0, 0.5^2) in [-1, 1]."""
    return build_pixel(tiny_photo())


@pytest.fixture(scope="module")
def network() -> PixelDiffusion:
    model = build_pixel(tiny_photo())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.denoiser.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 16
            parameter += 0.3 * fan_in**-0.5 * torch.randn(parameter.shape, generator=generator)
    return model


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def scene(height: int, width: int) -> np.ndarray:
    """Smooth colours with a few edges (3 H W)."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    planes = [0.5 + 0.3 * np.sin(5 * x + 3 * y), 0.3 + 0.5 * (x > 0.5), 0.2 + 0.6 * x * y]
    return np.stack(planes).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 3])
def test_denoising_and_its_deviation_are_the_gaussians(gaussian: PixelDiffusion, channels: int) -> None:
    """Colour: mean 0.25/(0.25+s^2) x, deviation 0.5 s / sqrt(0.25+s^2), both in [-1, 1]."""
    photo = Photo((0.5 + 0.1 * noise(channels, 24, 24)).clip(0, 1))
    sigma = 40 / 127.5
    mean = denoise(gaussian, photo, sigma=40).photo
    grey = channels == 1
    seen = sigma * 3**0.5 if grey else sigma
    shrink = 0.25 / (0.25 + seen**2)
    np.testing.assert_allclose(mean.pixels * 2 - 1, shrink * (photo.pixels * 2 - 1), atol=1e-5)
    drawn = denoise(gaussian, photo, sigma=40, options=Options(samples=24, steps=20))
    assert drawn.deviation is not None
    assert len(drawn.samples) == 24
    expected = 0.5 * seen / (0.25 + seen**2) ** 0.5 / 2 / (3**0.5 if grey else 1)
    assert float(np.sqrt((drawn.deviation**2).mean())) == pytest.approx(expected, rel=0.08)


def test_an_ensemble_is_the_mean_of_eight_turns(network: PixelDiffusion) -> None:
    """So it is the same for a picture turned, which one pass is not."""
    photo = Photo(scene(22, 30))
    told: list[tuple[int, int]] = []

    def run(picture: Photo, ensemble: bool) -> np.ndarray:
        options = Options(ensemble=ensemble)
        watch = lambda done, total: told.append((done, total))  # noqa: E731
        return denoise(network, picture, sigma=30, options=options, watch=watch).photo.pixels

    turned = Photo(np.rot90(photo.pixels, 1, (1, 2))[:, :, ::-1].copy())
    mean, of_turned = run(photo, True), run(turned, True)
    assert told[:8] == [(done, 8) for done in range(1, 9)]
    back = np.rot90(of_turned[:, :, ::-1], -1, (1, 2))
    np.testing.assert_allclose(back, mean, atol=2e-6)
    single = run(photo, False)
    assert np.abs(np.rot90(run(turned, False)[:, :, ::-1], -1, (1, 2)) - single).max() > 1e-3
    assert np.abs(mean - single).max() > 1e-3


@pytest.mark.parametrize("channels", [1, 3])
def test_alike_patches_help_each_other(gaussian: PixelDiffusion, channels: int) -> None:
    """A denoiser that knows nothing but the spread of values, on a picture that repeats itself."""
    across = 2 * np.pi * np.arange(48)
    weave = 0.5 + 0.3 * np.sign(np.sin(across / 6 + 0.3)) * np.cos(across / 8)[:, None]  # (H W)
    clean = weave[None].repeat(channels, 0).astype(np.float32)  # (H W) -> (C H W)
    photo = Photo(clean + 40 / 255 * noise(channels, 48, 48))
    told: list[tuple[int, int]] = []

    def error(alike: bool) -> float:
        options = Options(alike=alike)
        watch = lambda done, total: told.append((done, total))  # noqa: E731
        found = denoise(gaussian, photo, sigma=40, options=options, watch=watch).photo.pixels
        return float(np.square(found - clean).mean())

    assert error(alike=True) < 0.7 * error(alike=False)
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4), (1, 1)]


def test_seeds_are_samples(network: PixelDiffusion) -> None:
    photo = Photo(scene(20, 28))
    several = denoise(network, photo, sigma=30, options=Options(samples=3, seed=5, steps=3))
    single = denoise(network, photo, sigma=30, options=Options(samples=1, seed=6, steps=3))
    np.testing.assert_array_equal(several.samples[1].pixels, single.photo.pixels)
    assert np.abs(several.samples[0].pixels - single.photo.pixels).max() > 0.01


def test_tiles_agree_with_the_whole(network: PixelDiffusion) -> None:
    photo = Photo(scene(70, 90))
    for samples in (0, 1):
        found = [
            denoise(network, photo, sigma=25, options=Options(samples, steps=2, tile=tile, overlap=24))
            for tile in (512, 64)
        ]
        assert np.abs(found[0].photo.pixels - found[1].photo.pixels).max() < 1 / 255


@pytest.mark.parametrize("samples", [0, 1])
def test_measurements_are_kept(network: PixelDiffusion, samples: int) -> None:
    options = Options(samples=samples, steps=4)
    # away from black and white, where a picture must be cut off
    small = Photo(0.3 + 0.4 * scene(8, 12))
    flat = build_pixel(dataclasses.replace(tiny_photo(), sigma_data=0.05))
    large = upscale(flat, small, 3, options=options).photo
    assert large.size == (24, 36)
    planes = [Image.fromarray(p).resize((12, 8), Image.Resampling.BICUBIC) for p in large.pixels]
    error = np.stack([np.asarray(p) for p in planes]) - small.pixels
    assert np.sqrt((error**2).mean()) < 1 / 255
    missing = noise(8, 12) > 0
    filled = inpaint(network, small, missing, options=options).photo
    np.testing.assert_array_equal(filled.pixels[:, ~missing], small.pixels[:, ~missing])
    assert np.abs(filled.pixels - small.pixels)[:, missing].max() > 0


def test_an_estimate_settles_and_a_sample_spreads(gaussian: PixelDiffusion) -> None:
    """The mean of N(0, 0.5^2) given x, over and over; it draws nothing, a sample spreads as the data do."""
    grid = exponential(30, *SETTLING)
    left = float((0.25 / (0.25 + grid[:-1] ** 2)).prod())
    settling = settled(gaussian.denoiser, torch.ones(1, 3, 8, 8), grid)
    torch.testing.assert_close(settling, torch.full_like(settling, left), rtol=1e-3, atol=1e-6)
    photo, missing = Photo(scene(12, 16)), noise(12, 16) > 0
    for samples, spread in ((0, 0.0), (1, 0.25)):
        two = [
            inpaint(gaussian, photo, missing, options=Options(samples=samples, seed=seed)).photo.pixels
            for seed in (1, 2)
        ]
        apart = (two[0] - two[1])[:, missing].std() / 2**0.5
        assert apart == pytest.approx(spread, abs=0.03)


def test_each_call_sees_another_side() -> None:
    """A denoiser that only looks to its left becomes, over eight calls, one that looks all around."""
    x = torch.from_numpy(noise(1, 2, 6, 9)).contiguous()
    sigma = torch.ones(1)
    left = turning(lambda x, _: torch.roll(x, 1, 3))
    around = sum((torch.roll(x, step, side) for step in (-1, 1) for side in (2, 3)), torch.zeros_like(x)) / 4
    mean = torch.stack([left(x, sigma) for _ in range(8)]).mean(0)
    torch.testing.assert_close(mean, around)


def test_a_blur_is_undone_where_nothing_else_was_done(gaussian: PixelDiffusion) -> None:
    sharp = torch.from_numpy(scene(24, 24))[None]
    blurred = gaussian_blur(24, 24, 0.6).forward(sharp)[0].numpy()
    options = Options(samples=1, steps=6)
    again = deblur(gaussian, Photo(blurred, bits=16), blur=0.6, sigma=0.05, options=options).photo.pixels
    before, after = (np.abs(p - sharp[0].numpy()).max() for p in (blurred, again))
    assert after < 0.3 * before
    kernel = np.array([[0, 0.1, 0], [0.1, 0.6, 0.1], [0, 0.1, 0]], np.float32)
    blurred = Blur(torch.from_numpy(kernel)).forward(sharp)[0].numpy()
    again = deblur(gaussian, Photo(blurred, bits=16), kernel=kernel, sigma=0.05, options=options).photo.pixels
    assert np.abs(again - sharp[0].numpy()).max() < 0.3 * np.abs(blurred - sharp[0].numpy()).max()


def test_an_operator_of_ones_own(gaussian: PixelDiffusion) -> None:
    class Mirror:
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flip(3)

        def adjoint(self, y: torch.Tensor) -> torch.Tensor:
            return y.flip(3)

    photo = Photo(scene(8, 12))
    found = restore(gaussian, photo, Mirror(), (8, 12), options=Options(samples=1, steps=3)).photo
    assert np.abs(found.pixels[:, :, ::-1] - photo.pixels).max() < 2 / 255


@pytest.mark.parametrize("sigma", [5, 15, 25, 50])
def test_white_noise_is_estimated(sigma: float) -> None:
    noisy = scene(160, 160) + sigma / 255 * noise(3, 160, 160)
    assert 255 * estimate_sigma(noisy) == pytest.approx(sigma, rel=0.06)


def test_a_cameras_noise_is_estimated_and_made_even() -> None:
    clean = scene(256, 256)
    random = np.random.default_rng(0)
    gain, read = 0.01, 0.01
    noisy = (gain * random.poisson(clean / gain) + read * noise(3, 256, 256)).astype(np.float32)
    found = estimate_camera(noisy)
    assert found.gain == pytest.approx(gain, rel=0.15)
    known = CameraNoise(gain, read)
    stable = stabilise(noisy, known)
    for low, high in ((0.1, 0.3), (0.3, 0.6), (0.6, 0.9)):
        part = (clean > low) & (clean < high)
        rest = stable - stabilise(clean, known)
        assert rest[part].std() == pytest.approx(1, abs=0.06)


def test_the_inverse_is_unbiased() -> None:
    """E[z] comes back from E[f(z)], where the plain inverse would come out too low."""
    random = np.random.default_rng(0)
    for level in (0.05, 0.2, 0.8):
        known = CameraNoise(0.02, 0.02)
        z = 0.02 * random.poisson(level / 0.02, 400_000) + 0.02 * random.standard_normal(400_000)
        found = float(unstabilise(np.array(stabilise(z, known).mean()), known))
        assert found == pytest.approx(level, abs=0.003)


def test_a_cameras_noise_is_taken_out(gaussian: PixelDiffusion) -> None:
    photo = Photo(scene(64, 64))
    for camera in (CameraNoise(0.02, 0.01), CameraNoise(0.0, 0.05), CameraNoise(0.02, 0.0)):
        found = denoise(gaussian, photo, camera=camera).photo.pixels
        assert np.isfinite(found).all()
        assert np.abs(found - photo.pixels).max() < 0.12


def test_odd_requests_get_one_sentence(gaussian: PixelDiffusion) -> None:
    photo = Photo(scene(32, 48))
    for sigma in (-3.0, 0.0, 1e9, float("nan")):
        with pytest.raises(InputError, match="above 0"):
            denoise(gaussian, photo, sigma=sigma)
    for mask, message in (
        (np.zeros((32, 48), bool), "black everywhere"),
        (np.ones((32, 48), bool), "white everywhere"),
        (np.ones((48, 32), bool), "32x48 pixels and the picture 48x32"),
    ):
        with pytest.raises(InputError, match=message):
            inpaint(gaussian, photo, mask)
    with pytest.raises(InputError, match="2, 3 or 4"):
        upscale(gaussian, photo, 5)
    for wrong in ({}, {"blur": 1.0, "kernel": np.ones((3, 3), np.float32)}, {"blur": -1.0}):
        with pytest.raises(InputError, match="blur"):
            deblur(gaussian, photo, **wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="odd sides"):
        deblur(gaussian, photo, kernel=np.ones((2, 3), np.float32))
    with pytest.raises(InputError, match="steps is 0"):
        Options(steps=0)
    with pytest.raises(InputError, match="jacobian guides samples"):
        Options(jacobian=True)
    with pytest.raises(InputError, match="ensemble is for the estimate, and 2 samples"):
        Options(samples=2, ensemble=True)
    with pytest.raises(InputError, match="alike is for the estimate, and 1 samples"):
        Options(samples=1, alike=True)
    with pytest.raises(InputError, match="gain"):
        denoise(gaussian, photo, camera=CameraNoise(-1, 0))


def test_a_single_pixel(gaussian: PixelDiffusion) -> None:
    dot = Photo(np.full((3, 1, 1), 0.5, np.float32))
    assert denoise(gaussian, dot, sigma=20).photo.size == (1, 1)
    assert upscale(gaussian, dot, 4, options=Options(samples=1, steps=2)).photo.size == (4, 4)
    with pytest.raises(InputError, match="too small"):
        denoise(gaussian, dot)


def test_intervals_and_maps() -> None:
    deviation = np.full((3, 4, 5), 0.1, np.float32)
    np.testing.assert_allclose(half_width(deviation, 4, 2.0), 2 * 1.645 * 1.25**0.5 * 0.1, rtol=1e-6)
    colours = heat_map(np.linspace(0, 1, 12, dtype=np.float32).reshape(1, 3, 4), 1.0)
    brightness = colours.astype(int).sum(2).ravel()
    assert (np.diff(brightness) > 0).all()


def test_the_commands(
    gaussian: PixelDiffusion,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tmp_path / "m.safetensors"
    native.save_pixel(model, gaussian)
    picture, mask, out = tmp_path / "in.png", tmp_path / "mask.png", tmp_path / "out.png"
    Image.fromarray(np.rint(255 * scene(32, 40)).astype(np.uint8).transpose(1, 2, 0)).save(picture)
    Image.fromarray(((noise(32, 40) > 0) * 255).astype(np.uint8)).save(mask)
    common = ["-o", str(out), "--model", str(model), "--steps", "2"]
    assert cli.run(["denoise", str(picture), *common, "--samples", "2", "--sigma", "20"]) == 0
    made = {"out-sample-0.png", "out-sample-1.png", "out-uncertainty.npy", "out-uncertainty.png", "out.png"}
    assert {path.name for path in tmp_path.glob("out*")} == made
    assert np.load(tmp_path / "out-uncertainty.npy").shape == (3, 32, 40)
    capsys.readouterr()
    assert cli.run(["denoise", str(picture), *common]) == 0
    assert "estimated noise" in capsys.readouterr().out
    monkeypatch.setattr(processor, "UNITS", frozenset())
    assert cli.run(["denoise", str(picture), *common, "--gain", "0.01", "--fast"]) == 0
    assert "--fast changes nothing" in capsys.readouterr().err
    assert cli.run(["inpaint", str(picture), str(mask), *common, "--jacobian"]) == 0
    assert cli.run(["deblur", str(picture), *common, "--blur", "1"]) == 0
    assert cli.run(["upscale", str(picture), *common, "--scale", "2"]) == 0
    with Image.open(out) as large:
        assert large.size == (80, 64)
    capsys.readouterr()
    assert cli.run(["denoise", str(picture), *common, "--sigma", "-1"]) == 2
    assert cli.run(["denoise", str(mask), "-o", str(tmp_path / "x.bmp"), "--model", str(model)]) != 0
    assert cli.run(["denoise", str(picture), "-o", str(out), "--model", "icons"]) != 0
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3
    assert all(line.startswith("calotype: ") for line in errors)
