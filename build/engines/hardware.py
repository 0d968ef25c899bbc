"""Checks that a machine has what a profile and a runtime need, before anything expensive."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from host.console import BuildError
from host.gpus import Gpu, find_gpus, what_fits

from engines.engine_json import CGROUPS, OWN_GROUPS, memory_limits
from engines.profile import Hardware

GIB = 2**30


def machine_memory_bytes(cgroups: Path = CGROUPS, own: Path = OWN_GROUPS) -> int:
    """The machine's memory, or the container's limit where that is less."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([memory, *(group.limit for group in memory_limits(cgroups, own))])


def gpu_memory_bytes(gpu: Gpu) -> int:
    """A GPU's memory; where it shares the machine's (GB10), all of that."""
    return gpu.memory_bytes or machine_memory_bytes()


def check_memory(hardware: Hardware, needed_bytes: int = 0) -> None:
    """Raise `BuildError` if the machine has less memory than the profile or the engine needs."""
    needed = max(hardware.memory_gib, needed_bytes / GIB)
    present = machine_memory_bytes() / GIB
    if present < needed:
        raise BuildError(
            f"this machine has {present:.1f} GiB of memory and the engine needs {needed:.1f} GiB; "
            "lower --kv-cache-tokens, or use a machine with more"
        )


def choose_gpus(
    runtime: str, hardware: Hardware, count: int, can_compute: Callable[[Gpu], bool], needs: str
) -> list[Gpu]:
    """The first `count` GPUs, if the runtime can use all of them; raises `BuildError`.

    `needs` says in words what `can_compute` checks. A refusal for the kind of GPU prints which
    runtime fits which hardware.
    """
    count = max(count, hardware.gpus)
    present = find_gpus()
    # TensorRT-LLM, vLLM and SGLang take the first ones that CUDA shows them.
    chosen = present[:count]
    unfit = [gpu for gpu in chosen if not can_compute(gpu)]
    if not present or unfit:
        print(what_fits(), file=sys.stderr, flush=True)
        found = unfit[0] if unfit else "no NVIDIA GPU"
        raise BuildError(
            f"runtime {runtime} {needs}, and this machine has {found}; choose by the table above"
        )
    if len(chosen) < count:
        raise BuildError(
            f"the engine needs {count} GPUs and this machine shows {len(present)}; lower "
            "tensor_parallel_size, or give the container its GPUs (docker run --gpus all)"
        )
    for gpu in chosen:
        _check_profile(gpu, hardware)
    return chosen


def _check_profile(gpu: Gpu, hardware: Hardware) -> None:
    wanted = hardware.compute_capabilities
    if wanted and gpu.compute_capability not in wanted:
        raise BuildError(
            f"{gpu} has compute capability {gpu.compute_capability}, the profile is for "
            f"{', '.join(wanted)}; choose another --profile"
        )
    memory = gpu_memory_bytes(gpu) / GIB
    if memory < hardware.gpu_memory_gib:
        raise BuildError(
            f"{gpu} has {memory:.0f} GiB of memory, the profile needs "
            f"{hardware.gpu_memory_gib:g} GiB; choose another --profile"
        )
