"""Whether a machine is what a profile and a runtime need; found out before anything expensive."""

from __future__ import annotations

import sys
from collections.abc import Callable

from host.console import BuildError
from host.gpus import Gpu, find_gpus, what_fits
from host.memory import GIB, machine_memory_bytes

from engines.profile import Hardware


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
    """The first `count` GPUs, all of which the runtime can use; raises `BuildError`.

    `needs` says in words what `can_compute` looks for. A refusal for the kind of GPU prints which
    runtime fits which hardware.
    """
    count = max(count, hardware.gpus)
    present = find_gpus()
    # TensorRT-LLM, vLLM and SGLang take the first ones that CUDA shows them.
    chosen = present[:count]
    unfit = [gpu for gpu in chosen if not can_compute(gpu)]
    if not present or unfit:
        print(what_fits(), file=sys.stderr, flush=True)
        had = f"{unfit[0]} is here" if unfit else "no NVIDIA GPU is to be seen"
        raise BuildError(f"runtime {runtime} {needs}, and {had}; choose by the table above")
    if len(chosen) < count:
        raise BuildError(
            f"{count} GPUs are needed and {len(present)} are to be seen; lower "
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


def gpu_memory_bytes(gpu: Gpu) -> int:
    """A GPU's memory; where it shares the machine's (GB10), all of that."""
    return gpu.memory_bytes or machine_memory_bytes()
