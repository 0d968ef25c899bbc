"""One response of room 2, and its arrays by the names of Triton's tensors.

A response has only the tensors that say something: each costs the server tens of microseconds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from token_engine.interface import FinishReason

from response_outputs.text import TextSpan

Named = dict[str, npt.NDArray[Any]]
ALWAYS_ZERO = (
    "kv_cache_alloc_new_blocks",
    "kv_cache_reused_blocks",
    "kv_cache_alloc_total_blocks",
    "total_accepted_draft_tokens",
    "total_draft_tokens",
)
# The response to a `stop` request: no token, and the final flag.
STOPPED: Named = {
    "output_ids": np.zeros((1, 1, 0), np.int32),
    "sequence_length": np.zeros((1, 1), np.int32),
    "finish_reason": np.array([[b"cancelled"]], object),
    "is_finished": np.array([[True]]),
}


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """What the responses hold besides the tokens."""

    streaming: bool
    echo_prompt: bool
    include_stop: bool  # whether the text ends with the stop word that ended it
    skip_special_tokens: bool
    log_probs: bool  # the chosen tokens', as tensors
    top_logprobs: bool  # the likeliest tokens' too, as JSON
    perf_metrics: bool
    num_input_tokens: Literal["never", "last", "always"]
    num_output_tokens: bool
    token_ids: bool  # the new ones again, without an echoed prompt


@dataclass(slots=True)
class Timing:
    """Times of one sequence, in nanoseconds since the epoch; 0 for what has not happened yet."""

    arrival_ns: int
    first_scheduled_ns: int = 0
    first_token_ns: int = 0
    last_token_ns: int = 0


@dataclass(slots=True)
class RoomResponse:
    """One response of one sequence. It grows with each delta of tokens until it is sent."""

    key: int  # the request's; `GenerationRoom.cancel` takes it
    options: OutputOptions
    num_input_tokens: int
    batch_index: int | None  # None in a batch of one
    sequence_index: int | None  # None for a row's only sequence
    timing: Timing  # the whole sequence's so far
    cum_log_prob: float  # the whole sequence's so far
    span: TextSpan
    echoed: tuple[int, ...] = ()  # the prompt, if it comes before the tokens
    token_ids: list[int] = field(default_factory=list)  # of this response alone
    log_probs: list[float] = field(default_factory=list)  # one for each of those, if wanted
    top_logprobs: list[dict[str, object]] = field(default_factory=list)  # the same
    finish_reason: FinishReason | None = None  # the sequence's
    stop_reason: str = ""


def response_arrays(response: RoomResponse) -> Named:
    """Every array begins with a batch dimension of 1, whatever the request's batch."""
    made, span, options = response.token_ids, response.span, response.options
    ids = [*response.echoed, *made]
    arrays = {
        "output_ids": _int32([[ids]]),  # [1, 1, tokens]: batch, beam
        "sequence_length": _int32([[len(ids)]]),
        "stream_key": np.array([[response.key]], np.int64),
        "is_finished": np.array([[response.finish_reason is not None]]),
    }
    if options.num_output_tokens:
        arrays["num_output_tokens"] = _int32([[len(made)]])
    if options.token_ids:
        # Not `output_ids` itself: Triton 2.51 loses answers of an ensemble that gives out a tensor
        # which one of its steps takes too, if the client wants fewer outputs.
        arrays["token_ids"] = _int32([made])
    if span.carry:
        arrays["text_carry"] = _string(span.carry)
    if span.hold:
        arrays["text_hold"] = _int32([[span.hold]])
    if not options.skip_special_tokens:
        arrays["text_keep_special"] = np.array([[True]])
    if response.batch_index is not None:
        arrays["batch_index"] = _int32([[response.batch_index]])
    if response.sequence_index is not None:
        arrays["sequence_index"] = _int32([[response.sequence_index]])
    if options.num_input_tokens == "always":
        arrays["num_input_tokens"] = _int32([[response.num_input_tokens]])
    if options.perf_metrics:
        arrays |= _perf_metrics(response)
    return arrays | _log_probs(response) | _last(response)


def _perf_metrics(response: RoomResponse) -> Named:
    """All of upstream's, because its client reads all; 0 for what no runtime here knows."""
    timing = response.timing
    times = {
        "arrival_time_ns": timing.arrival_ns,
        "first_scheduled_time_ns": timing.first_scheduled_ns,
        "first_token_time_ns": timing.first_token_ns,
        "last_token_time_ns": timing.last_token_ns,
    }
    arrays = {name: np.array([[value]], np.int64) for name, value in times.items()}
    arrays |= {name: _int32([[0]]) for name in ALWAYS_ZERO}
    arrays["acceptance_rate"] = np.zeros((1, 1), np.float32)
    return arrays


def _log_probs(response: RoomResponse) -> Named:
    arrays: Named = {}
    if response.options.log_probs:
        arrays["output_log_probs"] = np.array([[response.log_probs]], np.float32)
        arrays["cum_log_probs"] = np.array([[response.cum_log_prob]], np.float32)
    if response.options.top_logprobs:
        text = json.dumps(response.top_logprobs, ensure_ascii=False)
        arrays["top_logprobs"] = _string(text.encode())
    return arrays


def _last(response: RoomResponse) -> Named:
    """What only a sequence's last response has."""
    if response.finish_reason is None:
        return {}
    arrays = {
        "finish_reason": _string(response.finish_reason.encode()),
        "stop_reason": _string(response.stop_reason.encode()),
    }
    if response.options.num_input_tokens == "last":
        arrays["num_input_tokens"] = _int32([[response.num_input_tokens]])
    return arrays


def _int32(values: Any) -> npt.NDArray[Any]:
    return np.array(values, np.int32)


def _string(value: bytes) -> npt.NDArray[Any]:
    return np.array([[value]], object)


def stacked(parts: list[Named]) -> Named:
    """The arrays of several sequences as those of one response, a row for each.

    Rows of different lengths are filled up with 0 at their ends; a row that lacks a
    tensor which another has (a held-back byte, a sequence index) gets 0, false or the empty string.
    """
    if len(parts) == 1:
        return parts[0]
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: _stack([part.get(name) for part in parts]) for name in names}


def _stack(arrays: list[npt.NDArray[Any] | None]) -> npt.NDArray[Any]:
    given = [array for array in arrays if array is not None]
    shape = (len(arrays), *np.max([array.shape[1:] for array in given], axis=0))
    if given[0].dtype == object:
        rows = np.full(shape, b"", object)
    else:
        rows = np.zeros(shape, given[0].dtype)
    for row, array in enumerate(arrays):
        if array is not None:
            place = (row, *map(slice, array.shape[1:]))
            rows[place] = array[0]
    return rows
