"""Autoencoder, text encoder and denoiser together: the model that everything else works with."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from calotype.conditioning.conditioning import Conditioning
from calotype.conditioning.text import TextEncoder
from calotype.conditioning.tokenizer import Tokenizer
from calotype.diffusion.denoiser import Denoiser, as_denoiser
from calotype.diffusion.parameterization import Parameterization, parameterization
from calotype.diffusion.schedule import FlowSchedule, NoiseSchedule
from calotype.models.config import ModelConfig
from calotype.models.controls import Controls
from calotype.models.offload import Offload
from calotype.networks.autoencoder import Autoencoder, IdentityAutoencoder
from calotype.networks.narrow import working_dtype
from calotype.networks.unet import UNet


class NetworkDenoiser(nn.Module):
    """A U-Net with what is known of its training: (x, sigma, condition) to the expected clean latents.

    controls: the ControlNets beside it, to which `Conditioning.control` belongs.
    """

    def __init__(
        self,
        network: UNet,
        parameterization: Parameterization,
        schedule: NoiseSchedule | FlowSchedule,
        controls: Controls | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.parameterization = parameterization
        self.schedule = schedule
        self.controls = controls

    def controlled(self, controls: Controls) -> NetworkDenoiser:
        """The same network, sharing its weights, with ControlNets beside it."""
        return NetworkDenoiser(self.network, self.parameterization, self.schedule, controls)

    def forward(self, x: Tensor, sigma: Tensor, condition: Conditioning) -> Tensor:
        """x = x0 + sigma * noise (B C H W), sigma (B), a condition of B rows -> E[x0] (B C H W) in x's dtype.

        A sigma of one entry serves all rows.

        The network runs in its own dtype; everything outside it stays in x's.
        """
        return self.with_condition(condition)(x, sigma)

    def with_condition(self, condition: Conditioning) -> Denoiser:
        """The denoiser a sampler sees."""
        dtype = working_dtype(self.network)
        return as_denoiser(self.raw(condition.to(dtype=dtype)), self.parameterization, dtype)

    def raw(self, known: Conditioning) -> Callable[[Tensor, Tensor], Tensor]:
        """The network itself under its condition: (input (B C H W), noise_label (B)) -> (B C H W)."""

        def network(x: Tensor, label: Tensor) -> Tensor:
            control = None if self.controls is None else self.controls(x, label, known)
            if known.channels is not None:
                x = torch.cat([x, known.channels], dim=1)  # (B C H W), (B K H W) -> (B C+K H W)
            raw: Tensor = self.network(
                x,
                label,
                known.tokens,
                vector=known.vector,
                label=known.label,
                guidance=known.guidance,
                control=control,
            )
            return raw

        return network


@dataclass(frozen=True)
class LatentDiffusion:
    """A model ready for use.

    weights_hash  SHA-256 of its weights as stored, "" for unsaved ones
    offload       where its networks are kept that only come to work one at a time; None for all at once
    """

    config: ModelConfig
    autoencoder: Autoencoder | IdentityAutoencoder
    text_encoder: TextEncoder
    denoiser: NetworkDenoiser
    weights_hash: str = ""
    offload: Offload | None = None

    def parts(self) -> dict[str, nn.Module]:
        """The modules, by the names under which a checkpoint keeps their tensors."""
        return {
            "autoencoder": self.autoencoder,
            "text_encoder": self.text_encoder,
            "denoiser": self.denoiser,
        }

    def replace(self, **changes: Any) -> LatentDiffusion:
        """The same model with some fields exchanged."""
        return dataclasses.replace(self, **changes)

    def told(self, prompts: Sequence[str]) -> Conditioning:
        """What the denoiser hears of prompts, or of the names of classes, where the model draws these."""
        if self.config.classes:
            return Conditioning(label=torch.tensor([self.config.label_of(prompt) for prompt in prompts]))
        found: Conditioning = self.text_encoder(list(prompts))
        return found

    def bring(self, part: Literal["autoencoder", "text_encoder", "denoiser"]) -> None:
        """Before a part works: where the networks come one at a time, it is this one's turn."""
        if self.offload is not None:
            self.offload.bring(part)

    @property
    def device(self) -> torch.device:
        """Where the denoiser works."""
        return next(self.denoiser.parameters()).device if self.offload is None else self.offload.device

    @property
    def dtype(self) -> torch.dtype:
        """In what the denoiser computes."""
        return working_dtype(self.denoiser) if self.offload is None else self.offload.dtype


def build(config: ModelConfig, tokenizer: Tokenizer | None, seed: int = 0) -> LatentDiffusion:
    """A model with fresh float32 weights; the same config and seed give the same weights.

    Each part draws from its own stream, so that exchanging one leaves the others as they are.  `tokenizer`
    is None exactly where the config has no text; CheckpointError where it does not fit the config.
    """
    schedule = config.schedule.build()
    sizes = config.autoencoder
    autoencoder = seeded(
        seed, "autoencoder", lambda: IdentityAutoencoder() if sizes is None else Autoencoder(sizes)
    )
    text_encoder = seeded(seed, "text_encoder", lambda: TextEncoder(config.text, tokenizer))
    network = seeded(seed, "denoiser", lambda: UNet(config.unet))
    denoiser = NetworkDenoiser(
        network, parameterization(config.parameterization, schedule, config.sigma_data), schedule
    )
    model = LatentDiffusion(config, autoencoder, text_encoder, denoiser)
    for part in model.parts().values():
        part.eval()
    return model


M = TypeVar("M", bound=nn.Module)


def seeded(seed: int, part: str, make: Callable[[], M]) -> M:
    """What `make` makes, its random numbers those of (seed, part) alone."""
    digest = hashlib.sha256(f"{seed}/{part}".encode()).digest()
    with torch.random.fork_rng(devices=[]):  # modules draw from the global generator: put it back
        torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        return make()


@contextmanager
def unfilled() -> Iterator[None]:
    """Modules made inside have shapes but no numbers: for weights that come from a file."""
    with torch.device("meta"), _NoFill():
        yield


class _NoFill(TorchFunctionMode):
    """Leaves out every filling of a tensor; on the meta device they load half a second of Python code."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if func.__name__ in _FILLINGS:
            return args[0] if args else named["tensor"]
        return func(*args, **named)


_FILLINGS = {"normal_", "uniform_", "kaiming_uniform_", "zero_", "zeros_", "ones_", "fill_"}
