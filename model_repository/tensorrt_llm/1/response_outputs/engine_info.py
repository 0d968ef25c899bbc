"""The metric that says which engine is served: model, runtime and checkpoint as labels of a 1, and
what the engine settled when it was loaded (the precision and its reason, on a CPU).

Triton (core's UpdateModelConfig) takes no parameters from auto_complete_config, and a client that
verifies a server has to know what it serves.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from engine_config import EngineConfig

NAME = "llama_fp4_engine_info"


class EngineInfo:
    """Published from `publish` to `withdraw`; `utils` is Triton's module for Python models.

    A metric's destructor asks Triton to remove it. If Triton has been killed, that ends the stub
    before it removes its shared memory: so nothing but `withdraw` may destroy these objects, and
    the interpreter's end must not.
    """

    def __init__(
        self, utils: Any, config: EngineConfig, facts: Callable[[], dict[str, str]]
    ) -> None:
        self._facts = facts
        self._labels = {
            "model": config.model.name,
            "runtime": config.runtime,
            "checkpoint_sha256": config.model.checkpoint_sha256,
        }
        self._family = utils.MetricFamily(
            name=NAME,
            description="The served engine: its model, runtime, checkpoint and precision",
            kind=utils.MetricFamily.GAUGE,
        )
        _keep(self._family)
        self._metric: Any = None
        self._told: dict[str, str] = {}
        self.refresh()

    def refresh(self) -> None:
        """Tell what the engine settled; an engine that was started anew may have chosen anew."""
        labels = {**self._labels, **self._facts()}
        if labels == self._told:
            return
        self._drop_metric()
        self._metric, self._told = self._family.Metric(labels=labels), labels
        _keep(self._metric)
        self._metric.set(1)

    def withdraw(self) -> None:
        """Take the metric away, while Triton is there."""
        self._drop_metric()  # before its family
        if self._family is not None:
            family, self._family = self._family, None
            ctypes.pythonapi.Py_DecRef(ctypes.py_object(family))

    def _drop_metric(self) -> None:
        if self._metric is not None:
            metric, self._metric = self._metric, None
            ctypes.pythonapi.Py_DecRef(ctypes.py_object(metric))


def _keep(held: Any) -> None:
    """Until `Py_DecRef`: the interpreter's end does not destroy it."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(held))
