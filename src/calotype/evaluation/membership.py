"""Can one tell from the denoising loss whether a picture was trained on?  (Matsumoto et al. 2023, arXiv
2302.03262; Carlini et al. 2023, arXiv 2301.13188, section 5.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from calotype.evaluation.denoising import denoising_errors
from calotype.evaluation.neighbours import area, auc
from calotype.models.latent_diffusion import LatentDiffusion

LEVELS = (0.1, 0.3, 0.5, 0.7)
"""Places on the trained ladder at which losses are taken; nearer to its end there is no picture left."""
FALSE_ALARMS = 0.01


def membership(
    model: LatentDiffusion,
    members: tuple[Tensor, Sequence[str]],
    others: tuple[Tensor, Sequence[str]],
) -> dict[str, Any]:
    """AUC of telling `members` (training pictures uint8 (N 3 H W), captions) from `others` by their loss.

    0.5 is a guess, 1 certainty.  "captioned" under the pictures' own captions, "uncaptioned" under the empty
    prompt: where the held-out pictures show other things than the training's, the first also tells whether
    the words were known.  Each has "auc", of the losses averaged over the levels, "caught", the share of
    members found at 1 % false alarms, and "by_level".
    """
    losses = []
    for pictures, captions in (members, others):
        levels = torch.tensor(LEVELS).expand(len(pictures), -1)
        losses.append(denoising_errors(model, pictures, (captions, [""] * len(captions)), levels))
    found: dict[str, Any] = {}
    for index, name in enumerate(("captioned", "uncaptioned")):
        inside, outside = losses[0][index], losses[1][index]  # (N E), (M E)
        scale = outside.mean(dim=0)  # so that no level outweighs the rest
        scores = -(inside / scale).mean(dim=1), -(outside / scale).mean(dim=1)
        bar = scores[1].double().quantile(1 - FALSE_ALARMS)
        by_level = {f"{level:g}": area(-inside[:, i], -outside[:, i]) for i, level in enumerate(LEVELS)}
        found[name] = auc(*scores) | {
            "caught": float((scores[0] > bar).double().mean()),
            "by_level": by_level,
        }
    return found
