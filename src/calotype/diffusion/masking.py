"""Keeping what is known of a picture while the rest is drawn."""

from torch import Tensor

from calotype.diffusion.denoiser import Denoiser
from calotype.diffusion.parameterization import expand


def keep_known(denoiser: Denoiser, known: Tensor, mask: Tensor, noise: Tensor) -> Denoiser:
    """The denoiser that knows part of its answer (replacement: arXiv 2011.13456, section 5; 2201.09865).

    Where the mask is 0 the network is shown `known + sigma * noise` and the answer is `known`; where it is 1
    the picture is free; between, a mixture.  With the noise that the start was made of, the kept part of a
    deterministic sampler's state is exactly what the network is shown.

    Args:
        known: (B C H W) the clean picture or latents.
        mask: (B 1 H W) or (B C H W), from 0 (keep) to 1 (draw).
        noise: (B C H W) unit noise, the same at every level, so that the result is a function of (x, sigma).
    """

    def masked(x: Tensor, sigma: Tensor, /) -> Tensor:
        shown = mask * x + (1 - mask) * (known + expand(sigma, x) * noise)
        return mask * denoiser(shown, sigma) + (1 - mask) * known

    return masked
