"""The two ways attention is computed, beside each other and beside the definition."""

import pytest
import torch
from tests.networks.reference import relative_error

from calotype.networks.attention import attend


@pytest.mark.parametrize(("tokens", "seen", "causal"), [(6, 6, False), (6, 6, True), (6, 9, False)])
def test_both_ways_are_the_definition(tokens: int, seen: int, causal: bool) -> None:
    generator = torch.Generator().manual_seed(4)
    query, key, value = (
        torch.randn(2, 3, n, 4, generator=generator, dtype=torch.float64) for n in (tokens, seen, seen)
    )
    wanted = torch.empty_like(query)
    for n in range(tokens):
        last = n + 1 if causal else seen
        weights = torch.exp((query[:, :, n : n + 1] * key[:, :, :last]).sum(-1) / 2.0)  # (B heads L)
        wanted[:, :, n] = (weights[..., None] * value[:, :, :last]).sum(2) / weights.sum(2, keepdim=True)
    with torch.no_grad():
        assert relative_error(attend(query, key, value, causal=causal), wanted) <= 1e-12
    assert relative_error(attend(query, key, value, causal=causal), wanted) <= 1e-12


def test_gradients_by_differences() -> None:
    tensors = [torch.randn(1, 2, 5, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(lambda q, k, v: attend(q, k, v, causal=True), tensors)


def test_large_tables_are_never_held() -> None:
    query = torch.zeros(1, 1, 1025, 2, requires_grad=True)
    assert attend(query, query, query).grad_fn.name() == "ScaledDotProductFlashAttentionForCpuBackward0"
