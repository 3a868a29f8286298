"""What to make of a noisy picture and the estimates there are of it: a network small enough to come second.

Estimates err differently: a network blurs what it does not know, patches restored together keep what repeats
and smear what does not.  What is left between them and the noisy picture tells, pixel by pixel, whom to trust
(as "Fast, nonlocal and neural", arXiv 2403.03488, learns what follows a classical method).
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, LAYERS, TIMES = 16, 5, 2
"""Layers but the first and the last come TIMES times: deeper, and no larger."""
REACH = 2 + TIMES * (LAYERS - 2)
"""Pixels on every side that a pixel hangs on."""
PARTS = 6
LEAST, MOST = 20 / 255, 120 / 255
"""Noise that it learned on, its deviation in pictures in [-1, 1]; beyond it the nearer one is meant."""
APART = 5.0
"""Estimates differ by about a fifth of the noise."""


class LastWord(nn.Module):
    """Fresh ones agree with the estimate; any size, 3 channels."""

    def __init__(self) -> None:
        super().__init__()
        channels = [3 * PARTS + 1, *(LAYERS - 1) * [WIDTH], 3]
        self.layers = nn.ModuleList(
            nn.Conv2d(wide, narrow, 3, padding=1, padding_mode="replicate")
            for wide, narrow in pairwise(channels)
        )
        nn.init.zeros_(self.layers[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.layers[-1].bias)  # type: ignore[arg-type]

    def forward(
        self,
        noisy: Tensor,
        first: Tensor,
        together: Tensor,
        again: Tensor,
        apart: Tensor,
        estimate: Tensor,
        sigma: Tensor,
    ) -> Tensor:
        """The expected clean picture, (B 3 H W), as all here; clean ones lie in [-1, 1].

        Args:
            first, together, again: earlier estimates.
            apart: the difference of the two of which `estimate` is a mean.
            sigma: (B), the noise's deviation.
        """
        s = sigma[:, None, None, None]  # (B) -> (B 1 1 1)
        level = (s.clamp(LEAST, MOST).log() + 1.5).expand(-1, 1, *noisy.shape[-2:])
        unlike = [x.sub(estimate).mul_(APART / s) for x in (first, together, again)]
        told = [(noisy - estimate) / s, *unlike, apart * APART / s, estimate]
        h = torch.cat([*(_opposed(part) for part in told), level], 1)  # -> (B 19 H W)
        h = F.silu(self.layers[0](h))
        for layer in TIMES * list(self.layers[1:-1]):
            h = h + F.silu(layer(h))
        clean: Tensor = estimate + _opposed(self.layers[-1](h), back=True) * s / APART
        return clean


def _opposed(x: Tensor, *, back: bool = False) -> Tensor:
    """Red, green and blue (B 3 H W) to brightness and two differences, or back; white noise stays white."""
    turn = x.new_tensor([[2**0.5] * 3, [3**0.5, 0, -(3**0.5)], [1, -2, 1]]) / 6**0.5
    return torch.einsum("ji,bjhw->bihw" if back else "ij,bjhw->bihw", turn, x)
