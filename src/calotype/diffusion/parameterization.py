"""What a network was trained to put out, told as four numbers a noise level.

`D(x, sigma) = skip * x + out * network(input * x, noise_label)` is the expected clean picture whatever the
training was (EDM, arXiv 2206.00364, eq. 7, carried to every other parameterization).
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol, final

import torch
from torch import Tensor

from calotype.diffusion.schedule import SIGMA_LIMIT, Schedule
from calotype.errors import InputError

FLOW_LABELS = 1000.0
"""Flow networks are told 1000 t (arXiv 2403.03206)."""


@dataclass(frozen=True)
class Coefficients:
    """Each (B): float32, or float64 where sigma was."""

    skip: Tensor
    out: Tensor
    input: Tensor
    noise_label: Tensor


class Parameterization(Protocol):
    """Final classes only: `Noise`, `Clean`, `Velocity`, `Flow`, `Edm`."""

    @property
    def name(self) -> str: ...

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """(B) noise levels, positive, to the coefficients of the denoiser."""
        ...

    def target(self, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """(B C H W), (B C H W), (B): what the raw network should put out at x0 + sigma * noise."""
        ...


def expand(values: Tensor, like: Tensor) -> Tensor:
    """(B) -> (B 1 1 1), as many ones as `like` needs."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def _wide(sigma: Tensor) -> Tensor:
    # In float64, so that a level's coefficients do not depend on its place in the batch: vectorised and
    # scalar float32 logarithms may differ in the last bit.  Apple's GPUs have no float64.
    return sigma.float() if sigma.device.type == "mps" else sigma.double()


def _narrow(sigma: Tensor, *values: Tensor) -> Coefficients:
    dtype = torch.float64 if sigma.dtype == torch.float64 else torch.float32
    return Coefficients(*(value.to(dtype) for value in values))


@final
@dataclass(frozen=True)
class Noise:
    """The network puts out the noise (DDPM, arXiv 2006.11239)."""

    schedule: Schedule
    name: ClassVar[str] = "eps"

    def coefficients(self, sigma: Tensor) -> Coefficients:
        s = _wide(sigma)
        one = torch.ones_like(s)
        return _narrow(sigma, one, -s, (1 + s**2).rsqrt(), self.schedule.step_at(s))

    def target(self, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:  # noqa: ARG002
        return noise


@final
@dataclass(frozen=True)
class Clean:
    """The network puts out the clean picture."""

    schedule: Schedule
    name: ClassVar[str] = "x0"

    def coefficients(self, sigma: Tensor) -> Coefficients:
        s = _wide(sigma)
        one = torch.ones_like(s)
        return _narrow(sigma, torch.zeros_like(s), one, (1 + s**2).rsqrt(), self.schedule.step_at(s))

    def target(self, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:  # noqa: ARG002
        return x0


@final
@dataclass(frozen=True)
class Velocity:
    """The network puts out v = (noise - sigma x0) / sqrt(1 + sigma^2) (arXiv 2202.00512, section 4)."""

    schedule: Schedule
    name: ClassVar[str] = "v"

    def coefficients(self, sigma: Tensor) -> Coefficients:
        s = _wide(sigma)
        shrink = (1 + s**2).rsqrt()
        return _narrow(sigma, 1 / (1 + s**2), -s * shrink, shrink, self.schedule.step_at(s))

    def target(self, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        s = expand(sigma, x0)
        return (noise - s * x0) / (1 + s**2).sqrt()


@final
@dataclass(frozen=True)
class Flow:
    """The network puts out noise - x0, the velocity of (1 - t) x0 + t noise (arXiv 2403.03206)."""

    name: ClassVar[str] = "flow"

    def coefficients(self, sigma: Tensor) -> Coefficients:
        s = _wide(sigma)
        shrink = 1 / (1 + s)
        # at the cap, which stands for infinity, the network hears t = 1
        time = torch.where(s >= SIGMA_LIMIT, 1.0, s * shrink)
        return _narrow(sigma, shrink, -s * shrink, shrink, FLOW_LABELS * time)

    def target(self, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:  # noqa: ARG002
        return noise - x0


@final
@dataclass(frozen=True)
class Edm:
    """EDM's preconditioning (arXiv 2206.00364, table 1); `sigma_data` is the data's standard deviation."""

    sigma_data: float = 0.5
    name: ClassVar[str] = "edm"

    def coefficients(self, sigma: Tensor) -> Coefficients:
        s, data = _wide(sigma), self.sigma_data
        shrink = (s**2 + data**2).rsqrt()
        return _narrow(sigma, (data * shrink) ** 2, s * data * shrink, shrink, s.log() / 4)

    def target(self, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        s, data = expand(sigma, x0), self.sigma_data
        return (s * x0 - data**2 * noise) / (data * (s**2 + data**2).sqrt())


def parameterization(name: str, schedule: Schedule, sigma_data: float = 0.5) -> Parameterization:
    """The parameterization of that name: eps, x0, v, flow or edm.

    Raises:
        InputError: there is none of that name.
    """
    match name:
        case Noise.name:
            return Noise(schedule)
        case Clean.name:
            return Clean(schedule)
        case Velocity.name:
            return Velocity(schedule)
        case Flow.name:
            return Flow()
        case Edm.name:
            return Edm(sigma_data)
    raise InputError(f"No parameterization is called {name!r}; choose eps, x0, v, flow or edm.")
