"""A judge of patches, which tells pictures from their reconstructions."""

from __future__ import annotations

from torch import Tensor, nn

WIDTHS = (32, 64, 128)


class PatchDiscriminator(nn.Module):
    """Isola et al.'s (arXiv 1611.07004, section 3.2.2) with group normalisation, so that what is said of a
    picture does not depend on the others of its batch.

    Each number of its answer is about a patch of 46 pixels a side.
    """

    def __init__(self, channels: int = 3, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, width in enumerate(widths):
            layers.append(nn.Conv2d(channels, width, 4, stride=2, padding=1))
            if i:
                layers.append(nn.GroupNorm(8, width))
            layers.append(nn.LeakyReLU(0.2))
            channels = width
        layers.append(nn.Conv2d(channels, 1, 4, padding=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, pictures: Tensor) -> Tensor:
        """pictures (B 3 H W) to (B 1 h w): above 0 where a patch looks real."""
        found: Tensor = self.layers(pictures)
        return found
