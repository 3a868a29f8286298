"""How much memory a model will need to draw one picture: its weights, and an estimate of what it computes."""

from __future__ import annotations

from dataclasses import dataclass

from calotype.models.config import ModelConfig

FLOAT = 4  # bytes, of the float32 in which Calotype computes unless told otherwise
HALVES = 2  # with and without the prompt, for guidance


@dataclass(frozen=True)
class Memory:
    """Bytes.

    weights   of all networks in float32, as they are loaded by default
    drawing   the U-Net's maps besides, for one guided picture of the model's own size (an estimate)
    decoding  the same of the autoencoder's decoder, which runs after it
    """

    weights: int
    drawing: int
    decoding: int

    @property
    def peak(self) -> int:
        """All that is held at once."""
        return self.weights + max(self.drawing, self.decoding)


def estimate(config: ModelConfig, parameters: int) -> Memory:
    """For a model of so many numbers, at the size of picture it was trained on."""
    return Memory(parameters * FLOAT, _unet(config), _decoder(config))


def _unet(config: ModelConfig) -> int:
    """The maps kept for the way up, and what works beside them: a block of the way up, whose input is two
    maps beside each other, or a transformer's feed-forward layer, which is eight times as wide as its map;
    or, where pictures are small, the largest convolution's weights, which CPU kernels lay out anew.
    """
    unet, side = config.unet, config.size // config.factor
    kept = widest = 0
    for level, channels in enumerate(unet.block_channels):
        pixels = max(1, side >> level) ** 2
        kept += (unet.layers_per_block + 1) * channels * pixels
        widest = max(widest, (14 if unet.attention_levels[level] else 6) * channels * pixels)
    weights = 3 * 3 * 2 * unet.block_channels[-1] ** 2
    return FLOAT * (HALVES * kept + max(HALVES * widest, weights))


def _decoder(config: ModelConfig) -> int:
    """Of the finest level, which takes the maps of the next coarser one as they are enlarged."""
    if config.autoencoder is None:
        return 0
    channels = config.autoencoder.block_channels
    return FLOAT * 3 * channels[min(1, len(channels) - 1)] * config.size**2
