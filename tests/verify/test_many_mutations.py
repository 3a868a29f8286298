"""Faults put into the mathematics and the networks on purpose: the quick tests must find every one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

MUTATIONS = {
    # file under src/calotype, what stands there, what is put in its place, the tests that must fail
    "eps: wrong scaling of the input": (
        "diffusion/parameterization.py",
        "return _narrow(sigma, one, -s, (1 + s**2).rsqrt(), self.schedule.step_at(s))",
        "return _narrow(sigma, one, -s, (1 + s).rsqrt(), self.schedule.step_at(s))",
        "diffusion/test_parameterization.py",
    ),
    "v: sign of the target": (
        "diffusion/parameterization.py",
        "return (noise - s * x0) / (1 + s**2).sqrt()",
        "return (s * x0 - noise) / (1 + s**2).sqrt()",
        "diffusion/test_parameterization.py",
    ),
    "flow: time off by its shrinkage": (
        "diffusion/parameterization.py",
        "time = torch.where(s >= SIGMA_LIMIT, 1.0, s * shrink)",
        "time = torch.where(s >= SIGMA_LIMIT, 1.0, shrink)",
        "diffusion/test_parameterization.py",
    ),
    "edm: variance for deviation": (
        "diffusion/parameterization.py",
        "(data * shrink) ** 2, s * data * shrink",
        "(data * shrink) ** 2, s * data**2 * shrink",
        "diffusion/test_parameterization.py",
    ),
    "ddpm: too much fresh noise": (
        "diffusion/samplers.py",
        "up = min(t, eta * t * math.sqrt(max(0.0, 1 - (t / s) ** 2)))",
        "up = min(t, eta * t * math.sqrt(max(0.0, 1 - t / s)))",
        "diffusion/test_samplers.py",
    ),
    "heun: the slope at the end forgotten": (
        "diffusion/samplers.py",
        "x = x + ((t - s) / 2) * (slope + slope_there)",
        "x = x + (t - s) * slope",
        "diffusion/test_sampler_parity.py",
    ),
    "lms: one moment wrong": (
        "diffusion/multistep.py",
        "[1 / (k + 1) for k in range(len(nodes))]",
        "[1 / (k + 2) if k else 1.0 for k in range(len(nodes))]",
        "diffusion/test_sampler_parity.py",
    ),
    "dpm++ 2m: extrapolates twice as far": (
        "diffusion/samplers.py",
        "estimate = denoised + (h / (2 * h_last)) * (denoised - last)",
        "estimate = denoised + (h / h_last) * (denoised - last)",
        "diffusion/test_sampler_parity.py",
    ),
    "dpm++ 3m: bend with the wrong sign": (
        "diffusion/samplers.py",
        "- (phi_2 / span - 0.5) * bend",
        "+ (phi_2 / span - 0.5) * bend",
        "diffusion/test_sampler_parity.py diffusion/test_convergence.py",
    ),
    "unipc: no weight of its own": (
        "diffusion/multistep.py",
        "        return [0.5]\n",
        "        return [1.0]\n",
        "diffusion/test_convergence.py",
    ),
    "lcm: noise of the level it comes from": (
        "diffusion/samplers.py",
        "x = denoised + t * noise(x) if t > 0 else denoised",
        "x = denoised + s * noise(x) if t > 0 else denoised",
        "diffusion/test_samplers.py",
    ),
    "guidance: one too strong": (
        "diffusion/guidance.py",
        "result = toward + (scale - 1) * direct(toward, away)",
        "result = toward + scale * direct(toward, away)",
        "diffusion/test_guidance.py",
    ),
    "apg: the parallel part kept": (
        "diffusion/guidance.py",
        "return direction - along + apg.parallel * along",
        "return direction + apg.parallel * along",
        "diffusion/test_guidance.py",
    ),
    "min-snr: the larger of the two": (
        "diffusion/loss.py",
        "(1 / sigma**2).clamp(max=gamma) * out**2",
        "(1 / sigma**2).clamp(min=gamma) * out**2",
        "diffusion/test_loss.py",
    ),
    "noise: nine rounds of philox": (
        "diffusion/noise.py",
        "for _ in range(10):",
        "for _ in range(9):",
        "diffusion/test_picture_noise.py",
    ),
    "noise: every picture the first one's": (
        "diffusion/noise.py",
        "self._key = picture_keys(self.seeds)",
        "self._key = picture_keys(self.seeds[:1] * len(self.seeds))",
        "diffusion/test_picture_noise.py",
    ),
    "attention: no scaling of the scores": (
        "networks/attention.py",
        "scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)",
        "scores = query @ key.transpose(-1, -2)",
        "networks/test_unet.py networks/test_attention.py",
    ),
    "feed-forward: gate and value exchanged": (
        "networks/attention.py",
        "value, gate = self.up(x).chunk(2, dim=-1)",
        "gate, value = self.up(x).chunk(2, dim=-1)",
        "networks/test_unet.py",
    ),
    "residual block: no skip": (
        "networks/layers.py",
        "return h + (x if self.skip is None else self.skip(x))",
        "return h + (0 * x if self.skip is None else self.skip(x))",
        "networks/test_unet.py",
    ),
    "u-net: sizes and pooled text not heard": (
        "networks/unet.py",
        "embedding = embedding + self.vector_embedding(vector.to(dtype))",
        "embedding = embedding + 0 * self.vector_embedding(vector.to(dtype))",
        "networks/test_unet.py",
    ),
    "clip: sees the future": (
        "networks/clip_text.py",
        "projection_bias=True, causal=True)",
        "projection_bias=True, causal=False)",
        "networks/test_clip_text.py",
    ),
    "clip: pooled at the last end token": (
        "networks/clip_text.py",
        "pooled = last[torch.arange(len(tokens), device=tokens.device), end]",
        "pooled = last[:, -1]",
        "networks/test_clip_text.py",
    ),
    "autoencoder: half the divergence": (
        "networks/autoencoder.py",
        "return 0.5 * terms.flatten(1).sum(1)",
        "return 0.25 * terms.flatten(1).sum(1)",
        "networks/test_autoencoder.py",
    ),
    "average: the newest step counts twice": (
        "training/ema.py",
        "newest = 1.0 - (1.0 - 1.0 / step) ** (self.gamma + 1.0)",
        "newest = 1.0 - (1.0 - 1.0 / step) ** (2 * self.gamma + 1.0)",
        "training/test_ema.py",
    ),
    "order: every epoch the same": (
        "training/order.py",
        '_random(self.seed, number, "order")',
        '_random(self.seed, 0, "order")',
        "training/test_order.py",
    ),
    "muon: no memory": (
        "training/muon.py",
        'nesterov = parameter.grad.lerp(state["momentum"], group["momentum"])',
        "nesterov = torch.zeros_like(parameter)",
        "training/test_muon.py",
    ),
    "pickle: every class is harmless": (
        "checkpoints/pickled_machine.py",
        "elif name in HARMLESS:",
        "elif name:",
        "checkpoints/test_pickled_refused.py",
    ),
    "pickle: copies cost nothing": (
        "checkpoints/pickled_machine.py",
        "self.spend(len(pairs))\n                _update",
        "_update",
        "checkpoints/test_pickled_refused.py",
    ),
    "pickle: arguments cost nothing": (
        "checkpoints/pickled_machine.py",
        "        self.spend(len(arguments))\n",
        "",
        "checkpoints/test_pickled_refused.py",
    ),
    "pickle: shapes of any length": (
        "checkpoints/pickled_calls.py",
        "len(values) > DIMENSION_LIMIT",
        "len(values) > 10**9",
        "checkpoints/test_pickled_refused.py",
    ),
    "zip: the name in front of a file is not looked at": (
        "checkpoints/torch_file.py",
        "or repeated != raw or",
        "or",
        "checkpoints/test_torch_file.py",
    ),
    "old layout: the length on disk is not looked at": (
        "checkpoints/torch_file.py",
        "!= storage.whole:",
        "< storage.whole - 10**9:",
        "checkpoints/test_torch_file.py",
    ),
    "tensor: one element beyond its storage": (
        "checkpoints/weights_file.py",
        "span(value.shape, value.stride) > room)",
        "span(value.shape, value.stride) > room + 1)",
        "checkpoints/test_pickled.py",
    ),
    "tensor: not copied into place": (
        "checkpoints/weights_file.py",
        "if place.start % size:",
        "if place.start % size < 0:",
        "checkpoints/test_weights_file.py",
    ),
    "safetensors: overlaps are let through": (
        "checkpoints/safetensors_file.py",
        "if extents[name].start != end:",
        "if extents[name].start > end:",
        "checkpoints/test_safetensors_file.py",
    ),
}


def copied(folder: Path) -> Path:
    """The package without its weights."""
    return Path(
        shutil.copytree(
            ROOT / "src" / "calotype",
            folder / "calotype",
            ignore=shutil.ignore_patterns("weights", "__pycache__"),
        )
    )


def outcome(folder: Path, tests: str) -> subprocess.CompletedProcess[str]:
    """What the tests say of the package in `folder`."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider"]
        + [f"tests/{name}" for name in tests.split()],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("fault", MUTATIONS)
def test_the_place_of_the_fault_is_still_there(fault: str) -> None:
    """A quick test, so that a change of the code which loses a fault is seen at once."""
    name, there, _, _ = MUTATIONS[fault]
    text = (ROOT / "src" / "calotype" / name).read_text(encoding="utf-8")
    assert text.count(there) == 1, f"{name} has changed; write this mutation anew"


@pytest.mark.verify
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", MUTATIONS)
def test_the_fault_is_found(fault: str, tmp_path: Path) -> None:
    name, there, instead, tests = MUTATIONS[fault]
    path = copied(tmp_path) / name
    path.write_text(path.read_text(encoding="utf-8").replace(there, instead), encoding="utf-8")
    done = outcome(tmp_path, tests)
    assert done.returncode == 1, done.stdout + done.stderr  # 1: tests ran, and some failed
    # A claim that failed, not a module that could not be read or a name that is not there.
    assert any(sign in done.stdout for sign in ("AssertionError", "assert ", "DID NOT RAISE")), done.stdout


@pytest.mark.verify
@pytest.mark.timeout(600)
def test_without_a_fault_they_pass(tmp_path: Path) -> None:
    copied(tmp_path)
    probe = "import calotype; print(calotype.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", probe],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(tmp_path) in found.stdout, "the copy is not what is tested"
    names = sorted({name for *_, tests in MUTATIONS.values() for name in tests.split()})
    done = outcome(tmp_path, " ".join(names))
    assert done.returncode == 0, done.stdout + done.stderr
