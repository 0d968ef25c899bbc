"""What this machine is, which engine runtimes fit it, and why the others do not.

Looks only; exit code 0 if some runtime that computes fits, 1 if none does.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from build_console import say
from triton_installation import (
    LIBPYTHON,
    PYTHON,
    SUPPORTED_PYTHONS,
    TritonNotFound,
    find_triton,
)

STAGING = Path(__file__).resolve().parent / "out" / "triton"
BLACKWELL = ("10.0", "10.3", "12.0", "12.1")  # the compute capabilities with FP4 tensor cores
NVIDIA_SMI_S = 20.0


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU as nvidia-smi tells of it."""

    name: str
    compute_capability: str
    memory_mib: str
    driver: str


@dataclass(frozen=True)
class Verdict:
    """Whether a runtime fits this machine, and why."""

    runtime: str
    fits: bool
    reason: str


def main() -> int:
    """Print the whole report."""
    argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0]).parse_args()
    for name, value in machine():
        say(f"{name:<14}{value}")
    say("")
    verdicts = runtimes()
    for verdict in verdicts:
        say(f"{verdict.runtime:<14}{'fits' if verdict.fits else 'no':<6}{verdict.reason}")
    return 0 if any(verdict.fits for verdict in verdicts if verdict.runtime != "replay") else 1


def short_report() -> str:
    """One line for the demo: the machine, the server and the runtime."""
    facts = dict(machine())
    fitting = next((verdict.runtime for verdict in runtimes() if verdict.fits), "none")
    return (
        f"machine: {facts['CPU']}, {facts['memory']}, GPU {facts['GPU']}; Python {PYTHON}, "
        f"tritonserver {facts['tritonserver']}; runtime {fitting}"
    )


def machine() -> Iterator[tuple[str, str]]:
    """(what, value) of everything that decides what can run here."""
    yield (
        "system",
        f"{_distribution()}, {platform.machine()}, glibc {platform.libc_ver()[1] or 'unknown'}",
    )
    yield "CPU", f"{os.cpu_count()} cores, {_vector_units()}"
    yield "memory", f"{_memory_gib():.0f} GiB"
    yield "disk", f"{shutil.disk_usage(Path(__file__).parent).free / 2**30:.0f} GiB free here"
    gpus = find_gpus()
    yield (
        "GPU",
        "; ".join(f"{g.name} (sm{g.compute_capability}, {g.memory_mib} MiB)" for g in gpus)
        or "none",
    )
    if gpus:
        yield "driver", gpus[0].driver
    supported = PYTHON in SUPPORTED_PYTHONS
    yield (
        "Python",
        f"{platform.python_version()}{'' if supported else ', not supported'} ({sys.executable})",
    )
    try:
        triton = find_triton(STAGING)
    except TritonNotFound as error:
        yield "tritonserver", f"none: {error}"
        return
    yield "tritonserver", triton.origin
    path = triton.environment.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    folder = next((p for p in path if p and (Path(p) / LIBPYTHON).is_file()), None)
    yield (
        "libpython",
        f"{folder}/{LIBPYTHON}" if folder else f"{LIBPYTHON}, by the system's own linker path",
    )


def find_gpus() -> list[Gpu]:
    """The NVIDIA GPUs; [] without a driver."""
    query = "--query-gpu=name,compute_cap,memory.total,driver_version"
    try:
        out = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=NVIDIA_SMI_S,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in out.splitlines()]
    return [Gpu(*row) for row in rows if len(row) == 4]


def runtimes() -> list[Verdict]:
    """A verdict on every runtime that is built in, and on those whose checkpoint format it is."""
    gpus = find_gpus()
    return [_openvino(), _tensorrt_llm(gpus), _vllm(gpus), _replay()]


def _openvino() -> Verdict:
    if platform.machine() != "x86_64" or platform.system() != "Linux":
        return Verdict(
            "openvino",
            False,
            f"{platform.system()} on {platform.machine()}, it needs Linux on x86_64",
        )
    version = _version("openvino-genai")
    if version is None:
        return Verdict(
            "openvino", False, "the package openvino-genai is not installed; run 'make install'"
        )
    return Verdict("openvino", True, f"openvino-genai {version}: NVFP4 weights on the CPU")


def _tensorrt_llm(gpus: list[Gpu]) -> Verdict:
    name = "tensorrt_llm"
    fitting = [gpu for gpu in gpus if gpu.compute_capability in BLACKWELL]
    if not fitting:
        had = (
            ", ".join(f"{gpu.name} is sm{gpu.compute_capability}" for gpu in gpus)
            or "there is no NVIDIA GPU"
        )
        return Verdict(name, False, f"{had}; NVFP4 needs Blackwell (sm{', sm'.join(BLACKWELL)})")
    version = _version("tensorrt-llm") or _version("tensorrt_llm")
    if version is None:
        return Verdict(
            name,
            False,
            f"{fitting[0].name} fits, but the package tensorrt_llm is not installed; "
            "use the image nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3",
        )
    return Verdict(
        name,
        False,
        f"{fitting[0].name} and tensorrt_llm {version} fit, but this version of the "
        "repository has no adapter for it yet",
    )


def _vllm(gpus: list[Gpu]) -> Verdict:
    if not gpus:
        return Verdict("vllm", False, "there is no NVIDIA GPU")
    return Verdict("vllm", False, "this version of the repository has no adapter for it yet")


def _replay() -> Verdict:
    return Verdict(
        "replay", True, "no model: it plays the prompt back, to measure the serving path"
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.system()


def _vector_units() -> str:
    flags = set(_cpu_flags())
    found = [
        label
        for flag, label in (
            ("avx2", "AVX2"),
            ("avx512f", "AVX-512"),
            ("avx512_bf16", "BF16"),
            ("amx_tile", "AMX"),
        )
        if flag in flags
    ]
    return " ".join(found) or "no AVX2"


def _cpu_flags() -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


if __name__ == "__main__":
    sys.exit(main())
