"""The ways attention is computed, beside each other and beside the definition."""

import pytest
import torch
import torch.nn.functional as F
from tests.networks.reference import relative_error

from calotype.networks import attention, processor
from calotype.networks.attention import attend, by_products


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


def three(tokens: int, seen: int, dtype: torch.dtype, size: float = 1.0) -> list[torch.Tensor]:
    """Queries, keys and values of two pictures and heads; the keys have a part in common."""
    generator = torch.Generator().manual_seed(4)
    query, key, value = (torch.randn(2, 2, n, 40, generator=generator) for n in (tokens, seen, seen))
    key += torch.randn(2, 2, 1, 40, generator=generator)
    return [x.to(dtype) for x in (size * query, key, value)]


def test_products_are_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "SCORES", 100)  # some rows at once, the last time fewer
    query, key, value = three(20, 30, torch.float64)
    assert relative_error(by_products(query, key, value), attend(query, key, value)) <= 1e-12


@pytest.mark.parametrize("size", [0.3, 1.0, 4.0, 20.0])
def test_products_of_16_bits_round_little(size: float) -> None:
    """Though the scores are large, here up to 300: rounded as they are, they would cost 0.01 and more."""
    query, key, value = three(32, 512, torch.bfloat16, size)
    exact = F.scaled_dot_product_attention(query.double(), key.double(), value.double())

    def error(found: torch.Tensor) -> float:
        return float((found - exact).norm() / exact.norm())

    assert error(by_products(query, key, value)) < 0.006
    assert error(F.scaled_dot_product_attention(query, key, value)) < 0.003  # PyTorch's, beside it


@pytest.mark.parametrize("strength", [3.0, 6.0, 20.0])
def test_products_of_alike_neighbours_round_little(strength: float) -> None:
    """Queries that look for their own place on a map whose neighbours are alike, as in a picture."""
    generator = torch.Generator().manual_seed(0)
    near = torch.exp(-torch.arange(-6.0, 7.0).square() / 8)
    near /= near.square().sum().sqrt()
    maps = torch.randn(40, 1, 32, 32, generator=generator)
    maps = F.conv2d(maps, near[None, None, :, None], padding="same")
    maps = F.conv2d(maps, near[None, None, None, :], padding="same")
    key = maps.flatten(1).T[None, None].bfloat16()  # (40 1 32 32) -> (1 1 1024 40)
    query = (strength * key)[:, :, ::8]
    value = torch.randn(1, 1, 1024, 40, generator=generator).bfloat16()
    exact = F.scaled_dot_product_attention(query.double(), key.double(), value.double())
    found = by_products(query, key, value)
    assert (found - exact).norm() < 0.0045 * exact.norm()
    rounded = (query.float() @ key.float().mT * 40**-0.5).bfloat16().softmax(-1) @ value
    assert (rounded - exact).norm() > 0.02 * exact.norm()  # what the column is for


@torch.no_grad()
def test_products_serve_where_the_processor_has_vectors_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "MANY", 64)
    query, key, value = three(16, 64, torch.bfloat16)
    plain, other = F.scaled_dot_product_attention(query, key, value), by_products(query, key, value)
    wide = [x.float() for x in (query, key, value)]
    by_float32 = F.scaled_dot_product_attention(*wide).bfloat16()
    assert not torch.equal(plain, other)
    assert not torch.equal(plain, by_float32)
    for units, expected in (
        ({"avx512_bf16"}, other),
        ({"avx512_bf16", "amx_bf16"}, plain),
        ({"avx2"}, by_float32),
    ):
        monkeypatch.setattr(processor, "UNITS", units)
        assert processor.multiplies_bf16_in_vectors() == (expected is other)
        assert torch.equal(attend(query, key, value), expected)
    monkeypatch.setattr(processor, "UNITS", {"avx512_bf16"})
    single = attend(query[:1], key[:1], value[:1])
    assert torch.equal(attend(query, key, value)[:1], single)  # whatever is beside it
    assert torch.equal(
        attend(query, key[..., :63, :], value[..., :63, :]),
        F.scaled_dot_product_attention(query, key[..., :63, :], value[..., :63, :]),
    )
    assert torch.equal(attend(*wide), F.scaled_dot_product_attention(*wide))
