"""What a linear measurement says of a picture: y = A x0 + sigma_y * noise, joined to a denoiser of x.

Bayes' rule for denoisers is D(x | y) = D(x) + sigma^2 grad log p(y | x), and p(y | x) is close to
N(A D(x), A C A^T + sigma_y^2) with C the covariance of x0 given x.  What is known of C makes the method:
C = r^2 I, r^2 = sigma^2 sd^2 / (sigma^2 + sd^2), is PiGDM's (Song et al. 2023, eq. 7-9).  With the network's
Jacobian, grad log p(y | x) is J^T A^T (r^2 A A^T + sigma_y^2)^-1 (y - A D); without it, J is taken to be
r^2 / sigma^2, as it is where the data are a Gaussian, and the step is DDNM's (arXiv 2212.00490, eq. 17)
projection, softened by the noise of y.  Both are exact for Gaussian data of deviation sd.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from calotype.diffusion.denoiser import Denoiser
from calotype.diffusion.parameterization import expand

TOLERANCE = 1e-5
"""Of conjugate gradients: the residual's size against the right side's."""
ROUNDS = 60
"""Of conjugate gradients, at most."""


class LinearOperator(Protocol):
    """A linear map of pictures (B C H W) to measurements (B c h w), with its adjoint.

    <forward(x), y> = <x, adjoint(y)> for all x and y.
    """

    def forward(self, x: Tensor) -> Tensor: ...

    def adjoint(self, y: Tensor) -> Tensor: ...


def solve(operator: LinearOperator, right: Tensor, gain: float, noise: float) -> Tensor:
    """u with (gain A A^T + noise) u = right, of right's shape.

    By the operator's own `solve(right, gain, noise)` where it has one, else by conjugate gradients
    (Hestenes & Stiefel 1952), each picture of the batch with its own coefficients.
    """
    own = getattr(operator, "solve", None)
    if own is not None:
        found: Tensor = own(right, gain, noise)
        return found

    def product(u: Tensor) -> Tensor:
        return gain * operator.forward(operator.adjoint(u)) + noise * u

    return conjugate_gradients(product, right)


def conjugate_gradients(product: Callable[[Tensor], Tensor], right: Tensor) -> Tensor:
    """u with product(u) = right for a symmetric positive map of batches (B ...)."""

    def inner(a: Tensor, b: Tensor) -> Tensor:
        return expand((a * b).flatten(1).sum(1), a)  # (B) -> (B 1 1 1)

    u = torch.zeros_like(right)
    rest = direction = right
    size = inner(rest, rest)
    goal = TOLERANCE**2 * size
    for _ in range(ROUNDS):
        if bool((size <= goal).all()):
            break
        image = product(direction)
        step = size / inner(direction, image).clamp_min(1e-30)
        u = u + step * direction
        rest = rest - step * image
        size, before = inner(rest, rest), size
        direction = rest + (size / before.clamp_min(1e-30)) * direction
    return u


def measured(
    denoiser: Denoiser,
    operator: LinearOperator,
    y: Tensor,
    sigma_y: float,
    *,
    sigma_data: float = 0.5,
    jacobian: bool = False,
) -> Denoiser:
    """The denoiser that also knows y = operator(x0) + sigma_y * noise: E[x0 | x, y], approximately.

    Args:
        y: (B c h w), or (1 c h w) for all rows.
        sigma_y: 0 or more; 0 makes every answer agree with y, up to the solver's tolerance.
        sigma_data: sd above.
        jacobian: go through the network backwards (PiGDM), at about three times the cost, instead of the
            projection (DDNM).
    """

    def projected(x: Tensor, sigma: Tensor, /) -> Tensor:
        clean = denoiser(x, sigma)
        spread = _spread(sigma, sigma_data)
        pull = solve(operator, y - operator.forward(clean), spread, sigma_y**2)
        return clean + spread * operator.adjoint(pull)

    def through(x: Tensor, sigma: Tensor, /) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            clean = denoiser(x, sigma)
            known = clean.detach()
            spread = _spread(sigma, sigma_data)
            pull = operator.adjoint(solve(operator, y - operator.forward(known), spread, sigma_y**2))
            (gradient,) = torch.autograd.grad(clean, x, pull)
        answer = known + expand(sigma, x) ** 2 * gradient.detach()
        if sigma_y > 0:
            return answer
        rest = solve(operator, y - operator.forward(answer), 1.0, 0.0)  # what the network's slope left over
        return answer + operator.adjoint(rest)

    return through if jacobian else projected


def _spread(sigma: Tensor, sigma_data: float) -> float:
    level = float(sigma.flatten()[0])  # a sampler's rows have one level
    return level**2 * sigma_data**2 / (level**2 + sigma_data**2)
