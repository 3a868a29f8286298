"""Kernel distance of two sets of features, with its uncertainty (KID: Binkowski et al., arXiv 1801.01401)."""

from __future__ import annotations

from torch import Tensor

from calotype.evaluation.intervals import spread_of_halves


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """(N D), (M D) -> (N M): the cubic kernel (a.b / D + 1)^3."""
    return (a @ b.T / a.shape[1] + 1) ** 3


def mmd(a: Tensor, b: Tensor) -> float:
    """The unbiased squared maximum mean discrepancy of two sets (N D), (M D), N and M at least 2."""
    return _mmd(kernel(a, a), kernel(b, b), kernel(a, b))


def _mmd(aa: Tensor, bb: Tensor, ab: Tensor) -> float:
    n, m = len(aa), len(bb)
    within_a = (aa.sum() - aa.diagonal().sum()) / (n * (n - 1))
    within_b = (bb.sum() - bb.diagonal().sum()) / (m * (m - 1))
    return float(within_a + within_b - 2 * ab.mean())


def kid(a: Tensor, b: Tensor, *, subsets: int = 100, seed: int = 0) -> dict[str, float]:
    """KID of two sets of features (N D), (M D), with a 95 % interval from half-sized random subsets."""
    a, b = a.double(), b.double()
    aa, bb, ab = kernel(a, a), kernel(b, b), kernel(a, b)
    whole = _mmd(aa, bb, ab)

    def of_halves(i: Tensor, j: Tensor) -> float:
        return _mmd(aa[i][:, i], bb[j][:, j], ab[i][:, j])

    spread = spread_of_halves(of_halves, (len(a), len(b)), subsets=subsets, seed=seed)
    return {"kid": whole, "low": whole - 1.96 * spread, "high": whole + 1.96 * spread}
