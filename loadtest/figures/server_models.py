"""What each model on the server took a request, by the difference of Triton's own counters.

They are those of Triton's statistics API, as perf_analyzer prints them: how many requests and
executions, and of a request the mean time in the queue and in the three parts of compute. Of the
ensemble, compute is the sum over its models. Triton counts a decoupled model of the Python backend
as done when execute() returns: of tensorrt_llm that is when its engine has the request, so that
the engine's own queue and prefill are in the split of the TTFT, and not here. Postprocessing counts
one request a response.
"""

from __future__ import annotations

from typing import Any

from figures.server_metrics import STEPS, ServerMetrics, StepCounters

NO_STEP = StepCounters()
PARTS = ("request", "queue", "input", "infer", "output")


def server_models(first: ServerMetrics, last: ServerMetrics) -> list[dict[str, Any]]:
    """[{"model", "requests", "executions", "request_s", "queue_s", "input_s", "infer_s",
    "output_s"}] of each model that answered a request between the samples, the ensemble first;
    means of a request, in seconds. [] too where the server was started anew between them."""
    told = []
    for model in sorted(last.steps, key=_place):
        before, after = first.steps.get(model, NO_STEP), last.steps[model]
        requests = after.requests - before.requests
        if requests < 0:
            return []
        if requests:
            means = {
                f"{part}_s": (getattr(after, f"{part}_s") - getattr(before, f"{part}_s")) / requests
                for part in PARTS
            }
            executions = int(after.executions - before.executions)
            told.append(
                {"model": model, "requests": int(requests), "executions": executions, **means}
            )
    return told


def _place(model: str) -> tuple[int, str]:
    return STEPS.index(model) if model in STEPS else len(STEPS), model
