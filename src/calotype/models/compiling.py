"""`torch.compile` for the networks of a model, never for samplers.

Only where a person asks for it: the first step of every shape of latents waits for a compiler.
"""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec

import torch
from torch import nn

from calotype.errors import InputError
from calotype.models.latent_diffusion import LatentDiffusion
from calotype.networks.autoencoder import Autoencoder

COMPILERS = {"CXX": ("g++", "clang++"), "CC": ("gcc", "clang", "cc")}
"""What torch's compiler calls, by the variable that names another."""


def check_compiler(device: torch.device) -> None:
    """InputError where torch cannot compile for the device: on a CPU it writes C++, on a GPU Triton's code,
    whose launcher is C.
    """
    variable, needed = ("CXX", "C++") if device.type == "cpu" else ("CC", "C")
    if device.type != "cpu" and find_spec("triton") is None:
        raise InputError("Compiling for a GPU needs the package triton; install it, or do not compile.")
    named = os.environ.get(variable)
    candidates = COMPILERS[variable] if named is None else (named,)
    if not any(shutil.which(name) for name in candidates):
        raise InputError(
            f"Compiling needs a {needed} compiler, and {' or '.join(candidates)} is not to be found; install "
            f"one, name it in {variable}, or do not compile."
        )


def compile_networks(model: LatentDiffusion) -> None:
    """From their next call on U-Net and decoder run as compiled code, in place: the same functions, rounded
    otherwise.

    Raises InputError where there is no compiler.
    """
    check_compiler(model.device)
    networks: list[nn.Module] = [model.denoiser.network]
    if isinstance(model.autoencoder, Autoencoder):
        networks.append(model.autoencoder.decoder)
    for network in networks:
        network.compile(dynamic=False)


def compile_as(network: nn.Module, twin: nn.Module) -> None:
    """Has a network's twin under LoRAs compiled where the network is: a copy of a module is not."""
    for path, own in network.named_modules():
        if own._compiled_call_impl is not None:
            twin.get_submodule(path).compile(dynamic=False)
