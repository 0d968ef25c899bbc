"""The metric that shows what is served, on fake metrics that track their references."""

from __future__ import annotations

import gc
import types
import weakref
from typing import Any

from engine_config import EngineConfig, Limits, ModelFacts
from response_outputs.metrics import EngineInfo

CONFIG = EngineConfig(1, "openvino", ModelFacts("demo", 9, 0, [1], "ab" * 32), Limits(8, 1, 8, 0))
CHOICE = {"precision": "bf16", "precision_reason": "the CPU has AMX"}


class Metric:
    """Alive while it is referenced; then Triton's metric removes itself."""

    def __init__(self, labels: dict[str, str], alive: weakref.WeakSet[Metric]) -> None:
        self.labels, self.value = labels, 0.0
        alive.add(self)

    def set(self, value: float) -> None:
        """Like Triton's."""
        self.value = value


def utilities(alive: weakref.WeakSet[Metric]) -> Any:
    class MetricFamily:
        GAUGE = 1

        def __init__(self, **described: Any) -> None:
            assert described["name"] == "llama_fp4_engine_info"

        def Metric(self, labels: dict[str, str]) -> Metric:
            return Metric(labels, alive)

    return types.SimpleNamespace(MetricFamily=MetricFamily)


def told(alive: weakref.WeakSet[Metric]) -> list[tuple[dict[str, str], float]]:
    gc.collect()
    return [(metric.labels, metric.value) for metric in alive]


def test_one_metric_shows_what_the_engine_settled() -> None:
    alive: weakref.WeakSet[Metric] = weakref.WeakSet()
    facts = dict(CHOICE)
    info = EngineInfo(utilities(alive), CONFIG, lambda: facts)
    fixed = {"model": "demo", "runtime": "openvino", "checkpoint_sha256": "ab" * 32}
    (first,) = alive
    info.refresh()
    assert told(alive) == [({**fixed, **CHOICE}, 1)]
    assert list(alive) == [first]  # nothing has changed: the same one
    del first
    facts["precision"] = "f32"  # as if the engine had restarted
    info.refresh()
    assert told(alive) == [({**fixed, **CHOICE, "precision": "f32"}, 1)]
    info.withdraw()
    assert told(alive) == []
    info.withdraw()


def test_the_metric_outlives_its_last_reference() -> None:
    """If Triton was killed, a metric's destructor would end the stub too early."""
    alive: weakref.WeakSet[Metric] = weakref.WeakSet()
    info = EngineInfo(utilities(alive), CONFIG, dict)
    del info
    assert len(told(alive)) == 1
