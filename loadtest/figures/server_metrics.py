"""Reads Triton's metrics endpoint: the counters and gauges that a load test needs.

One answer has the figures of ModelStatistics (gRPC) and /v2/models/M/stats (HTTP) for all models,
in whole microseconds, and the engine's own sums and gauges. The engine's sums are needed because
`response_stats`, which would time the first response of a decoupled model, stays empty for models
of the Python backend (seen on 2.51).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

STEPS = ("ensemble", "preprocessing", "tensorrt_llm", "postprocessing")
LINE = re.compile(
    r"^(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})?\s+(?P<value>\S+)(?:\s+\d+)?$"
)
MODEL = re.compile(r'(?:^|,)model="([^"]*)"')
ENGINE_GAUGES = ("active_requests", "queued_requests", "kv_blocks_used", "kv_blocks_total")
ENGINE_INFO = "llama_fp4_engine_info"  # its labels are the information, its value is 1
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
DURATIONS = {
    "request": "request",
    "queue": "queue",
    "input": "compute_input",
    "infer": "compute_infer",
    "output": "compute_output",
}
MODEL_PARTS = tuple(DURATIONS)
US = 1e-6


@dataclass(frozen=True, slots=True)
class StepCounters:
    """One model's sums since the server's start, times in seconds."""

    requests: float = 0.0  # successful ones; of postprocessing: one per response
    executions: float = 0.0  # batches
    request_s: float = 0.0  # from the request's arrival in Triton to its last response, or, of a
    # decoupled model of the Python backend, to the return of execute()
    queue_s: float = 0.0  # before its execution
    input_s: float = 0.0  # of compute: gathering the inputs
    infer_s: float = 0.0  # of compute: execute()
    output_s: float = 0.0  # of compute: handing out the outputs

    @property
    def compute_s(self) -> float:
        """Input, execute() and output."""
        return self.input_s + self.infer_s + self.output_s


@dataclass(frozen=True, slots=True)
class ServerMetrics:
    """One answer of the endpoint. `sequences` and the two sums are None if the engine reports none.

    `engine` has the labels of llama_fp4_engine_info: runtime, model, checkpoint_sha256, ...
    """

    steps: Mapping[str, StepCounters] = field(default_factory=dict)  # by model
    pending: Mapping[str, float] = field(default_factory=dict)  # waiting requests, by model
    sequences: float | None = None  # the number of finished sequences in the two sums
    engine_queue_s: float | None = None  # from the arrival at the engine to its first forward pass
    engine_prefill_s: float | None = None  # from there to the first token
    gauges: Mapping[str, float] = field(default_factory=dict)  # ENGINE_GAUGES, where given
    engine: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The figures that change during a run, for JSON."""
        return {"pending": dict(self.pending), **self.gauges}

    @classmethod
    def from_fields(cls, document: Mapping[str, Any]) -> ServerMetrics:
        """The inverse of `dataclasses.asdict`; raises TypeError, KeyError or AttributeError."""
        steps = {model: StepCounters(**each) for model, each in document["steps"].items()}
        return cls(**{**document, "steps": steps})


def parse_metrics(text: str) -> ServerMetrics:
    """Read Prometheus' text format; raises ValueError if it holds none of Triton's counters."""
    values, engine = _read(text)

    def value(name: str, model: str) -> float:
        return values.get((name, model), 0.0)

    models = {model for name, model in values if name == "nv_inference_request_success"}
    if not models:
        raise ValueError("it has no nv_inference_request_success, as Triton's metrics have")
    return ServerMetrics(
        steps={
            model: StepCounters(
                requests=value("nv_inference_request_success", model),
                executions=value("nv_inference_exec_count", model),
                **{
                    f"{part}_s": value(f"nv_inference_{name}_duration_us", model) * US
                    for part, name in DURATIONS.items()
                },
            )
            for model in sorted(models)
        },
        pending={
            model: value("nv_inference_pending_request_count", model)
            for model in STEPS
            if model in models
        },
        sequences=values.get(("llama_fp4_sequences", "")),
        engine_queue_s=values.get(("llama_fp4_queue_seconds", "")),
        engine_prefill_s=values.get(("llama_fp4_prefill_seconds", "")),
        gauges={
            name: values[f"llama_fp4_{name}", ""]
            for name in ENGINE_GAUGES
            if (f"llama_fp4_{name}", "") in values
        },
        engine=engine,
    )


def _read(text: str) -> tuple[dict[tuple[str, str], float], dict[str, str]]:
    """Values by (name, model), "" without one, summed over versions; the engine's labels."""
    values: dict[tuple[str, str], float] = {}
    engine: dict[str, str] = {}
    for match in filter(None, map(LINE.match, text.splitlines())):
        if match["name"] == ENGINE_INFO:
            engine = dict(LABEL.findall(match["labels"] or ""))
        model = MODEL.search(match["labels"] or "")
        key = (match["name"], model[1] if model else "")
        values[key] = values.get(key, 0.0) + float(match["value"])
    return values, engine


def server_models(first: ServerMetrics, last: ServerMetrics) -> list[dict[str, Any]]:
    """Mean times of each model between two samples, from Triton's own counters.

    Returns [{"model", "requests", "executions", "request_s", "queue_s", "input_s", "infer_s",
    "output_s"}], the ensemble first: means per request, in seconds, as perf_analyzer prints them.
    Models without a request are left out; [] if the server restarted between the samples.

    The ensemble's compute is the sum over its models. Triton counts a decoupled model of the Python
    backend as done when execute() returns, which for tensorrt_llm is when its engine has the
    request: the engine's queue and prefill are in the split of the TTFT, not here. Postprocessing
    counts one request per response.
    """
    models = []
    for model in sorted(last.steps, key=_place):
        before, after = first.steps.get(model, StepCounters()), last.steps[model]
        requests = after.requests - before.requests
        if requests < 0:
            return []
        if requests:
            means = {
                f"{part}_s": (getattr(after, f"{part}_s") - getattr(before, f"{part}_s")) / requests
                for part in MODEL_PARTS
            }
            executions = int(after.executions - before.executions)
            models.append(
                {"model": model, "requests": int(requests), "executions": executions, **means}
            )
    return models


def _place(model: str) -> tuple[int, str]:
    return STEPS.index(model) if model in STEPS else len(STEPS), model
