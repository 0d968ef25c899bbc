"""What this machine is, which engine runtimes fit it and why the others do not, and what is built.

It changes nothing; exit code 0 if a runtime that computes fits, 1 if none does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.engine_json import (
    OpenVinoOptions,
    find_cpu_isa,
    marlin_note,
    parse_section,
    settle,
)
from engines.gpu_step import GpuCompileStep
from engines.hardware import GIB, machine_memory_bytes
from engines.sglang_step import CompileStepSglang
from engines.step import installed_version
from engines.tensorrt_llm_step import IMAGE
from engines.vllm_step import CompileStepVllm
from host.console import say
from host.gpus import FAMILIES, Gpu, find_gpus
from repository.unary import kind_of
from serving.find_triton import (
    LIBPYTHON,
    PYTHON,
    SUPPORTED_PYTHONS,
    TritonNotFound,
    find_triton,
)

BLACKWELL_NAMES = ", ".join(names for _, names, runtimes, _ in FAMILIES if "tensorrt" in runtimes)
ROOT = Path(__file__).resolve().parent.parent
STAGING = ROOT / "build" / "out" / "triton"
DEPLOYMENTS = "build/out/deployments"  # where all.py puts them


@dataclass(frozen=True)
class Verdict:
    """Whether a runtime fits this machine, and why."""

    runtime: str
    fits: bool
    reason: str


def main() -> int:
    """Print the whole report."""
    argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0]).parse_args()
    for name, value in (*machine(), *repositories()):
        say(f"{name:<14}{value}")
    say("")
    verdicts = runtimes()
    for verdict in verdicts:
        say(f"{verdict.runtime:<14}{'fits' if verdict.fits else 'no':<6}{verdict.reason}")
    return 0 if any(verdict.fits for verdict in verdicts if verdict.runtime != "replay") else 1


def short_report() -> str:
    """One line for the demo: the machine, the server and the runtime."""
    facts = dict(machine())
    fitting = ", ".join(verdict.runtime for verdict in runtimes() if verdict.fits)
    return (
        f"machine: {facts['CPU']}, {facts['memory']}, GPU {facts['GPU']}; Python {PYTHON}, "
        f"tritonserver {facts['tritonserver']}; runtimes that fit: {fitting}"
    )


def machine() -> Iterator[tuple[str, str]]:
    """(name, value) of everything that decides what can run here."""
    yield (
        "system",
        f"{_distribution()}, {platform.machine()}, glibc {platform.libc_ver()[1] or 'unknown'}",
    )
    yield "CPU", f"{os.cpu_count()} cores, {find_cpu_isa()}"
    yield "memory", f"{machine_memory_bytes() / GIB:.0f} GiB"
    yield "disk", f"{shutil.disk_usage(Path(__file__).parent).free / 2**30:.0f} GiB free here"
    gpus = find_gpus()
    yield (
        "GPU",
        "; ".join(f"{gpu}, {gpu.memory_mib} MiB" for gpu in gpus) or "none",
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


def repositories(checkout: Path = ROOT) -> Iterator[tuple[str, str]]:
    """("repository", its place, ensemble and engine) for each that a checkout has built."""
    found = [checkout / "model_repository", *sorted(checkout.glob(f"{DEPLOYMENTS}/*/repository"))]
    for repository in found:
        try:
            text = (repository / "tensorrt_llm/1/engine/engine.json").read_text(encoding="utf-8")
            engine = json.loads(text)
            what = f"{engine['model']['name']} on {engine['runtime']}{_settled(engine)}"
        except FileNotFoundError:
            continue
        except (OSError, ValueError, LookupError, TypeError) as error:
            what = f"its engine.json cannot be read ({error!r:.80})"
        place = repository.relative_to(checkout)
        yield "repository", f"{place}: {kind_of(repository)} ensemble, {what}"


def _settled(engine: dict[str, Any]) -> str:
    """The precision in which this CPU would run an OpenVINO engine; "" for other runtimes."""
    if engine["runtime"] != "openvino":
        return ""
    options = parse_section(OpenVinoOptions, engine["runtime_options"], "runtime_options")
    return f", arithmetic in {settle(options, find_cpu_isa())}"


def runtimes() -> list[Verdict]:
    """A verdict on each runtime."""
    gpus = find_gpus()
    return [
        _tensorrt_llm(gpus),
        _with_marlin(gpus, CompileStepVllm),
        _with_marlin(gpus, CompileStepSglang),
        _openvino(),
        _replay(),
    ]


def _openvino() -> Verdict:
    if platform.machine() != "x86_64" or platform.system() != "Linux":
        return Verdict(
            "openvino",
            False,
            f"it needs Linux on x86_64, not {platform.system()} on {platform.machine()}",
        )
    version = installed_version("openvino-genai")
    if version is None:
        return Verdict(
            "openvino", False, "the package openvino-genai is not installed; run 'make install'"
        )
    cpu = find_cpu_isa()
    if cpu.lack:
        return Verdict("openvino", False, cpu.lack)
    settled = settle(OpenVinoOptions(num_kv_blocks=1), cpu)
    return Verdict(
        "openvino",
        True,
        f"openvino-genai {version}: NVFP4 weights on the CPU, arithmetic in {settled}",
    )


def _tensorrt_llm(gpus: list[Gpu]) -> Verdict:
    name = "tensorrt_llm"
    fitting = [gpu for gpu in gpus if gpu.has_fp4]
    if not fitting:
        had = ", ".join(map(str, gpus)) or "no NVIDIA GPU"
        return Verdict(
            name, False, f"this machine has {had}; NVFP4 needs Blackwell: {BLACKWELL_NAMES}"
        )
    version = installed_version("tensorrt_llm", "tensorrt-llm")
    if version is None:
        return Verdict(
            name,
            False,
            f"{fitting[0]} fits, but the package tensorrt_llm is not installed; use the image "
            f"{IMAGE}",
        )
    return Verdict(name, True, f"tensorrt_llm {version} on {fitting[0]}: NVFP4 tensor cores")


def _with_marlin(gpus: list[Gpu], step: type[GpuCompileStep[Any]]) -> Verdict:
    name = step.runtime
    fitting = [gpu for gpu in gpus if gpu.has_fp4 or gpu.has_marlin]
    if not fitting:
        had = ", ".join(map(str, gpus)) or "no NVIDIA GPU"
        return Verdict(name, False, f"this machine has {had}; NVFP4 needs Ampere (sm80) or later")
    version = installed_version(*step.packages)
    if version is None:
        reason = f"{fitting[0]} fits, but the package {name} is not installed"
        return Verdict(name, False, f"{reason}; {step.install}")
    how = marlin_note(fitting[0].name, fitting[0].capability) or "NVFP4 tensor cores"
    return Verdict(name, True, f"{name} {version} on {fitting[0]}: {how}")


def _replay() -> Verdict:
    return Verdict(
        "replay", True, "no model: it plays the prompt back, to measure the serving path"
    )


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.system()


if __name__ == "__main__":
    sys.exit(main())
