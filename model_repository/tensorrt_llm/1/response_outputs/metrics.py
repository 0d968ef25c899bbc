"""What the engine does, on Triton's metrics endpoint: where the time to a first token goes.

Triton's own statistics end where `execute` returns, which is long before a decoupled model's first
response. So the room adds up the times of its ended requests.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from engine_config import EngineConfig
from token_engine.interface import EngineStats

from response_outputs.room_response import RoomResponse

# Sums since the model's start, over sequences that ended and had a first token: from the arrival
# in room 2 to the first forward pass, and from there until room 2 had the first token.
SEQUENCES = "llama_fp4_sequences"
QUEUE_SECONDS = "llama_fp4_queue_seconds"
PREFILL_SECONDS = "llama_fp4_prefill_seconds"
# Fields of EngineStats: what is true now.
GAUGES = {
    "active_requests": "Requests that the engine advances",
    "queued_requests": "Requests that wait for the engine",
    "kv_blocks_used": "KV-cache blocks in use",
    "kv_blocks_total": "KV-cache blocks of the engine",
}
START_SECONDS = "llama_fp4_start_time_seconds"
PUBLISH_S = 0.5
# Which engine is served, as labels of a 1: model, runtime and checkpoint, and what the engine
# settled at load (on a CPU its precision, and why). Triton's UpdateModelConfig takes no parameters
# from auto_complete_config, and a client that verifies a server must know what it serves.
INFO = "llama_fp4_engine_info"


class EngineMetrics:
    """`count` is called for each response and only adds; another thread talks to Triton.

    As in `EngineInfo`, nothing but `withdraw` may destroy a metric. A call to a Triton that was
    killed never returns and keeps the stub from ending. So every call first checks that Triton is
    alive, and there is a call only where a value has changed.
    """

    def __init__(
        self,
        utils: Any,
        stats: Callable[[], EngineStats],
        refresh_info: Callable[[], None] = lambda: None,
    ) -> None:
        self._stats, self._refresh_info = stats, refresh_info
        self._lock = threading.Lock()
        self._due = {SEQUENCES: 0.0, QUEUE_SECONDS: 0.0, PREFILL_SECONDS: 0.0}
        self._ended = threading.Event()
        self._triton = os.getppid()
        self._shown: dict[str, float] = {}
        self._families: list[Any] = []
        counter, gauge = utils.MetricFamily.COUNTER, utils.MetricFamily.GAUGE
        self._counters = {
            name: self._metric(utils, name, text, counter)
            for name, text in {
                SEQUENCES: "Ended sequences whose times are in the sums",
                QUEUE_SECONDS: "Sum of seconds between arrival and first forward pass",
                PREFILL_SECONDS: "Sum of seconds between first forward pass and first token",
            }.items()
        }
        self._gauges = {
            field: self._metric(utils, f"llama_fp4_{field}", text, gauge)
            for field, text in GAUGES.items()
        }
        # It tells one running server from another, even from an equal one.
        self._started = self._metric(
            utils, START_SECONDS, "When this engine's model was loaded, seconds since 1970", gauge
        )
        self._started.set(time.time())
        self._thread = threading.Thread(target=self._publish_on, name="metrics", daemon=True)
        self._thread.start()

    def count(self, responses: list[RoomResponse]) -> None:
        """Add the times of those that end a sequence; a runtime without times adds nothing."""
        for response in responses:
            timing = response.timing
            if response.finish_reason is None or not (
                timing.arrival_ns <= timing.first_scheduled_ns <= timing.first_token_ns
            ):
                continue
            with self._lock:
                self._due[SEQUENCES] += 1
                self._due[QUEUE_SECONDS] += (timing.first_scheduled_ns - timing.arrival_ns) / 1e9
                self._due[PREFILL_SECONDS] += (
                    timing.first_token_ns - timing.first_scheduled_ns
                ) / 1e9

    def withdraw(self) -> None:
        """Take the metrics away, while Triton is there."""
        self._ended.set()
        self._thread.join()
        metrics = [*self._counters.values(), *self._gauges.values(), self._started]
        held = [*metrics, *self._families]
        self._counters, self._gauges, self._families, self._started = {}, {}, [], None
        while held:
            ctypes.pythonapi.Py_DecRef(ctypes.py_object(held.pop(0)))

    def _metric(self, utils: Any, name: str, text: str, kind: Any) -> Any:
        family = utils.MetricFamily(name=name, description=text, kind=kind)
        metric = family.Metric(labels={})
        self._families.append(family)
        for kept in (metric, family):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))
        return metric

    def _publish_on(self) -> None:
        while not self._ended.wait(PUBLISH_S):
            with contextlib.suppress(Exception):  # a metric is not worth an answer
                self._publish()

    def _publish(self) -> None:
        with self._lock:
            due, self._due = self._due, dict.fromkeys(self._due, 0.0)
        for name, value in due.items():
            if value and os.getppid() == self._triton:
                self._counters[name].increment(value)
        if os.getppid() == self._triton:
            self._refresh_info()
        stats = self._stats()
        for field, gauge in self._gauges.items():
            value = float(getattr(stats, field))
            if value != self._shown.get(field) and os.getppid() == self._triton:
                self._shown[field] = value
                gauge.set(value)


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
            name=INFO,
            description="The served engine: its model, runtime, checkpoint and precision",
            kind=utils.MetricFamily.GAUGE,
        )
        _keep(self._family)
        self._metric: Any = None
        self._published: dict[str, str] = {}
        self.refresh()

    def refresh(self) -> None:
        """Publish what the engine settled; a restarted engine may have chosen differently."""
        labels = {**self._labels, **self._facts()}
        if labels == self._published:
            return
        self._drop_metric()
        self._metric, self._published = self._family.Metric(labels=labels), labels
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
