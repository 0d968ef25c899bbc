"""What one response of TensorRT-LLM adds to a request. Knows no queue and no loop.

The library hands out the same result object with every response and changes it: `token_ids` holds
everything so far, `token_ids_diff` what this response brought, until the next one is awaited.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from token_engine.interface import FinishReason, GenerationRequest, TokenLogprob
from token_engine.library_results import Gain, epoch_ns, read_logprobs

# A request that the runtime has cancelled gets no delta; one that the library cancels has failed.
FINISH_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "timeout": "timeout",
}


def read_gain(output: Any, request: GenerationRequest) -> Gain:
    """Read a `CompletionOutput` after a response; raises `IncompleteResponse`.

    Samplers differ in whether the `end_id` is among the tokens, and an end id that is the last
    token allowed counts as "length" if it is one of the `stop_token_ids`.
    """
    tokens = tuple(output.token_ids_diff)
    said = output.finish_reason
    end_id = -1
    if said is not None and tokens and tokens[-1] in request.end_ids:
        tokens, said, end_id = tokens[:-1], "stop", tokens[-1]
    elif said == "stop":
        end_id = _end_id(output.stop_reason, request)
    logprobs: tuple[TokenLogprob, ...] = ()
    if request.logprobs is not None:
        logprobs = read_logprobs(tokens, output.logprobs_diff, request.logprobs, "TensorRT-LLM")
    if said is None:
        return Gain(tokens, logprobs)
    reason = FINISH_REASONS.get(said, "error")
    error = "" if said in FINISH_REASONS else f"TensorRT-LLM ended the request: {said}"
    return Gain(tokens, logprobs, reason, error, _first_scheduled_ns(output), end_id)


def _end_id(stop_reason: object, request: GenerationRequest) -> int:
    """The library names the id for the `stop_token_ids` alone, and nothing for its `end_id`."""
    if isinstance(stop_reason, int):
        return stop_reason
    return request.end_ids[0] if request.end_ids else -1


def _first_scheduled_ns(output: Any) -> int:
    """The library's clock is the machine's steady one; 0 if this version tells no times."""
    metrics = getattr(output, "request_perf_metrics", None)
    timing = getattr(metrics, "timing_metrics", None)
    scheduled: timedelta | None = getattr(timing, "first_scheduled_time", None)
    return epoch_ns(scheduled.total_seconds()) if scheduled else 0
