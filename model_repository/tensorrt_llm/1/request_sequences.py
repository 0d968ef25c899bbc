"""A request in flight: its sequences, and the response that each of them is making.

A request has a row for each prompt of its batch, and each row one sequence or more; the engine
knows sequences only. All of this is touched under the room's lock.
"""

from __future__ import annotations

import math
import time
from collections.abc import Set
from dataclasses import dataclass, field
from typing import Protocol

from request_inputs.generation import GenerationInputs, with_seed_of
from response_outputs.room_response import RoomResponse, Timing
from response_outputs.text import OutputText, TokenBytes, find_stops
from token_engine.interface import (
    FinishReason,
    GenerationRequest,
    TokenDelta,
)

FAULT_CODES = {"engine": "UNAVAILABLE", "invalid": "INVALID_ARG", "unsupported": "UNSUPPORTED"}


class Reply(Protocol):
    """Where one request's responses go. Called from one thread at a time."""

    def send(self, responses: list[RoomResponse], final: bool) -> None:
        """Send one response, made of one or several sequences' parts."""

    def fail(self, message: str, code: str) -> None:
        """End the request with Triton's error code of that name."""

    def cancelled(self) -> bool:
        """Whether the client is gone or has cancelled."""


@dataclass
class Request:
    """What the sequences of one Triton request share."""

    key: int
    ids: Set[str]  # the client's, by which it is cancelled; others may have the same
    reply: Reply
    one_response: bool = False  # for all sequences together, when all are finished
    sequences: list[Sequence] = field(default_factory=list)
    unanswered: int = 0  # sequences whose last response is not sent yet
    failed: bool = False  # an error was sent, so nothing more may follow


class Sequence:
    """One sequence: `add_delta` adds tokens to the response that is not sent yet, `unsent`."""

    def __init__(
        self,
        key: int,
        request: Request,
        inputs: GenerationInputs,
        position: tuple[int | None, int],
        token_bytes: TokenBytes,
    ) -> None:
        self.key = key
        self.request = request
        self.inputs = inputs
        self.batch_index, self.sequence_index = position
        options = inputs.output
        stops, self._special_stops = find_stops(inputs.stop_words, token_bytes)
        self._token_bytes = token_bytes
        self._text = OutputText(
            token_bytes, stops, options.include_stop, not options.skip_special_tokens
        )
        self.queued = False  # whether it waits for the sender
        self.unsent: RoomResponse | None = None  # the sender takes it
        self.deadline = time.monotonic() + (inputs.timeout_s or math.inf)
        self.finish_reason: FinishReason | None = None
        self.failure = ("", "")  # message and code, with finish_reason "error"
        self._made = 0
        self._cum_log_prob = 0.0
        self._timing = Timing(time.time_ns())

    def engine_request(self, end_ids: list[int]) -> GenerationRequest:
        """The work for the engine; `end_ids` are the checkpoint's."""
        inputs = self.inputs
        return GenerationRequest(
            key=self.key,
            prompt_ids=inputs.prompt_ids,
            max_tokens=inputs.max_tokens,
            end_ids=tuple(dict.fromkeys([*inputs.end_ids(end_ids), *self._special_stops])),
            sampling=with_seed_of(inputs.sampling, self.sequence_index),
            min_tokens=inputs.min_tokens,
            logprobs=inputs.logprobs,
            bad_words=inputs.bad_words,
            token_bias=inputs.token_bias,
            guide=inputs.guide,
            priority=inputs.priority,
        )

    def add_delta(self, delta: TokenDelta) -> bool:
        """Add what the engine made. Returns whether the engine must be stopped."""
        response = self._open_response()
        self._count(delta)
        response.token_ids += delta.token_ids
        if delta.logprobs:
            self._add_logprobs(response, delta)
        stop = self._feed(delta.token_ids)
        if stop is not None:
            self._finish(response, "stop", stop.decode(errors="replace"))
            return delta.finish_reason is None
        if delta.finish_reason is not None:
            self.failure = (delta.error, FAULT_CODES[delta.fault])
            self.end(delta.finish_reason, self._special_stops.get(delta.end_id, ""))
        return False

    @property
    def has_to_say(self) -> bool:
        """Whether a response is due now."""
        if self.request.one_response and self.finish_reason != "error":
            return all(other.finish_reason for other in self.request.sequences)
        return self.finish_reason is not None or self.inputs.output.streaming

    def end(self, reason: FinishReason, stop_reason: str = "") -> None:
        """No more tokens will come: the text that was held back goes out."""
        response = self._open_response()
        self._text.finish()
        self._finish(response, reason, stop_reason)

    def _finish(self, response: RoomResponse, reason: FinishReason, stop_reason: str) -> None:
        self.finish_reason = response.finish_reason = reason
        response.stop_reason = stop_reason

    def _open_response(self) -> RoomResponse:
        """The unsent response; a new one if the sender has taken the last."""
        if self.unsent is None:
            inputs, options = self.inputs, self.inputs.output
            self.unsent = RoomResponse(
                self.request.key,
                options,
                len(inputs.prompt_ids),
                self.batch_index,
                self.sequence_index if inputs.num_sequences > 1 else None,
                self._timing,
                self._cum_log_prob,
                self._text.next_span(),
                inputs.prompt_ids if options.echo_prompt and not options.streaming else (),
            )
        return self.unsent

    def _count(self, delta: TokenDelta) -> None:
        timing = self._timing
        timing.first_scheduled_ns = delta.first_scheduled_ns or timing.first_scheduled_ns
        if delta.token_ids:
            timing.last_token_ns = time.time_ns()
            timing.first_token_ns = timing.first_token_ns or timing.last_token_ns

    def _feed(self, token_ids: tuple[int, ...]) -> bytes | None:
        """Add to the text; the first `min_tokens` tokens cannot hold a stop word."""
        early = min(max(0, self.inputs.min_tokens - self._made), len(token_ids))
        self._made += len(token_ids)
        if early:
            self._text.feed(token_ids[:early], may_stop=False)
        return self._text.feed(token_ids[early:])

    def _add_logprobs(self, response: RoomResponse, delta: TokenDelta) -> None:
        response.log_probs += [item.logprob for item in delta.logprobs]
        self._cum_log_prob += sum(item.logprob for item in delta.logprobs)
        response.cum_log_prob = self._cum_log_prob
        if self.inputs.output.top_logprobs:
            response.top_logprobs += [
                {
                    **self._token_as_json(token_id, item.logprob),
                    "top_logprobs": [self._token_as_json(*pair) for pair in item.top],
                }
                for token_id, item in zip(delta.token_ids, delta.logprobs, strict=False)
            ]

    def _token_as_json(self, token_id: int, logprob: float) -> dict[str, object]:
        """As in OpenAI's API, and the id, because a token may be less than a character."""
        data = self._token_bytes.join([token_id], keep_special=True)
        return {
            "token_id": token_id,
            "token": data.decode(errors="replace"),
            "bytes": list(data),
            "logprob": logprob,
        }


def make_request(
    first_key: int,
    ids: Set[str],
    reply: Reply,
    rows: list[GenerationInputs],
    token_bytes: TokenBytes,
    one_response: bool = False,
) -> Request:
    """A request with its sequences, whose keys count up from `first_key`, which is its own."""
    request = Request(first_key, ids, reply, one_response)
    for batch_index, inputs in enumerate(rows):
        for sequence_index in range(inputs.num_sequences):
            key = first_key + len(request.sequences)
            position = (batch_index if len(rows) > 1 else None, sequence_index)
            request.sequences.append(Sequence(key, request, inputs, position, token_bytes))
    request.unanswered = len(request.sequences)
    return request
