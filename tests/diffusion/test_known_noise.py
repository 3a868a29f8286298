"""Seeds as people know them: torch's CPU generator against diffusers, CUDA's against published numbers."""

import math

import pytest
import torch
from torch import Tensor

from calotype.diffusion.known_noise import CudaNoise, TorchNoise
from calotype.diffusion.noise import philox, picture_keys
from calotype.diffusion.samplers import SAMPLERS
from calotype.errors import InputError

KNOWN = (CudaNoise, TorchNoise)

# What torch.manual_seed(0) is widely seen to be followed by: torch.randn on a CUDA device, and on the CPU.
CUDA_SEED_0 = """
    -0.9247 -0.4253 -2.6438  0.1452 -0.1209 -0.5797 -0.6229 -0.3284
    -1.0745 -0.3631 -1.6711  2.2655  0.3117 -0.1842  1.2866  1.1820
    -0.1271  1.2169  1.4353  1.0605 -0.4941 -1.4244 -0.7244 -1.2973
     0.0697 -0.0074  1.8969  0.6878 -0.0779 -0.8373  1.3506 -0.2879
"""
CPU_SEED_0 = "-1.1258 -1.1524 -0.2506 -0.4339  0.8487  0.6920 -0.3160 -2.1152"


def numbers(text: str) -> Tensor:
    return torch.tensor([float(word) for word in text.split()])


@pytest.mark.parametrize(("noise", "printed"), [(CudaNoise, CUDA_SEED_0), (TorchNoise, CPU_SEED_0)])
def test_published_numbers(noise: type, printed: str) -> None:
    expected = numbers(printed)
    found = noise([0])(torch.zeros(1, 4, 4, 4)).flatten()[: len(expected)]
    torch.testing.assert_close(found, expected, rtol=0, atol=5.1e-5)


def test_torch_is_diffusers() -> None:
    from diffusers.utils.torch_utils import randn_tensor

    seeds, shape = [7, 8, 2**63, 2**64 - 1], (4, 4, 9, 7)
    theirs = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    ours = TorchNoise(seeds)
    for _ in range(3):
        assert torch.equal(ours(torch.zeros(shape)), randn_tensor(shape, generator=theirs))
    # one picture, one generator; and ComfyUI's first picture of a batch
    single = torch.randn(1, 4, 9, 7, generator=torch.Generator().manual_seed(7))
    assert torch.equal(TorchNoise([7])(torch.zeros(1, 4, 9, 7)), single)
    batch = torch.randn(3, 4, 9, 8, generator=torch.Generator().manual_seed(7))
    assert torch.equal(TorchNoise([7])(torch.zeros(1, 4, 9, 8)), batch[:1])


def test_an_ancestral_run_is_diffusers() -> None:
    """Start and every later draw, in the order in which diffusers takes them."""
    from diffusers import EulerAncestralDiscreteScheduler
    from diffusers.utils.torch_utils import randn_tensor

    scheduler = EulerAncestralDiscreteScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(6)
    generator = torch.Generator().manual_seed(42)
    x = randn_tensor((1, 4, 8, 8), generator=generator) * scheduler.init_noise_sigma
    for step, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        scheduler.scale_model_input(x, step)
        eps = (x - x.tanh()) / sigma  # of a denoiser that answers tanh(x)
        x = scheduler.step(eps, step, x, generator=generator).prev_sample

    noise = TorchNoise([42])
    start = float(scheduler.init_noise_sigma) * noise(torch.zeros(1, 4, 8, 8))
    run = SAMPLERS["euler_a"](lambda x, sigma, /: x.tanh(), start, scheduler.sigmas.double(), noise)  # noqa: ARG005
    *_, last = run
    torch.testing.assert_close(last.x, x, rtol=1e-4, atol=1e-5)


def test_cuda_noise_number_by_number() -> None:
    """Every number from its own counter, written out."""
    seed = (0x12345678 << 32) + 0x9ABCDEF0
    noise = CudaNoise([seed])
    for draw in range(3):
        found = noise(torch.zeros(1, 2, 3, 4)).flatten()
        for place in range(24):
            words = philox([picture_keys([value])[0] for value in (draw, 0, place, 0)], picture_keys([seed]))
            radius = math.sqrt(-2 * math.log((int(words[0][0]) + 0.5) / 2**32))
            number = radius * math.sin((int(words[1][0]) + 0.5) / 2**32 * 2 * math.pi)
            assert float(found[place]) == pytest.approx(number, rel=1e-6, abs=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_noise_is_a_cuda_devices() -> None:
    for seed in (0, 7, 2**32 + 3):
        generator = torch.Generator("cuda").manual_seed(seed)
        noise = CudaNoise([seed])
        for _ in range(3):
            shape = (1, 4, 64, 64)
            theirs = torch.randn(shape, generator=generator, device="cuda").cpu()
            torch.testing.assert_close(noise(torch.zeros(shape)), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("noise", KNOWN)
def test_a_picture_has_its_own_stream(noise: type) -> None:
    seeds, x = [3, 2**40, 11], torch.zeros(3, 4, 6, 5)
    together = noise(seeds)
    draws = [together(x) for _ in range(3)]
    for i, seed in enumerate(seeds):
        alone = noise([seed])
        for draw in draws:
            assert torch.equal(alone(x[:1])[0], draw[i])
    assert not torch.equal(draws[0], draws[1])
    flat = torch.cat([draw.flatten() for draw in draws])
    assert abs(float(flat.mean())) < 0.2
    assert float(flat.std()) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("noise", KNOWN)
def test_dtype_follows_the_state_and_values_do_not(noise: type) -> None:
    single = noise([5])(torch.zeros(1, 4, 4, 4))
    double = noise([5])(torch.zeros(1, 4, 4, 4, dtype=torch.float64))
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    assert torch.equal(single.double(), double)


@pytest.mark.parametrize("noise", KNOWN)
def test_wrong_seeds_and_batches(noise: type) -> None:
    for seed in (-1, 2**64):
        with pytest.raises(InputError, match="seed"):
            noise([seed])
    with pytest.raises(InputError, match="batch of 3"):
        noise([1, 2])(torch.zeros(3, 1, 2, 2))


def test_torchs_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    for noise in KNOWN:
        noise([1])(torch.zeros(1, 4, 4, 4))
    assert torch.equal(torch.get_rng_state(), before)
