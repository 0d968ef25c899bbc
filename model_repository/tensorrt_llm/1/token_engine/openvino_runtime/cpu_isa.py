"""What this CPU can compute, as OpenVINO and oneDNN see it.

Both read CPUID, and both can be limited by the environment: OpenVINO's own kernels by
`OV_CPU_MAX_ISA`, oneDNN's by `ONEDNN_MAX_CPU_ISA` (each to AVX2, AVX512_CORE, AVX512_CORE_BF16 and
so on). Set to the same value, they make a CPU behave like a lesser one: so the tests run the AVX2
path on any machine. This module honours the same limit. It imports no OpenVINO:
the build and `make doctor` use it too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

LIMITS = ("OV_CPU_MAX_ISA", "ONEDNN_MAX_CPU_ISA")  # as the libraries read them, in any case
OLD_NAME = "DNNL_MAX_CPU_ISA"  # which oneDNN still reads
# What each limit still allows of LEVELS. A name that the libraries do not know limits nothing.
ALLOWED = {
    "SSE41": 0,
    "SSE42": 0,
    "AVX": 0,
    "AVX2": 1,
    "AVX2_VNNI": 1,
    "AVX2_VNNI_2": 1,
    "AVX512_CORE": 2,
    "AVX512_CORE_VNNI": 2,
    "AVX512_CORE_BF16": 3,
    "AVX512_CORE_FP16": 3,
}
# (label, flags of /proc/cpuinfo), each level on top of those before it. The flags are those whose
# absence makes the libraries fall back.
LEVELS = (
    ("AVX2", frozenset({"avx2", "fma"})),
    ("AVX-512", frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq"})),
    ("AVX512-BF16", frozenset({"avx512_bf16"})),
    ("AMX", frozenset({"amx_bf16", "amx_tile"})),
)
WITHOUT_BF16 = 2
NO_KERNELS = "without which OpenVINO has no kernels for 4-bit weights"
CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class CpuIsa:
    """The vector units that count here. `level` is how many of `LEVELS` the CPU has."""

    level: int
    limit: str = ""  # "OV_CPU_MAX_ISA=AVX2", where the environment limits a CPU that has more

    @property
    def has_avx2(self) -> bool:
        """Without it OpenVINO has no kernel for 4-bit weights."""
        return self.level >= 1

    @property
    def has_bf16(self) -> bool:
        """Whether it computes in bf16, and does not emulate it."""
        return self.level > WITHOUT_BF16

    def __str__(self) -> str:
        name = LEVELS[self.level - 1][0] if self.level else "no AVX2"
        return f"{name} (limited by {self.limit})" if self.limit else name

    @property
    def lack(self) -> str:
        """The sentence that says why OpenVINO cannot compute here; "" if it can."""
        if self.has_avx2:
            return ""
        if self.limit:
            return f"{self.limit} hides the CPU's AVX2, {NO_KERNELS}; remove that limit"
        return (
            f"the CPU has no AVX2, {NO_KERNELS}; "
            "serve on a CPU that has it (Intel since 2013, AMD since 2015)"
        )


def find_cpu_isa(cpuinfo: Path = CPUINFO, environment: Mapping[str, str] | None = None) -> CpuIsa:
    """This machine's vector units; none if the CPU cannot be read."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    flags = next((line.partition(":")[2] for line in lines if line.startswith("flags")), "")
    level = 0
    for _, needed in LEVELS:
        if not needed <= set(flags.split()):
            break
        level += 1
    names = _limits(os.environ if environment is None else environment)
    allowed = min((ALLOWED[name] for name in names.values()), default=level)
    if allowed >= level:
        return CpuIsa(level)
    narrowest = [f"{key}={name}" for key, name in names.items() if ALLOWED[name] == allowed]
    return CpuIsa(allowed, " and ".join(narrowest))


def _limits(environment: Mapping[str, str]) -> dict[str, str]:
    """The limits that are set to a name that the libraries know: variable -> name."""
    names = {key: environment.get(key, "").upper() for key in (*LIMITS, OLD_NAME)}
    return {key: name for key, name in names.items() if name in ALLOWED}
