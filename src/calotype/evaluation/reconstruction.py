"""How well an autoencoder gives a picture back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calotype.evaluation.intervals import with_intervals
from calotype.networks.autoencoder import Autoencoder

SSIM_WINDOW = 11
"""Side in pixels of the window with Gaussian weights of deviation 1.5."""

Pixels = NDArray[np.floating[Any]]


def psnr(squared_error: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of mean squared errors of pictures in [-1, 1] (peak to peak 2)."""
    return 10 * torch.log10(4 / squared_error)


def similarity() -> Callable[[Pixels, Pixels], float] | None:
    """SSIM of two pictures (3 H W) in [0, 1], or None where scikit-image is not installed."""
    try:
        from skimage.metrics import structural_similarity
    except ImportError:
        return None

    def ssim(one: Pixels, other: Pixels) -> float:
        return float(
            structural_similarity(
                one,
                other,
                channel_axis=0,
                data_range=1.0,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
            )
        )

    return ssim


@torch.no_grad()
def reconstruction(autoencoder: Autoencoder, pictures: Tensor) -> dict[str, Any]:
    """PSNR and SSIM of uint8 pictures (N 3 H W) through the mean latents, the result rounded to 8 bits.

    "psnr" is the mean of the pictures' own PSNR, "psnr_pooled" that of the pooled error,
    "psnr_worst_5_percent" the fifth percentile; "ssim" the mean of the pictures' own (Wang et al. 2004, by
    scikit-image, in windows with Gaussian weights), absent where that is not installed or a picture is
    smaller than a window; latent mean and deviation say whether the diffusion model gets unit variance.
    "intervals" are 95 %, of resampled pictures.
    """
    device = next(autoencoder.parameters()).device
    errors, latents, likeness = [], [], []
    compare = similarity() if min(pictures.shape[-2:]) >= SSIM_WINDOW else None
    for part in pictures.split(32):
        images = (part.float() / 127.5 - 1).to(device)
        z = autoencoder.encode(images).mode()
        again = ((autoencoder.decode(z).clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
        errors.append((again - images).square().flatten(1).mean(1).cpu())  # (B 3 H W) -> (B)
        latents.append(z.float().cpu())
        if compare is not None:
            one, other = ((signed.cpu().numpy() + 1) / 2 for signed in (images, again))
            likeness += [compare(a, b) for a, b in zip(one, other, strict=True)]
    # A picture given back without any error would have infinite PSNR: count it as half a grey level off.
    error = torch.cat(errors).clamp(min=(0.5 / 127.5) ** 2)
    z = torch.cat(latents)
    means = {"psnr": psnr(error)}
    if likeness:
        means["ssim"] = torch.tensor(likeness, dtype=torch.float64)
    return with_intervals(means) | {
        "psnr_pooled": float(psnr(error.mean())),
        "psnr_worst_5_percent": float(means["psnr"].quantile(0.05)),
        "latent_mean": float(z.mean()),
        "latent_std": float(z.std()),
    }
