"""Restoring photographs with a pixel model: denoise, inpaint, upscale, deblur.

Denoising is the denoiser's own question: the noisy picture is its x, the noise its sigma, and one pass gives
the expected clean picture; walking down from there at random draws pictures from the posterior.  The rest
is a linear measurement (`diffusion/measurement.py`): the denoiser that knows the measurement is handed to
the same sampler, from much noise down to none, or to one that adds no noise and comes to rest at an estimate.
Large pictures go through the network tile by tile; the
state, its noise and the measurement are always the whole picture's, so tiles cannot disagree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calotype.diffusion.grids import exponential, karras
from calotype.diffusion.measurement import LinearOperator, measured, solve
from calotype.errors import InputError
from calotype.models.pixel_diffusion import PixelDiffusion
from calotype.tasks.noise_level import (
    CameraNoise,
    estimate_camera,
    estimate_sigma,
    stabilise,
    unstabilise,
)
from calotype.tasks.operators import Blur, Mask, downscaling, gaussian_blur
from calotype.tasks.photo_file import Floats, Photo
from calotype.tasks.posterior import (
    BandedNoise,
    Counter,
    Options,
    Restored,
    Watch,
    ensemble,
    gathered,
    regrouped,
    seeds,
    settled,
    tiled,
    turning,
    walk,
)

ROUNDING = 1 / 255 / math.sqrt(12) * 2
"""What rounding to 8 bits adds to a picture in [-1, 1], as a deviation."""
FAR = 3.0
"""Noise from which measurements are sampled: six times what pictures vary by themselves."""
SETTLING = (0.008, 0.4)
"""Levels that an estimate settles through, 1 to 50 of 255: above, a picture without noise misleads."""
NEAR = 0.1
"""What a sample may be wrong by, as the last correction towards an exact measurement takes it."""
TURNS = 4
"""Of that correction."""

FIRST_OF_START, FIRST_OF_GREY = 1_000_000, 2_000_000
"""Numbers of draws apart from the samplers', which count from 0."""

__all__ = ["Options", "Restored", "Watch", "deblur", "denoise", "inpaint", "restore", "upscale"]


def denoise(
    model: PixelDiffusion,
    photo: Photo,
    *,
    sigma: float | None = None,
    camera: CameraNoise | None = None,
    estimate: bool = True,
    options: Options = Options(),
    watch: Watch | None = None,
) -> Restored:
    """The photograph without its noise.

    sigma     deviation of white Gaussian noise, of 255
    camera    noise that grows with brightness, in the place of sigma
    estimate  where neither is given: look for white noise (True) or a camera's (False)

    Raises InputError for a sigma that is not above 0, or beyond what the model was trained on.
    """
    limit = model.config.sigma_max * 127.5
    told = ""
    if camera is None and sigma is None and not estimate:
        camera = estimate_camera(photo.pixels)
        told = f"estimated noise: gain {camera.gain:.5f}, read {255 * camera.read:.2f} of 255"
    if camera is not None:
        return _denoise_camera(model, photo, camera, options, told, watch)
    if sigma is None:
        sigma = 255 * estimate_sigma(photo.pixels)
        told = f"estimated noise: {sigma:.2f} of 255"
    elif not 0 < sigma <= limit:
        raise InputError(
            f"sigma is {sigma:g}; give the noise's deviation, above 0, at most {limit:g}, of 255."
        )

    def back(clean: Tensor) -> Floats:
        return ((clean + 1) / 2).numpy()

    x = torch.from_numpy(photo.pixels * 2 - 1)
    return _denoise(model, photo, x, sigma / 127.5, back, options, told, watch)


def _denoise_camera(
    model: PixelDiffusion, photo: Photo, camera: CameraNoise, options: Options, told: str, watch: Watch | None
) -> Restored:
    if camera.gain < 0 or camera.read < 0 or camera.gain + camera.read == 0:
        raise InputError(
            f"The camera's noise is gain {camera.gain:g}, read {camera.read:g}; give values of 0 or more, "
            "not both 0."
        )
    low, high = (float(stabilise(np.array(v), camera)) for v in (0.0, 1.0))
    scale = 2 / (high - low)  # onto [-1, 1]

    def back(clean: Tensor) -> Floats:
        found = unstabilise((clean.numpy().astype(np.float64) + 1) / scale + low, camera)
        return found.astype(np.float32)

    stable = stabilise(photo.pixels.astype(np.float64), camera)
    x = torch.from_numpy(((stable - low) * scale - 1).astype(np.float32))
    return _denoise(model, photo, x, scale, back, options, told, watch)


def _denoise(
    model: PixelDiffusion,
    photo: Photo,
    x: Tensor,
    sigma: float,
    back: Callable[[Tensor], Floats],
    options: Options,
    told: str,
    watch: Watch | None,
) -> Restored:
    """x (C H W) has noise of deviation sigma; `back` takes clean ones to pixels."""
    grey = len(x) == 1
    if grey:
        # The mean of three channels has a third of their variance.  What of their noise the mean does not
        # see is drawn, so that all in all it is white, as the model knows it.
        sigma = sigma * math.sqrt(3)
    sigma = min(max(sigma, model.config.sigma_min), model.config.sigma_max)
    calls = Counter(watch, options.samples * options.steps or options.passes_of_mean)
    denoiser = calls.counting(tiled(model, options))
    if options.ensemble:
        denoiser = ensemble(denoiser)
    if options.alike:
        denoiser = regrouped(denoiser, model.config.sigma_min, model.last_word)

    def start(seed: int) -> Tensor:
        whole = x[None].expand(1, 3, -1, -1)  # (C H W) -> (1 3 H W)
        if not grey:
            return whole.contiguous()
        spread = BandedNoise(seed, FIRST_OF_GREY)(whole)
        return whole + sigma * (spread - spread.mean(1, keepdim=True))

    def pixels(clean: Tensor) -> Floats:
        clean = clean.clamp(-1.5, 1.5).cpu()[0]  # (1 3 H W) -> (3 H W)
        return back(clean.mean(0, keepdim=True) if grey else clean)

    if options.samples == 0:
        with torch.inference_mode():
            clean = denoiser(start(options.seed).to(model.device), torch.tensor([sigma], device=model.device))
        return Restored(photo.with_pixels(pixels(clean)), told=told)
    grid = karras(options.steps, min(model.config.sigma_min, sigma / 2), sigma)

    def draws() -> Iterator[Floats]:
        for seed in seeds(options):
            yield pixels(walk(denoiser, start(seed).to(model.device), grid, seed))

    return gathered(photo, draws(), options.samples, told)


def inpaint(
    model: PixelDiffusion,
    photo: Photo,
    missing: NDArray[np.bool_],
    *,
    options: Options = Options(),
    watch: Watch | None = None,
) -> Restored:
    """The photograph with what is `missing` (H W) drawn anew; the rest stays as it is, to the bit.

    Raises InputError where the mask has another size, or nothing is missing, or everything.
    """
    height, width = photo.size
    if missing.shape != (height, width):
        raise InputError(
            f"The mask has {missing.shape[1]}x{missing.shape[0]} pixels and the picture {width}x{height}; "
            "give a mask of the picture's size."
        )
    if not missing.any():
        raise InputError(
            "The mask is black everywhere, so nothing is to be filled; paint white what is missing."
        )
    if missing.all():
        raise InputError("The mask is white everywhere, so nothing is known; leave black what is to be kept.")
    y = torch.from_numpy(photo.pixels * 2 - 1)[None]  # (1 C H W)
    known = torch.from_numpy(~missing)[None, None]  # (1 1 H W)
    y = torch.where(known, y, 0.0)  # not a product: what lies under the mask may be anything
    made = _sampled(model, photo, Mask(known.float()), y, 0.0, photo.size, options, watch)

    def kept(other: Photo) -> Photo:
        return other.with_pixels(np.where(missing, other.pixels, photo.pixels))

    return Restored(kept(made.photo), tuple(map(kept, made.samples)), made.deviation)


def upscale(
    model: PixelDiffusion,
    photo: Photo,
    scale: int,
    *,
    sigma: float = 0.0,
    options: Options = Options(),
    watch: Watch | None = None,
) -> Restored:
    """The photograph `scale` (2, 3, 4) times as large, such that Pillow's bicubic filter gives it back.

    sigma  noise that it has, of 255, beyond rounding
    """
    if scale not in {2, 3, 4}:
        raise InputError(f"scale is {scale}; give 2, 3 or 4.")
    height, width = (scale * side for side in photo.size)
    operator = downscaling(height, width, scale)
    return _with_noise(model, photo, operator, sigma, (height, width), options, watch)


def deblur(
    model: PixelDiffusion,
    photo: Photo,
    *,
    blur: float | None = None,
    kernel: Floats | None = None,
    sigma: float = 1.0,
    options: Options = Options(),
    watch: Watch | None = None,
) -> Restored:
    """The photograph before a blur: a Gaussian one of `blur` pixels, or by a `kernel` (k l) of odd sides.

    sigma  noise that came after the blur, of 255; what is lost in it cannot come back
    """
    height, width = photo.size
    operator: LinearOperator
    if (blur is None) == (kernel is None):
        raise InputError("Say what blurred the picture: either a Gaussian's deviation or a kernel.")
    if blur is not None:
        if not 0.2 <= blur <= min(height, width):
            raise InputError(
                f"blur is {blur:g}; give a deviation in pixels from 0.2 to the picture's shorter side."
            )
        operator = gaussian_blur(height, width, blur)
    else:
        assert kernel is not None
        if kernel.shape[0] % 2 == 0 or kernel.shape[1] % 2 == 0 or not kernel.sum() > 0 or kernel.min() < 0:
            raise InputError("A blur's kernel needs odd sides, values of 0 or more, and some above 0.")
        if kernel.shape[0] > height or kernel.shape[1] > width:
            raise InputError("The blur's kernel is larger than the picture; give a smaller one.")
        operator = Blur(torch.from_numpy(kernel / kernel.sum()))
    return _with_noise(model, photo, operator, sigma, (height, width), options, watch)


def restore(
    model: PixelDiffusion,
    photo: Photo,
    operator: LinearOperator,
    size: tuple[int, int],
    *,
    sigma: float = 0.0,
    options: Options = Options(),
    watch: Watch | None = None,
) -> Restored:
    """A picture of `size` (H, W) that an operator of your own made into the photograph; sigma as above."""
    return _with_noise(model, photo, operator, sigma, size, options, watch)


def _with_noise(
    model: PixelDiffusion,
    photo: Photo,
    operator: LinearOperator,
    sigma: float,
    size: tuple[int, int],
    options: Options,
    watch: Watch | None,
) -> Restored:
    if not 0 <= sigma <= 255:
        raise InputError(f"sigma is {sigma:g}; give the noise's deviation from 0 to 255.")
    y = torch.from_numpy(photo.pixels * 2 - 1)[None]  # (1 C h w)
    rounding = ROUNDING if photo.bits == 8 else ROUNDING / 257
    return _sampled(model, photo, operator, y, math.hypot(sigma / 127.5, rounding), size, options, watch)


def _sampled(
    model: PixelDiffusion,
    photo: Photo,
    operator: LinearOperator,
    y: Tensor,
    sigma_y: float,
    size: tuple[int, int],
    options: Options,
    watch: Watch | None,
) -> Restored:
    grey = y.shape[1] == 1
    y = y.expand(-1, 3, -1, -1).to(model.device)  # (1 C h w) -> (1 3 h w)
    drawn = options.samples > 0
    calls = Counter(watch, max(1, options.samples) * options.steps)
    plain = calls.counting(tiled(model, options))
    denoiser = measured(
        plain if drawn else turning(plain),
        operator,
        y,
        sigma_y,
        sigma_data=model.config.sigma_data,
        jacobian=options.jacobian,
    )
    # what the measurement alone says, so that the start is about right in the large
    guess = getattr(operator, "guess", None)
    first = guess(y) if guess else operator.adjoint(solve(operator, y, 1.0, max(sigma_y, 0.01) ** 2))
    assert first.shape[-2:] == size, "the operator's adjoint gives pictures of another size"

    def kept(clean: Tensor) -> Floats:
        if sigma_y <= ROUNDING:  # where only rounding stands between, the picture keeps to the measurement
            for _ in range(TURNS):  # and to what can be shown: onto one and the other by turns
                clean = clean.clamp(-1, 1)
                rest = solve(operator, y - operator.forward(clean), NEAR**2, sigma_y**2)
                clean = clean + NEAR**2 * operator.adjoint(rest)
        clean = clean.cpu()[0]  # (1 3 H W) -> (3 H W)
        pixels: Floats = (((clean.mean(0, keepdim=True) if grey else clean) + 1) / 2).numpy()
        return pixels

    def draws() -> Iterator[Floats]:
        if not drawn:
            yield kept(settled(denoiser, first, exponential(options.steps, *SETTLING)))
            return
        grid = karras(options.steps, model.config.sigma_min, FAR)
        for seed in seeds(options):
            noise = BandedNoise(seed, FIRST_OF_START)
            yield kept(walk(denoiser, first + FAR * noise(first), grid, seed))

    return gathered(photo, draws(), max(1, options.samples), "")
