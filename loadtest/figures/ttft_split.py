"""The mean TTFT, split by where the time was spent. The parts add up exactly.

| part | definition (means, seconds) |
|---|---|
| `client` | `send_lag`: actual send minus scheduled arrival |
| `queue` | Triton's queues before preprocessing, tensorrt_llm and postprocessing (one response), and the engine's, from arrival in room 2 to the first forward pass |
| `tokenize` | preprocessing's compute: input, execute and output |
| `prefill` | from the start of the engine's first forward pass until room 2 has the first token |
| `detokenize` | postprocessing's compute for one response |
| `other` | the rest: the network both ways, gRPC, Triton's way from model to model, room 2's reading of the request |

The server's parts are means over all requests that it ended between two samples of its counters,
those with faults included; `ttft` and `client` are means over the measured normal requests. With
few requests the two sets differ, and `other`, which absorbs the difference, may be negative.
Postprocessing is charged with its mean response, not its first.
A server that does not report the engine's times, such as another project's, has only Triton's
queues in `queue`; the rest is called `engine_and_other`.
"""  # noqa: E501

from __future__ import annotations

from typing import Any

from figures.server_metrics import ServerMetrics, StepCounters

PARTS = ("client", "queue", "tokenize", "prefill", "detokenize", "other")
REMAINDER, WIDE_REMAINDER = "other", "engine_and_other"
NO_STEP = StepCounters()


class SplitError(ValueError):
    """There is no split; the message is one sentence that says why."""


def split_ttft(
    first: ServerMetrics, last: ServerMetrics, ttft_s: float, send_lag_s: float
) -> dict[str, Any]:
    """Split the mean `ttft_s`: {"ttft_s", "requests", "parts": [{"part", "seconds", "share"}]}.

    Raises `SplitError`.
    """
    means = {name: _means(first, last, name) for name in ("preprocessing", "tensorrt_llm")}
    if not means["preprocessing"][0]:
        raise SplitError("the server ended no request between the first and the last sample")
    responses = _means(first, last, "postprocessing")
    parts = {
        "client": send_lag_s,
        "queue": sum(queue for _, queue, _ in (*means.values(), responses)),
        "tokenize": means["preprocessing"][2],
        "detokenize": responses[2],
    }
    engine = _engine(first, last)
    if engine is not None:
        parts["queue"] += engine[0]
        parts["prefill"] = engine[1]
    remainder = WIDE_REMAINDER if engine is None else REMAINDER
    parts[remainder] = ttft_s - sum(parts.values())
    order = [*PARTS, WIDE_REMAINDER]
    return {
        "ttft_s": ttft_s,
        "requests": int(means["preprocessing"][0]),
        "parts": [
            {"part": name, "seconds": parts[name], "share": parts[name] / ttft_s if ttft_s else 0.0}
            for name in order
            if name in parts
        ],
    }


def _means(first: ServerMetrics, last: ServerMetrics, model: str) -> tuple[float, float, float]:
    """Between the samples: requests, and for each request seconds of queue and of compute."""
    before, after = first.steps.get(model, NO_STEP), last.steps.get(model, NO_STEP)
    requests = after.requests - before.requests
    if requests < 0:
        raise SplitError("the server's counters fell during the run: it was restarted")
    if not requests:
        return 0.0, 0.0, 0.0
    return (
        requests,
        (after.queue_s - before.queue_s) / requests,
        (after.compute_s - before.compute_s) / requests,
    )


def _engine(first: ServerMetrics, last: ServerMetrics) -> tuple[float, float] | None:
    """Mean queue and prefill seconds of the sequences that ended between the samples."""
    if last.sequences is None or last.engine_queue_s is None or last.engine_prefill_s is None:
        return None
    sequences = last.sequences - (first.sequences or 0.0)
    if sequences <= 0:
        return None
    return (
        (last.engine_queue_s - (first.engine_queue_s or 0.0)) / sequences,
        (last.engine_prefill_s - (first.engine_prefill_s or 0.0)) / sequences,
    )
