"""Mixed precision by name, for training and prediction alike."""

from __future__ import annotations

import functools
from pathlib import Path

import torch

from covseg_ray.errors import ConfigError

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def autocast_dtype(device: torch.device, precision: str = "auto") -> torch.dtype | None:
    """The type that ``torch.autocast`` computes in, or None for plain float32.

    ``auto`` is bfloat16 where the chip gains by it (AMX, AMD's AVX-512 BF16, CUDA from Ampere on), float32 elsewhere.

    Raises:
        ConfigError: an unknown precision, or ``fp16`` without a GPU.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision: unknown {precision!r}; choose one of {', '.join(PRECISIONS)}")
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("precision: fp16 needs a GPU; choose auto, fp32 or bf16")
    if precision == "auto":
        precision = "bf16" if _multiplies_bf16(device) else "fp32"
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def autocast(device: torch.device, precision: str = "auto", cache: bool = True) -> torch.autocast:
    """The context in which a network is called; with ``cache`` weights are cast once in it."""
    dtype = autocast_dtype(device, precision)
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None, cache_enabled=cache)


def knows_bf16(device: torch.device) -> bool:
    """Whether there are instructions for bfloat16 at all, be they slower than those for float32: AVX-512's on CPUs."""
    if device.type == "cuda":
        return True
    return bool(torch._C._has_mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _multiplies_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32. Intel's AVX-512 form alone is not: the same rate, more conversions."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if torch.cpu._is_amx_tile_supported():
        return True
    return bool(torch.cpu._is_avx512_bf16_supported()) and "AuthenticAMD" in _processor()


@functools.cache
def _processor() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
