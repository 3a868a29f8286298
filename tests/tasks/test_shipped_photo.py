"""The shipped `photo` cleans and fills in a photograph that it has never seen, noise level told or not."""

from pathlib import Path

import numpy as np
import skimage.data
import torch
from skimage.restoration import inpaint_biharmonic

from calotype.checkpoints import native, shelf
from calotype.tasks.photo_file import Photo
from calotype.tasks.posterior import Options
from calotype.tasks.restore import denoise, inpaint


def psnr(found: np.ndarray, true: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((found - true) ** 2)))


def test_it_denoises_a_cat() -> None:
    model = native.load_pixel(shelf.find("photo"))
    clean = (
        skimage.data.chelsea()[:256, 60:316].astype(np.float32).transpose(2, 0, 1) / 255
    )  # (H W C) -> (C H W)
    for sigma, least in ((15, 31.5), (50, 26.5)):
        noise = np.random.default_rng(sigma).standard_normal(clean.shape).astype(np.float32)
        noisy = Photo(clean + sigma / 255 * noise)
        told = psnr(denoise(model, noisy, sigma=sigma).photo.pixels, clean)
        estimated = psnr(denoise(model, noisy).photo.pixels, clean)
        assert told > least
        assert abs(told - estimated) < 0.3


def test_it_fills_a_cat_in() -> None:
    model = native.load_pixel(shelf.find("photo"))
    clean = skimage.data.chelsea()[100:164, 200:264].astype(np.float32).transpose(2, 0, 1) / 255  # (C H W)
    missing = np.random.default_rng(1).random((64, 64)) < 0.5
    spoilt = np.where(missing, 0, clean).astype(np.float32)
    smooth = inpaint_biharmonic(spoilt, missing, channel_axis=0)
    assert psnr(inpaint(model, Photo(spoilt), missing).photo.pixels, clean) > psnr(smooth, clean) + 0.3


def test_of_all_it_knows_the_last_word_makes_more() -> None:
    model = native.load_pixel(shelf.find("photo"))
    clean = skimage.data.coffee()[100:196, 200:296].astype(np.float32).transpose(2, 0, 1) / 255  # (C H W)
    noisy = Photo(clean + 25 / 255 * np.random.default_rng(1).standard_normal(clean.shape).astype(np.float32))
    options = Options(ensemble=True, alike=True)
    with_it, without = (
        psnr(denoise(each, noisy, sigma=25, options=options).photo.pixels, clean)
        for each in (model, model.replace(last_word=None))
    )
    assert with_it > without + 0.03


def test_other_weights_have_no_last_word(tmp_path: Path) -> None:
    """It was fitted to what the shipped ones get wrong."""
    model = native.load_pixel(shelf.find("photo"))
    with torch.no_grad():
        next(model.denoiser.parameters()).mul_(1.01)
    native.save_pixel(tmp_path / "own.safetensors", model)
    assert model.last_word is not None
    assert native.load_pixel(tmp_path / "own.safetensors").last_word is None
