"""The one place that imports OpenVINO: without its telemetry.

Importing the Python package reports the usage over the network, from a process
that it forks on a thread. Besides not being asked for, that can deadlock: a fork waits for
OpenBLAS's threads with the interpreter locked, while NumPy computes on them.
"""

from __future__ import annotations

import sys
from typing import Any

from token_engine.interface import EngineLoadError


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
