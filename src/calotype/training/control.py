"""Training a ControlNet (Zhang et al. 2023, arXiv 2302.05543): it looks at a picture, the model stays."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calotype.checkpoints import controlnet
from calotype.conditioning.conditioning import Conditioning
from calotype.models.controls import Controls
from calotype.models.latent_diffusion import LatentDiffusion, seeded
from calotype.networks.config import ControlNetConfig
from calotype.networks.controlnet import ControlNet
from calotype.training.finetune import FineTune, pictures
from calotype.training.prepared import Examples
from calotype.training.shapes import Grouped
from calotype.training.tune_config import ControlTraining

SHOWN = 4
"""Control pictures on a sheet of samples, each beside what is drawn by it."""


def beginning(model: LatentDiffusion, seed: int) -> ControlNet:
    """The model's own way down, which looks at a picture and adds nothing yet."""
    config = ControlNetConfig.beside(model.config.unet, model.config.factor)
    net = seeded(seed, "controlnet", lambda: ControlNet(config))
    net.begin_as(model.denoiser.network)
    return net


class ControlObjective(FineTune):
    """The denoising loss of a model that stays as it is, with a ControlNet beside it, which learns."""

    product = "controlnet"

    def __init__(
        self, config: ControlTraining, model: LatentDiffusion, training: Examples, held_out: Examples | None
    ) -> None:
        """The examples have control pictures.  InputError for a model that is told more than words."""
        super().__init__(config, model, training, held_out)
        self.keep_still("denoiser")
        self.net = beginning(model, config.seed)
        # in no place where modules are looked for: the U-Net is still there, and the net learns
        denoiser = model.denoiser.controlled(Controls([self.net], [False]))
        self.__dict__["denoiser"] = denoiser
        self._model = [model.replace(denoiser=denoiser)]

    def arguments(self, examples: Examples, indices: Tensor, step: int, share: slice) -> dict[str, Tensor]:
        told = super().arguments(examples, indices, step, share)
        return told | {"picture": looked_at(examples, indices[share]).to(told["latents"].device)}

    def known(
        self,
        latents: Tensor,
        tokens: Tensor | None = None,
        context: Tensor | None = None,
        vector: Tensor | None = None,
        label: Tensor | None = None,
        picture: Tensor | None = None,
    ) -> Conditioning:
        """As of any model, and what the net sees of `picture` (B 3 H W), values 0 to 1."""
        found = super().known(latents, tokens, context, vector, label)
        assert picture is not None
        return dataclasses.replace(found, control=self.net.hinted(picture), strength=_whole(latents))

    @torch.no_grad()
    def samples(self) -> Tensor | None:
        """Control pictures, held out where there are some, and beside each what is drawn by it, of its own
        caption; seeds from 0.
        """
        shown = self._training if self._held_out is None else self._held_out
        rows, model = shown.latents.rows, self._model[0]
        same = rows.members(0) if isinstance(rows, Grouped) else torch.arange(len(rows))
        chosen = same[:SHOWN]
        captions = shown.captions
        which = captions.choose(chosen, torch.zeros(len(chosen)), torch.zeros(len(chosen), dtype=torch.bool))
        picture = looked_at(shown, chosen).to(model.device)
        hint = self.net.hinted(picture)
        drawn = pictures(
            model,
            [captions.texts[row] for row in which.tolist()],
            shown.latents.shape,
            range(len(chosen)),
            told={"control": hint, "strength": _whole(hint)},
        )
        return torch.stack([picture * 2 - 1, drawn], dim=1).flatten(0, 1)  # 2 x (N 3 H W) -> (2N 3 H W)

    @torch.no_grad()
    def export(self, path: Path, recipe: Mapping[str, Any]) -> None:
        """A folder as diffusers keeps ControlNets, in float16."""
        controlnet.write(path, self.net, self._model[0].config, torch.float16, recipe)


def looked_at(examples: Examples, rows: Tensor) -> Tensor:
    """Control pictures of some rows (B), as a ControlNet takes them: (B 3 H W), values 0 to 1."""
    assert examples.control is not None
    return examples.control[rows].float() / 255


def _whole(like: Tensor) -> Tensor:
    """Strength 1 for one net and every row: (B 1)."""
    return torch.ones(len(like), 1, device=like.device)
