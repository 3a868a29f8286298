"""Models with random weights, every parameter of them, so that every layer has a say in the picture."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # A worker for each core, so one thread for each: threads that wait for one another by spinning
    # take the cores from each other, and the suite takes three times as long.
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}

# a tenth of a second for every picture of a made-up model; tests/safety turns it on
os.environ.setdefault("CALOTYPE_CONTENT_CHECK", "off")

if TYPE_CHECKING:
    from calotype.models.config import ModelConfig
    from calotype.models.latent_diffusion import LatentDiffusion


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--errors", action="store_true", help="print how far each test's networks disagree")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not config.getoption("--errors"):
        return
    from tests.networks.reference import ERRORS

    terminalreporter.section("largest relative errors, max |a - b| / max |b|")
    for test, error in sorted(ERRORS.items()):
        terminalreporter.write_line(f"{error:.1e}  {test}")


CAPTIONS = ["a red apple", "a green car", "one two three four five six", "一个红苹果", "绿色的汽车"]


def random_model(config: ModelConfig) -> LatentDiffusion:
    import torch

    from calotype.conditioning.tokenizer import Tokenizer
    from calotype.models.latent_diffusion import build

    tokenizer = Tokenizer.train(CAPTIONS, size=600, context_length=16)
    model = build(config.fitted_to(tokenizer), tokenizer, seed=1)
    generator = torch.Generator().manual_seed(1)
    for part in model.parts().values():
        for parameter in part.parameters():
            fan_in = max(1, parameter[0].numel()) if parameter.ndim > 1 else 4
            with torch.no_grad():
                parameter += torch.randn(parameter.shape, generator=generator) * 0.5 * fan_in**-0.5
    return model


@pytest.fixture(scope="session")
def tiny_model() -> LatentDiffusion:
    from calotype.models.presets import tiny

    return random_model(tiny())


@pytest.fixture(scope="session")
def icons_model() -> LatentDiffusion:
    from calotype.models.presets import icons

    return random_model(icons())


@pytest.fixture(scope="session")
def tiny_file(tiny_model: LatentDiffusion, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from calotype.checkpoints import native

    path = tmp_path_factory.mktemp("models") / "tiny.safetensors"
    native.save(path, tiny_model)
    return path
