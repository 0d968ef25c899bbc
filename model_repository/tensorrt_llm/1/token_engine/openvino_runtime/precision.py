"""Settles at load in which precision an OpenVINO engine computes and keeps keys and values.

An engine's files are the same for every CPU; what a CPU has decides how they are run. OpenVINO
2026.4 computes in bf16 where the CPU does (AVX512-BF16, AMX) and in f32 elsewhere, whatever the
hint says. Its paged attention reads a KV cache of bf16 or u8 with arithmetic in bf16, and one of
f32, f16 or u8 with f32; any other pair stops the load ("expect kvcache type f32, current: bf16").

An engine's choice is honoured where the CPU can. Where it cannot, the replacement is never less
exact: bf16 becomes f32 in the arithmetic and f16, of the same size, in the KV cache.
f32 in both is possible everywhere, so an exact engine stays exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from token_engine.openvino_runtime.cpu_isa import CpuIsa
from token_engine.openvino_runtime.options import AUTO, OpenVinoOptions


@dataclass(frozen=True)
class Settled:
    """The precisions that the engine runs in, and why."""

    precision: str  # of the arithmetic: "bf16" or "f32"
    kv_cache_precision: str  # "bf16", "f32", "f16" or "u8"
    reason: str  # one sentence, without its full stop

    def __str__(self) -> str:
        return f"{self.precision}, KV cache in {self.kv_cache_precision}: {self.reason}"


def settle(
    options: OpenVinoOptions, cpu: CpuIsa, fits: Callable[[str, str], bool] = lambda *_: True
) -> Settled:
    """`fits` tells whether an arithmetic and a KV cache in these precisions have the memory.

    Only a KV cache that is left open ("auto") depends on the memory.
    """
    precision, why = _arithmetic(options, cpu)
    kv_cache, kv_why = _kv_cache(options, precision, fits)
    return Settled(precision, kv_cache, "; ".join(part for part in (why, kv_why) if part))


def _arithmetic(options: OpenVinoOptions, cpu: CpuIsa) -> tuple[str, str]:
    if options.precision == "f32":
        return "f32", "the engine names f32"
    if options.kv_cache_precision == "f32":
        return "f32", "the engine names a KV cache in f32, which needs arithmetic in f32"
    if cpu.has_bf16:
        return "bf16", f"the CPU has {cpu}"
    if options.precision == AUTO:
        return "f32", f"the CPU has {cpu} and does not compute bf16"
    return "f32", f"the engine names bf16, which the CPU with {cpu} does not compute"


def _kv_cache(
    options: OpenVinoOptions, precision: str, fits: Callable[[str, str], bool]
) -> tuple[str, str]:
    named = options.kv_cache_precision
    if named == AUTO:
        if options.precision == "f32":
            return "f32", ""  # f32 without more means the exact engine
        half = "bf16" if precision == "bf16" else "f16"
        if fits(precision, half) or not fits(precision, "u8"):
            return half, ""
        return "u8", f"the KV cache is in u8, as there is not the memory for one in {half}"
    if precision == "bf16" and named == "f16":
        return "bf16", "the KV cache is in bf16, as arithmetic in bf16 reads none in f16"
    if precision == "f32" and named == "bf16":
        return "f16", "the KV cache is in f16, as arithmetic in f32 reads none in bf16"
    return named, ""
