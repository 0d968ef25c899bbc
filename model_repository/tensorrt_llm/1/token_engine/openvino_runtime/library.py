"""The installed OpenVINO: imported without its telemetry, of the right release, on a fit CPU.

Importing the Python package reports its use over the network, from a process that it forks on a
thread. Nobody wants that, and it can deadlock: a fork waits for OpenBLAS's threads with the
interpreter locked, while NumPy computes on them.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

from token_engine.interface import EngineLoadError
from token_engine.openvino_runtime.cpu_isa import WITHOUT_BF16, CpuIsa, find_cpu_isa

REBUILD = "rebuild the engine with 'make engine'"


def import_openvino() -> tuple[Any, Any]:
    """Return `openvino` and `openvino_genai`; raises `EngineLoadError` if one is not installed."""
    # The package falls back to a stub that does nothing when this import fails.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
        import openvino_genai
    except ImportError as error:
        raise EngineLoadError(
            f"OpenVINO GenAI is not installed ({error}); run \"pip install '.[server]'\""
        ) from error
    return openvino, openvino_genai


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

    It computes in bf16 only if OpenVINO agrees.
    """
    cpu = find_cpu_isa()
    if cpu.lack:
        raise EngineLoadError(cpu.lack)
    if cpu.has_bf16:
        able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return cpu if "BF16" in able else replace(cpu, level=WITHOUT_BF16)
    return cpu
