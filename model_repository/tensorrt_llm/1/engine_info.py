"""The metric that says which engine is served: model, runtime and checkpoint as labels of a 1.

Triton (core's UpdateModelConfig) takes no parameters from auto_complete_config, and a client that
verifies a server has to know what it serves.
"""

from __future__ import annotations

import ctypes
from typing import Any

from engine_config import EngineConfig

NAME = "llama_fp4_engine_info"


class EngineInfo:
    """Published from `publish` to `withdraw`; `utils` is Triton's module for Python models.

    A metric's destructor asks Triton to remove it. If Triton has been killed, that ends the stub
    before it removes its shared memory: so nothing but `withdraw` may destroy these objects, and
    the interpreter's end must not.
    """

    def __init__(self, utils: Any, config: EngineConfig) -> None:
        family = utils.MetricFamily(
            name=NAME,
            description="The served engine: its model, runtime and checkpoint",
            kind=utils.MetricFamily.GAUGE,
        )
        labels = {
            "model": config.model.name,
            "runtime": config.runtime,
            "checkpoint_sha256": config.model.checkpoint_sha256,
        }
        metric = family.Metric(labels=labels)
        metric.set(1)
        self._held = [metric, family]
        for kept in self._held:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))

    def withdraw(self) -> None:
        """Take the metric away, while Triton is there."""
        while self._held:
            kept = self._held.pop(0)  # the metric before its family
            ctypes.pythonapi.Py_DecRef(ctypes.py_object(kept))
