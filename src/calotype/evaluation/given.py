"""Measuring networks whose weights nobody may fetch for the user: CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from calotype.errors import InputError

CLIP_WEIGHT = 2.5
"""Hessel et al. 2021 (arXiv 2104.08718), section 3: CLIPScore = 2.5 max(cosine, 0)."""


class Clip:
    """How well pictures fit their captions, by a CLIP in a folder as transformers writes it."""

    def __init__(self, folder: Path) -> None:
        """InputError where the folder or transformers is missing."""
        library = _transformers()
        if not (folder / "config.json").is_file():
            raise InputError(
                f"{folder} holds no CLIP (config.json is missing); name a folder of transformers'."
            )
        try:
            self._model = library.CLIPModel.from_pretrained(folder, local_files_only=True).eval()
            self._tokenizer = library.CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(f"{folder} does not hold a whole CLIP ({_first_line(error)}).") from error

    @torch.no_grad()
    def __call__(self, pictures: Tensor, captions: Sequence[str]) -> Tensor:
        """CLIPScore (N) of uint8 pictures (N 3 H W) and N captions, 0 to 2.5."""
        side = self._model.config.vision_config.image_size
        found = []
        for rows in torch.arange(len(pictures)).split(32):
            scaled = F.interpolate(pictures[rows].float(), (side, side), mode="bicubic", antialias=True)
            pixels = (scaled.clamp(0, 255) / 255 - _CLIP_MEAN) / _CLIP_STD
            words = self._tokenizer(
                [captions[i] for i in rows.tolist()],
                padding=True,
                truncation=True,
                max_length=self._model.config.text_config.max_position_embeddings,
                return_tensors="pt",
            )
            output: Any = self._model(**words, pixel_values=pixels)
            cosine = F.cosine_similarity(output.image_embeds, output.text_embeds)  # (n D) twice -> (n)
            found.append(CLIP_WEIGHT * cosine.clamp(min=0))
        return torch.cat(found)


_CLIP_MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
_CLIP_STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]


def _transformers() -> Any:
    try:
        return import_module("transformers")
    except ImportError:
        raise InputError(
            "CLIPScore needs the package transformers, which is not installed; "
            "run: pip install 'calotype[clip]'."
        ) from None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".")
