"""What an OpenVINO engine needs of the machine, checked before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from token_engine.cgroup_memory import CGROUPS, OWN_GROUPS, memory_limits
from token_engine.interface import EngineLoadError
from token_engine.openvino_runtime.cpu_isa import WITHOUT_BF16, CpuIsa, find_cpu_isa
from token_engine.openvino_runtime.memory import ModelShape
from token_engine.openvino_runtime.options import KV_BLOCK_TOKENS, OpenVinoOptions
from token_engine.openvino_runtime.precision import Settled

WEIGHTS_FILE = "openvino_model.bin"
MODEL_FILES = ("openvino_model.xml", WEIGHTS_FILE, "config.json", "generation_config.json")
REBUILD = "rebuild the engine with 'make engine'"


def check_release(built_with: dict[str, str], installed: str) -> None:
    """Raise `EngineLoadError` if year.release of the two OpenVINO versions differ."""
    built = built_with.get("openvino", "unknown")
    present = installed.split("-")[0]
    if built.split(".")[:2] != present.split(".")[:2]:
        raise EngineLoadError(
            f"the engine was built with openvino {built}, installed is {present}; {REBUILD}"
        )


def computing_cpu(openvino: Any) -> CpuIsa:
    """This machine's CPU; raises `EngineLoadError` where OpenVINO cannot compute on it.

    It computes in bf16 only if OpenVINO says so as well.
    """
    cpu = find_cpu_isa()
    if cpu.lack:
        raise EngineLoadError(cpu.lack)
    if cpu.has_bf16:
        able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return cpu if "BF16" in able else replace(cpu, level=WITHOUT_BF16)
    return cpu


def has_memory(directory: Path, options: OpenVinoOptions) -> Callable[[str, str], bool]:
    """Whether the engine, in the precisions of its arithmetic and its KV cache, fits into what is
    free; `check_memory` says what is missing."""

    def fits(precision: str, kv_cache_precision: str) -> bool:
        shape, free = read_shape(directory), available_bytes()
        cache = shape.kv_cache_bytes(options.num_kv_blocks, kv_cache_precision)
        return shape.weight_bytes(precision) + cache <= free

    return fits


def check_memory(directory: Path, options: OpenVinoOptions, settled: Settled) -> None:
    """Raise `EngineLoadError` if a file is missing, or weights and KV cache exceed free memory."""
    for name in MODEL_FILES:
        if not (directory / name).is_file():
            raise EngineLoadError(f"{directory / name} does not exist; {REBUILD}")
    shape = read_shape(directory)
    weights = shape.weight_bytes(settled.precision)
    cache = shape.kv_cache_bytes(options.num_kv_blocks, settled.kv_cache_precision)
    free = available_bytes()
    if weights + cache > free:
        raise EngineLoadError(
            f"the weights ({weights / 1e9:.1f} GB in {settled.precision}) and the KV cache "
            f"({cache / 1e9:.1f} GB in {settled.kv_cache_precision}, num_kv_blocks "
            f"{options.num_kv_blocks}) exceed the {free / 1e9:.1f} GB that are free; free memory, "
            f"or {_smaller(shape, settled, free)}"
        )


def _smaller(shape: ModelShape, settled: Settled, free: int) -> str:
    a_block = shape.kv_cache_bytes(1, settled.kv_cache_precision)
    tokens = (free - shape.weight_bytes(settled.precision)) // a_block * KV_BLOCK_TOKENS
    if tokens <= 0:
        return "serve on a machine with more"
    return (
        f"build the engine with a --kv-cache-tokens of at most {tokens}, and a --max-seq-len that "
        "is no more"
    )


def read_shape(directory: Path) -> ModelShape:
    """From the engine's `config.json`; raises `EngineLoadError`."""
    path = directory / "config.json"
    if not path.is_file():
        raise EngineLoadError(f"{path} does not exist; {REBUILD}")
    try:
        return ModelShape.of(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise EngineLoadError(f"{path} is damaged ({error!r}); {REBUILD}") from error


def available_bytes(
    meminfo: Path = Path("/proc/meminfo"), cgroups: Path = CGROUPS, own: Path = OWN_GROUPS
) -> int:
    """Memory to be had without swapping: the machine's, or the container's if that is less."""
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    return min([free, *(group.free for group in memory_limits(cgroups, own))])
