"""Decoding where memory is short: in windows by itself, whose seams nobody sees."""

from __future__ import annotations

import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest
import torch
from torch import Tensor

from calotype.checkpoints import memory, native, shelf
from calotype.diffusion.windows import Windows
from calotype.models.latent_diffusion import LatentDiffusion
from calotype.tasks import pixels
from calotype.tasks.generate import Notice, generate
from calotype.tasks.picture import Picture
from calotype.tasks.request import Request


def test_seams_of_the_shipped_decoder_are_invisible() -> None:
    """What windows change is small, and does not change quicker where one ends than elsewhere."""
    model = native.load(shelf.find("icons"))
    image = PIL.Image.new("RGB", (192, 192), "white")
    brush = PIL.ImageDraw.Draw(image)
    brush.ellipse((20, 30, 150, 165), fill=(200, 40, 40))
    brush.rectangle((110, 15, 175, 90), fill=(30, 90, 200))
    latents = pixels.encode_pixels(model, pixels.to_tensor(image), None)[0]
    whole, parts = (
        np.asarray(pixels.decode(model, latents, windows)).astype(float)
        for windows in (None, Windows((24, 24), (16, 16), (False, False)))
    )
    change = parts - whole
    assert 10 * np.log10(255**2 / np.square(change).mean()) > 33
    steps = np.abs(np.diff(change, axis=1)).mean((0, 2))  # (W - 1)
    for border in (8 * model.config.factor, 16 * model.config.factor):  # one window begins, the other ends
        assert steps[border - 1] < 1.5 * steps.mean()


def test_short_memory_makes_windows(tiny_model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Request(prompts="a red apple", width=256, height=128, steps=1, seed=1)
    seen: list[int] = []
    own = tiny_model.autoencoder.decode
    monkeypatch.setattr(
        tiny_model.autoencoder, "decode", lambda z: (seen.append(z.shape[-1] * z.shape[-2]), own(z))[1]
    )
    enough = int(1.5 * memory.decoding(tiny_model.config, 128 * 128)) + 1
    monkeypatch.setattr(memory, "free", lambda _: enough)
    found = list(generate(tiny_model, asked))
    assert [event.text for event in found if isinstance(event, Notice)] == [
        "Memory is short; pictures are decoded in tiles of 128 pixels."
    ]
    assert max(seen) == 32 * 32
    assert len(seen) > 1
    assert [event.image.size for event in found if isinstance(event, Picture)] == [(256, 128)]


def test_a_decoder_that_runs_out_of_memory_is_given_less(
    tiny_model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents, seen = torch.randn(4, 64, 64, generator=torch.Generator().manual_seed(1)), []
    own = tiny_model.autoencoder.decode

    def scarce(z: Tensor) -> Tensor:
        seen.append(z.shape[-1])
        if z.shape[-1] > 16:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return own(z)

    monkeypatch.setattr(tiny_model.autoencoder, "decode", scarce)
    windows = Windows((64, 64), (16, 16), (False, False))
    assert pixels.decode(tiny_model, latents).size == (256, 256)
    assert seen[:2] == [64, 32]
    assert seen[2:] == [16] * len(windows)
    with pytest.raises(torch.OutOfMemoryError):
        pixels.decode(tiny_model, torch.zeros(4, 24, 24))  # no smaller windows would show it enough


def test_free_memory_is_what_the_system_says() -> None:
    found = memory.free(torch.device("cpu"))
    assert found is None or 2**20 < found < 2**50
