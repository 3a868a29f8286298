"""How well an autoencoder gives a picture back."""

from __future__ import annotations

import torch
from torch import Tensor

from calotype.networks.autoencoder import Autoencoder


def psnr(squared_error: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of mean squared errors of pictures in [-1, 1] (peak to peak 2)."""
    return 10 * torch.log10(4 / squared_error)


@torch.no_grad()
def reconstruction(autoencoder: Autoencoder, pictures: Tensor) -> dict[str, float]:
    """PSNR of uint8 pictures (N 3 H W) through the mean latents, the result rounded to 8 bits.

    "psnr" is the mean of the pictures' own PSNR, "psnr_pooled" that of the pooled error,
    "psnr_worst_5_percent" the fifth percentile; latent mean and deviation say whether the diffusion
    model gets unit variance.
    """
    device = next(autoencoder.parameters()).device
    errors, latents = [], []
    for part in pictures.split(32):
        images = (part.float() / 127.5 - 1).to(device)
        z = autoencoder.encode(images).mode()
        again = ((autoencoder.decode(z).clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
        errors.append((again - images).square().flatten(1).mean(1).cpu())  # (B 3 H W) -> (B)
        latents.append(z.float().cpu())
    # A picture given back without any error would have infinite PSNR: count it as half a grey level off.
    error = torch.cat(errors).clamp(min=(0.5 / 127.5) ** 2)
    z = torch.cat(latents)
    each = psnr(error)
    return {
        "psnr": float(each.mean()),
        "psnr_pooled": float(psnr(error.mean())),
        "psnr_worst_5_percent": float(each.quantile(0.05)),
        "latent_mean": float(z.mean()),
        "latent_std": float(z.std()),
    }
