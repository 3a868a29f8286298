import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calotype.diffusion.noise import PictureNoise, normal, permutation, philox, uniform
from calotype.errors import InputError

# Random123's published known answers for philox4x32, 10 rounds: counter, key, result.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[np.ndarray]:
    return [np.array([int(word, 16)], dtype=np.uint64) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_philox_gives_the_published_answers(counter: str, key: str, result: str) -> None:
    assert [f"{int(word[0]):08x}" for word in philox(words(counter), words(key))] == result.split()


def test_noise_stays_what_it_was() -> None:
    # A picture's seed is a promise: these numbers must never change.
    noise = PictureNoise([7])
    first = noise(torch.zeros(1, 5, 1, 2)).flatten()
    second = noise(torch.zeros(1, 1, 1, 1)).flatten()
    expected = [0.00029157, 0.3764035, -0.30484697, -1.2870117, 1.7887573, 1.8115039]
    expected += [1.0678725, -0.49124092, 0.5599218, 0.2869767, -0.55848283]
    torch.testing.assert_close(torch.cat([first, second]), torch.tensor(expected), rtol=0, atol=1e-6)


@settings(deadline=None, derandomize=True)
@given(
    seeds=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5),
    draw=st.integers(0, 2**32 - 2),
    order=st.randoms(use_true_random=False),
    channels=st.integers(1, 9),
)
def test_a_rows_noise_is_its_seeds_alone(seeds: list[int], draw: int, order, channels: int) -> None:
    shape = (channels, 3, 5)
    together = PictureNoise(seeds, draw)(torch.zeros(len(seeds), *shape))
    places = list(range(len(seeds)))
    order.shuffle(places)
    shuffled = PictureNoise([seeds[i] for i in places], draw)(torch.zeros(len(seeds), *shape))
    assert torch.equal(shuffled, together[places])
    for i, seed in enumerate(seeds):
        assert torch.equal(PictureNoise([seed], draw)(torch.zeros(1, *shape))[0], together[i])


def test_draws_are_counted_and_resumed() -> None:
    x = torch.zeros(2, 4, 6, 6)
    through = PictureNoise([1, 2])
    draws = [through(x) for _ in range(4)]
    assert through.draw == 4
    resumed = PictureNoise([1, 2], draw=2)
    assert torch.equal(resumed(x), draws[2])
    assert torch.equal(resumed(x), draws[3])
    assert not torch.equal(draws[0], draws[1])


def test_picture_coordinates() -> None:
    whole = PictureNoise([5])(torch.zeros(1, 6, 20, 30))
    assert torch.equal(PictureNoise([5])(torch.zeros(1, 6, 9, 11)), whole[:, :, :9, :11])
    assert torch.equal(PictureNoise([5])(torch.zeros(1, 3, 20, 30)), whole[:, :3])
    tile = PictureNoise([5], offset=(7, 13))(torch.zeros(1, 6, 9, 11))
    assert torch.equal(tile, whole[:, :, 7:16, 13:24])


def test_dtype_follows_the_state() -> None:
    single = PictureNoise([5])(torch.zeros(1, 4, 4, 4))
    double = PictureNoise([5])(torch.zeros(1, 4, 4, 4, dtype=torch.float64))
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    assert torch.equal(single.double(), double)


def test_noise_is_normal_and_uncorrelated() -> None:
    noise = PictureNoise([0, 1, 2**32, 2**63])
    first, second = noise(torch.zeros(4, 8, 64, 64)), noise(torch.zeros(4, 8, 64, 64))
    flat = first.flatten().double().sort().values
    count = len(flat)
    chances, steps = torch.special.ndtr(flat), torch.arange(count, dtype=torch.float64) / count
    assert float((chances - steps).abs().max()) < 1.95 / count**0.5  # Kolmogorov-Smirnov at 1 in 1000
    pairs = {
        "seed": (first[:3], first[1:]),
        "channel": (first[:, :7], first[:, 1:]),
        "group": (first[:, :4], first[:, 4:]),
        "row": (first[:, :, 1:], first[:, :, :-1]),
        "column": (first[..., 1:], first[..., :-1]),
        "draw": (first, second),
        "mirror": (first, first.transpose(2, 3)),
    }
    for name, (a, b) in pairs.items():
        bound = 4 / a.numel() ** 0.5
        if name == "mirror":  # the diagonal is itself, and every pair counts twice
            away = ~torch.eye(64, dtype=torch.bool).expand_as(a)
            a, b, bound = a[away], b[away], bound * 1.5
        assert abs(float((a * b).mean())) < bound, name
        assert abs(float((a.square() * b.square()).mean()) - 1) < 4 * bound, name


def test_uniform() -> None:
    values = uniform(3, 0, 50_000)
    assert values.dtype == torch.float64
    assert 0 < float(values.min()) < float(values.max()) < 1
    steps = torch.arange(50_000, dtype=torch.float64) / 50_000
    assert float((values.sort().values - steps).abs().max()) < 1.95 / 50_000**0.5
    assert torch.equal(uniform(3, 0, 10), values[:10])
    assert not torch.equal(uniform(3, 1, 10), values[:10])
    assert not torch.equal(uniform(4, 0, 10), values[:10])


def test_normal() -> None:
    values = normal(3, 0, 50_000)
    chances, steps = (
        torch.special.ndtr(values.sort().values),
        torch.arange(50_000, dtype=torch.float64) / 50_000,
    )
    assert float((chances - steps).abs().max()) < 1.95 / 50_000**0.5
    # another stream than the uniform numbers and the pictures of the same seed: the radius would show
    assert abs(float((values.square() * (uniform(3, 0, 50_000) - 0.5)).mean())) < 4 * 0.5 / 50_000**0.5
    picture = PictureNoise([3])(torch.zeros(1, 1, 1, 50_000)).flatten()
    assert abs(float((values * picture).mean())) < 4 / 50_000**0.5


def test_permutation() -> None:
    order = permutation(9, 2, 1000)
    assert torch.equal(order.sort().values, torch.arange(1000))
    assert torch.equal(order, permutation(9, 2, 1000))
    assert not torch.equal(order, permutation(9, 3, 1000))
    assert (order == torch.arange(1000)).sum() < 10
    firsts = torch.stack([permutation(1, draw, 4) for draw in range(4000)])[:, 0]
    assert ((firsts.bincount() - 1000).abs() < 110).all()  # 4 sigma


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_out_of_range(seed: int) -> None:
    with pytest.raises(InputError, match="seed"):
        PictureNoise([seed])


def test_another_batch() -> None:
    with pytest.raises(InputError, match="batch of 3"):
        PictureNoise([1, 2])(torch.zeros(3, 1, 2, 2))
