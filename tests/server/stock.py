"""What a server with add-ons serves: two tiny models, one to guide, and a folder with one of each kind."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import torch
from safetensors.torch import save_file
from tests.checkpoints.families import CONFIGS, TOKENIZER, UNET1
from tests.checkpoints.test_control_files import HINT
from tests.networks.reference import randomise
from tests.tasks.test_additions import write

from calotype.checkpoints import diffusers_names, native
from calotype.models.latent_diffusion import LatentDiffusion, build
from calotype.networks.config import ControlNetConfig
from calotype.networks.controlnet import ControlNet


def stock(place: Path, tiny: LatentDiffusion) -> tuple[dict[str, Path], Path]:
    """The models tiny, second and sd15, and the folder of a LoRA, a textual inversion and a ControlNet."""
    folder, models = place / "folder", place / "models"
    (folder / "style").mkdir(parents=True)
    models.mkdir()
    write(folder / "style" / "flat.safetensors", tiny, 1)
    save_file({"emb_params": torch.randn(2, tiny.config.text[0].clip.width)}, folder / "easy.safetensors")
    net = ControlNet(ControlNetConfig(UNET1, hint_channels=HINT))
    randomise(net)
    save_file(diffusers_names.controlnet().write(net.state_dict()), folder / "canny.safetensors")
    (folder / "broken.safetensors").write_bytes(b"nothing")
    native.save(models / "tiny.safetensors", tiny)
    second = copy.deepcopy(tiny)
    randomise(second.denoiser)
    native.save(models / "second.safetensors", second)
    # small pictures: 512 pixels a side are more than a test should draw
    guided = build(dataclasses.replace(CONFIGS["sd1"], size=32), TOKENIZER)
    randomise(guided.denoiser)  # a fresh one looks at nothing
    native.save(models / "sd15.safetensors", guided)
    return {path.stem: path for path in models.iterdir()}, folder
