"""What weighs a noisy picture's estimates."""

import pytest
import torch
from torch import Tensor

from calotype.networks.last_word import LEAST, PARTS, REACH, LastWord
from calotype.tasks import posterior
from calotype.tasks.posterior import regrouped


@pytest.fixture
def trained() -> LastWord:
    """With random weights, every one of them."""
    torch.manual_seed(0)
    network = LastWord()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return network


def parts(height: int, width: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, height, width, generator=generator) for _ in range(PARTS)]


@pytest.mark.parametrize("size", [(1, 1), (4, 9), (20, 12)])
def test_a_fresh_one_agrees_with_the_estimate(size: tuple[int, int]) -> None:
    told = parts(*size)
    assert torch.equal(LastWord()(*told, torch.tensor([0.1, 0.3])), told[-1])


@torch.no_grad()
def test_a_pixel_hangs_on_its_surroundings_and_no_further(trained: LastWord) -> None:
    told, sigma = parts(30, 30), torch.full((2,), 0.2)
    before = trained(*told, sigma)
    told[0][:, :, 15, 15] += 1
    changed = (trained(*told, sigma) != before).flatten(0, 1).any(0).nonzero()  # (K 2)
    assert (changed - 15).abs().max() == REACH


@torch.no_grad()
def test_below_the_noise_it_knows_it_says_the_same_in_smaller(trained: LastWord) -> None:
    """All it sees but the picture itself is in parts of the noise."""
    *told, still = parts(8, 8)
    still.zero_()
    said = [trained(*(part * s for part in told), still, torch.full((2,), s)) / s for s in (LEAST, LEAST / 4)]
    assert (said[0] - said[1]).abs().max() <= 1e-5 * said[0].abs().max()


@torch.no_grad()
def test_row_by_row_it_says_what_it_says_of_the_whole(
    trained: LastWord, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, sigma = parts(40, 23)[0], torch.tensor([0.2])

    def halving(x: Tensor, _: Tensor, /) -> Tensor:
        return x / 2

    alone = regrouped(halving, 0.01, None)(x, sigma)
    whole = regrouped(halving, 0.01, trained)(x, sigma)
    monkeypatch.setattr(posterior, "ROWS", 7)
    by_rows = regrouped(halving, 0.01, trained)(x, sigma)
    assert (whole - alone).abs().max() > 0.01
    assert (by_rows - whole).abs().max() <= 1e-5 * whole.abs().max()
