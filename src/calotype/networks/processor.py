"""What the processor says it can multiply."""

import torch


def told() -> frozenset[str]:
    """torch's names of what it has."""
    if hasattr(torch.cpu, "get_capabilities"):
        return frozenset(name for name, there in torch.cpu.get_capabilities().items() if there is True)
    # older versions of torch answer one question, for x86 only, and do not say whether by vectors or tiles
    asked = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return frozenset({"bf16"} if asked is not None and asked() else ())


UNITS = told()
"""Asked once, since compiled networks cannot ask."""
OF_BF16 = frozenset({"avx512_bf16", "amx_bf16", "bf16", "sve_bf16"})
"""Of these, what multiplies bf16 on x86 and ARM processors."""
OF_FP16 = frozenset({"avx512_fp16", "amx_fp16", "fp16_arith"})


def multiplies(dtype: torch.dtype) -> bool:
    """Whether it has units for such numbers, and need not emulate them."""
    if dtype == torch.bfloat16:
        return multiplies_bf16()
    return dtype != torch.float16 or not UNITS.isdisjoint(OF_FP16)


def multiplies_bf16() -> bool:
    """Whether it has units for bf16."""
    return not UNITS.isdisjoint(OF_BF16)


def multiplies_bf16_in_vectors() -> bool:
    """Whether it is an x86 with vectors of bf16 and without tiles, which PyTorch's attention would use; no
    where torch is too old to say.
    """
    return "avx512_bf16" in UNITS and "amx_bf16" not in UNITS
