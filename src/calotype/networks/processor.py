"""What the processor says it can multiply."""

import torch

BF16_UNITS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
"""torch's names of what multiplies bf16 on x86 and ARM processors."""


def multiplies_bf16() -> bool:
    """Whether it has units for bf16, and need not emulate it."""
    if hasattr(torch.cpu, "get_capabilities"):
        return _has(*BF16_UNITS)
    # older versions of torch answer one question, for x86 only
    asked = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return asked is not None and bool(asked())


def multiplies_bf16_in_vectors() -> bool:
    """Whether it is an x86 with vectors of bf16 and without tiles, which PyTorch's attention would use; no
    where torch is too old to say.
    """
    return hasattr(torch.cpu, "get_capabilities") and _has("avx512_bf16") and not _has("amx_bf16")


def _has(*units: str) -> bool:
    there = torch.cpu.get_capabilities()
    return any(there.get(unit, False) for unit in units)
