"""What one response of TensorRT-LLM adds to a request. Knows no queue and no loop.

The library hands out the same result object with every response and changes it: `token_ids` holds
everything so far, `token_ids_diff` what this response brought, until the next one is awaited.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from token_engine.interface import FinishReason, GenerationRequest, TokenDelta, TokenLogprob

# A request that the runtime has cancelled gets no delta; one that the library cancels has failed.
FINISH_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "timeout": "timeout",
}


class IncompleteResponse(RuntimeError):
    """A response lacks what the library has promised; of one request, and not of its making."""


@dataclass(frozen=True, slots=True)
class Gain:
    """The tokens of one response; `finish_reason` is set with the last one."""

    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    error: str = ""
    first_scheduled_ns: int = 0
    end_id: int = -1

    def as_delta(self, key: int, first_scheduled_ns: int) -> TokenDelta:
        """To the seam. The time is that of the request, which may have had an earlier part."""
        last = self.finish_reason is not None
        return TokenDelta(
            key,
            self.token_ids,
            self.finish_reason,
            self.error,
            logprobs=self.logprobs,
            first_scheduled_ns=first_scheduled_ns if last else 0,
            end_id=self.end_id,
        )


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
        logprobs = _read_logprobs(tokens, output.logprobs_diff, request.logprobs)
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


def _read_logprobs(
    tokens: Sequence[int], entries: Sequence[Any], wanted: int
) -> tuple[TokenLogprob, ...]:
    """Out of the library's {token id: Logprob} of each token. An end id that was taken off the
    tokens has an entry all the same."""
    if len(entries) < len(tokens):
        raise IncompleteResponse(
            f"TensorRT-LLM sent {len(entries)} log-probabilities with {len(tokens)} tokens"
        )
    return tuple(
        _read_logprob(token, entry, wanted) for token, entry in zip(tokens, entries, strict=False)
    )


def _read_logprob(token: int, entry: Any, wanted: int) -> TokenLogprob:
    values = {int(key): min(float(value.logprob), 0.0) for key, value in entry.items()}
    if token not in values:
        raise IncompleteResponse(f"TensorRT-LLM sent no log-probability of token {token}")
    best = sorted(values.items(), key=lambda pair: -pair[1])
    return TokenLogprob(values[token], tuple(best[:wanted]))


def _first_scheduled_ns(output: Any) -> int:
    """The library's clock is the machine's steady one; 0 if this version tells no times."""
    metrics = getattr(output, "request_perf_metrics", None)
    timing = getattr(metrics, "timing_metrics", None)
    scheduled: timedelta | None = getattr(timing, "first_scheduled_time", None)
    if not scheduled:
        return 0
    age_ns = time.monotonic_ns() - round(scheduled.total_seconds() * 1e9)
    return time.time_ns() - age_ns


def one_line(error: BaseException) -> str:
    """An exception's message, for the middle of a sentence."""
    text = " ".join(str(error).split())
    return text[:300] if text else type(error).__name__
