"""Training a text encoder: what will the picture of this caption look like?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from calotype.checkpoints import native
from calotype.conditioning.text import TextEncoder
from calotype.data.rewording import reworded
from calotype.errors import InputError
from calotype.models.latent_diffusion import LatentDiffusion
from calotype.training.config import TextTraining
from calotype.training.objective import VALIDATION_STEP, Objective
from calotype.training.order import step_generator
from calotype.training.prepared import Captions, Examples


def in_words(
    captions: Captions, rows: Tensor, reword: Tensor, key: str, places: Tensor, encoder: TextEncoder
) -> Tensor:
    """Tokens (B T L) of the captions `rows` (B), in other words where `reword` (B) says so.

    The words hang on `key` and on the picture's place in the whole batch, `places` (B).
    """
    tokens = captions.tokens[:, rows].transpose(0, 1)  # (T N L) -> (B T L)
    if reword.any():
        texts = [
            reworded(captions.texts[row], Random(f"{key} {place}"))
            for row, place in zip(rows[reword].tolist(), places[reword].tolist(), strict=True)
        ]
        tokens = tokens.clone()
        tokens[reword] = encoder.tokenize(texts).transpose(0, 1)  # (T R L) -> (R T L)
    return tokens


class TextObjective(Objective):
    """How far the latents are from the outline that their captions foretell."""

    not_for_muon = ("outline.",)

    def __init__(
        self, config: TextTraining, model: LatentDiffusion, training: Examples, held_out: Examples | None
    ) -> None:
        """Raises InputError where the model's U-Net takes no outline, or the latents have another size."""
        super().__init__()
        self.config = config
        network, height, width = model.denoiser.network, *training.latents.shape[1:]
        side = network.config.outline_cells * network.config.outline_side
        if network.outline is None or (height, width) != (side, side):
            raise InputError(
                f"The U-Net of {model.config.name} takes an outline of {side} x {side} from its text, the "
                f"latents are {height} x {width}; give a model whose outline_cells and outline_side fit."
            )
        self.text_encoder = model.text_encoder
        self.outline = network.outline
        self._network = [network]  # in a list: only its outline is trained
        self._model = [model]
        self._training, self._held_out = training, held_out

    def foretold(self, tokens: Tensor) -> Tensor:
        """The outline of texts' tokens (B T L): latents (B C H W)."""
        text = self.text_encoder.encode_tokens(tokens.transpose(0, 1))  # (B T L) -> (T B L)
        assert text.tokens is not None
        return self._network[0].foretold(text.tokens)

    def forward(self, latents: Tensor, tokens: Tensor) -> dict[str, Tensor]:
        """latents (B C H W), tokens (B T L)."""
        return {"loss": (self.foretold(tokens).float() - latents).square().mean()}

    def batch(self, indices: Tensor, step: int, share: slice) -> dict[str, Tensor]:
        return self._arguments(self._training, indices, step, share)

    def _arguments(self, examples: Examples, indices: Tensor, step: int, share: slice) -> dict[str, Tensor]:
        config = self.config
        assert isinstance(config, TextTraining)
        uniforms = torch.rand(3, len(indices), generator=step_generator(config.seed, step, "text"))
        rows = examples.captions.choose(indices, uniforms[0], uniforms[1] < config.caption_dropout)[share]
        latents = examples.latents.draw(indices[share], torch.zeros(1))
        device = self.outline.weight.device
        chosen = uniforms[2, share] < (config.rewording if step != VALIDATION_STEP else 0)
        places = torch.arange(len(indices))[share]
        tokens = in_words(examples.captions, rows, chosen, f"{config.seed} {step}", places, self.text_encoder)
        return {"latents": latents.to(device), "tokens": tokens.to(device)}

    def kept(self) -> tuple[int, int]:
        parts = [part.kept for part in (self._training, self._held_out) if part is not None]
        return sum(latents for latents, _ in parts), sum(tokens for _, tokens in parts)

    def validation(self) -> list[dict[str, Tensor]]:
        if self._held_out is None:
            return []
        count = min(len(self._held_out.latents), 512)
        return [self._arguments(self._held_out, torch.arange(count), VALIDATION_STEP, slice(None))]

    @torch.no_grad()
    def samples(self) -> Tensor | None:
        """What the config's prompts let one expect, decoded: as blurred as the words are vague."""
        config, model = self.config, self._model[0]
        assert isinstance(config, TextTraining)
        if not config.sample_prompts:
            return None
        tokens = self.text_encoder.tokenize(config.sample_prompts).transpose(0, 1)  # (T B L) -> (B T L)
        return model.autoencoder.decode(self.foretold(tokens).float()).float()

    @torch.no_grad()
    def export(self, path: Path, recipe: Mapping[str, Any]) -> None:
        parts = ("text_encoder", native.OUTLINE.removesuffix("."))
        native.save(path, self._model[0], recipe=recipe, parts=parts)
