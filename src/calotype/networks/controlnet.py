"""ControlNet (Zhang et al. 2023, arXiv:2302.05543): a copy of a U-Net's way down that looks at a picture."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from calotype.networks.config import ControlNetConfig
from calotype.networks.layers import initialise_weights, zero_
from calotype.networks.narrow import Conv2d
from calotype.networks.unet import Descent, UNet


class Hint(nn.Module):
    """The control picture, made as small as the latents: (B 3 f*H f*W) -> (B C H W)."""

    def __init__(self, config: ControlNetConfig) -> None:
        super().__init__()
        widths = config.hint_channels
        self.enter = Conv2d(config.picture_channels, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for width, wider in pairwise(widths):
            self.blocks.append(Conv2d(width, width, 3, padding=1))
            self.blocks.append(Conv2d(width, wider, 3, padding=1, stride=2))
        self.leave = Conv2d(widths[-1], config.unet.block_channels[0], 3, padding=1)

    def forward(self, picture: Tensor) -> Tensor:
        x: Tensor = F.silu(self.enter(picture))
        for block in self.blocks:
            x = F.silu(block(x))
        y: Tensor = self.leave(x)
        return y


class ControlNet(Descent):
    """From noisy latents and a control picture to what is added to every map of a U-Net's way down."""

    def __init__(self, config: ControlNetConfig) -> None:
        super().__init__(config.unet, short_middle=config.short_middle)
        self.control = config
        self.hint = Hint(config)
        self.zeros = nn.ModuleList(Conv2d(width, width, 1) for width in self.skip_channels)
        width = config.unet.block_channels[-1]
        self.middle_zero = Conv2d(width, width, 1)
        self.initialise()

    def initialise(self, generator: Generator | None = None) -> None:
        """Fresh weights for training: whatever it sees, it adds nothing yet, nor to its own first map."""
        initialise_weights(self, generator)
        for layer in (*self.zeros, self.middle_zero, self.hint.leave):
            assert isinstance(layer, nn.Conv2d)
            zero_(layer)

    def begin_as(self, unet: UNet) -> None:
        """Takes over the U-Net's way down; of its first layer what reads the noisy latents."""
        own = self.state_dict()
        taken = {name: value for name, value in unet.state_dict().items() if name in own}
        taken["enter.weight"] = taken["enter.weight"][:, : self.config.in_channels]
        self.load_state_dict(own | taken)

    def hinted(self, picture: Tensor) -> Tensor:
        """The control picture (B 3 f*H f*W), values 0 to 1, as `forward` takes it: -> (B C H W).

        It is the same at every step of a sampler.
        """
        y: Tensor = self.hint(picture.flip(1) if self.control.bgr else picture)
        return y

    def forward(
        self,
        x: Tensor,
        hinted: Tensor,
        noise_label: Tensor,
        context: Tensor | None = None,
        vector: Tensor | None = None,
        *,
        fading: bool = False,
    ) -> list[Tensor]:
        """(B C H W) -> what is added to each of the maps that `UNet.descend` returns.

        noise_label, context, vector: as the U-Net has them. hinted: (B C H W), see `hinted`.
        fading: guess mode, which adds less to the finer maps (the paper's own code).
        Raises InputError where a condition is missing or the network has no place for it.
        """
        embedding = self.embed(noise_label, vector)
        self._check("context", bool(self.config.context_width), context)
        kept = self.descend(self.enter(x) + hinted, embedding, context)
        added = [zero(map) for zero, map in zip((*self.zeros, self.middle_zero), kept, strict=True)]
        if self.control.pooled:
            return [map.mean(dim=(2, 3), keepdim=True) for map in added]  # (B C H W) -> (B C 1 1)
        if fading:
            scales = torch.logspace(-1, 0, len(added)).tolist()  # 0.1 for the finest to 1 for the middle
            added = [map * scale for map, scale in zip(added, scales, strict=True)]
        return added
