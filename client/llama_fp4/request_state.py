"""The state of one request, without its I/O: times, limits, attempts and the whole answer."""

from __future__ import annotations

import math
from time import perf_counter

from llama_fp4.answers import Chunk, Completion, Timing
from llama_fp4.errors import (
    BetweenTokensTimeout,
    ConnectTimeout,
    FirstTokenTimeout,
    IncompleteStream,
    LlamaError,
    RequestTimeout,
    TotalTimeout,
)
from llama_fp4.settings import Retries, Timeouts

STOP_TIMEOUT_S = 5.0  # for the answer to a stop
LATE_STOP_TIMEOUT_S = 0.5  # the same after a limit of the request has passed


class RequestState:
    """Both kinds of stream keep one and report to it.

    `deadline` is when the current token limit runs out, in seconds of `perf_counter`.
    """

    __slots__ = (
        "_between",
        "_chunks",
        "_total_at",
        "deadline",
        "expired",
        "request_id",
        "retries",
        "timeouts",
        "timing",
    )

    def __init__(
        self, request_id: str, timeouts: Timeouts, retries: Retries, started: float
    ) -> None:
        self.request_id = request_id
        self.timeouts, self.retries = timeouts, retries
        self.timing = Timing()
        self.deadline = math.inf
        self.expired: RequestTimeout | None = None
        self._between = timeouts.between_tokens
        self._total_at = math.inf if timeouts.total is None else started + timeouts.total
        self._chunks: list[Chunk] = []

    @property
    def has_token_limits(self) -> bool:
        """Whether there is a limit for tokens, which no transport enforces."""
        return self.timeouts.first_token is not None or self._between is not None

    @property
    def limits_gaps(self) -> bool:
        """Whether tokens have a limit after the first one."""
        return self._between is not None

    def begin_attempt(self) -> float | None:
        """Start an attempt; returns the seconds left, None without limit. Raises `TotalTimeout`."""
        now = perf_counter()
        left = self._total_at - now
        if left <= 0:
            raise self._late()
        self.timing.attempts += 1
        self.timing.sent_at = now
        first = self.timeouts.first_token
        self.deadline = math.inf if first is None else now + first
        return None if left == math.inf else left

    def ask_limit_s(self) -> float | None:
        """Seconds that the call for the metadata may take. Raises `TotalTimeout`."""
        left = self._total_at - perf_counter()
        if left <= 0:
            raise self._late()
        seconds = min(left, self.timeouts.connect or math.inf)
        return None if seconds == math.inf else seconds

    def ask_error(self, error: LlamaError, seconds: float | None) -> LlamaError:
        """The error of a call for the metadata that hit the limit for connecting, or the total."""
        if not isinstance(error, TotalTimeout) or seconds is None:
            return error
        if seconds != self.timeouts.connect:
            return self._late()
        return ConnectTimeout(f"the server did not answer in {seconds:g} s")

    def add(self, chunk: Chunk) -> None:
        """Count a chunk that has come."""
        now = perf_counter()
        timing = self.timing
        if not timing.num_responses:
            timing.first_token_at = now
            self.deadline = math.inf
        timing.last_token_at = now
        timing.num_responses += 1
        timing.num_output_tokens += chunk.num_output_tokens
        if self._between is not None:
            self.deadline = now + self._between
        self._chunks.append(chunk)

    def end(self) -> None:
        """Note that nothing more will come."""
        if not self.timing.ended_at:
            self.timing.ended_at = perf_counter()
        self.deadline = math.inf

    def expire(self) -> None:
        """Note that the deadline has passed."""
        limits = self.timeouts
        if self.timing.num_responses:
            self.expired = BetweenTokensTimeout(
                f"no further token came in {limits.between_tokens:g} s", request_id=self.request_id
            )
        else:
            self.expired = FirstTokenTimeout(
                f"no token came in {limits.first_token:g} s", request_id=self.request_id
            )

    def shown_error(self, error: LlamaError) -> LlamaError:
        """The error that the caller sees for this error of the transport."""
        if self.expired is not None:
            return self.expired
        if isinstance(error, TotalTimeout) and self.timeouts.total is not None:
            return self._late()
        error.request_id = error.request_id or self.request_id
        return error

    def pause_before_retry(self, error: LlamaError) -> float | None:
        """Seconds until the next attempt; None if there is none."""
        timing = self.timing
        if not error.retryable or timing.num_responses or timing.attempts >= self.retries.attempts:
            return None
        seconds = self.retries.seconds_before(timing.attempts + 1)
        return seconds if perf_counter() + seconds < self._total_at else None

    def stop_limit_s(self) -> float:
        """Seconds to wait for the answer to a stop; a server that hangs never sends it."""
        left = 0.0 if self.expired else self._total_at - perf_counter()
        return min(max(left, LATE_STOP_TIMEOUT_S), STOP_TIMEOUT_S)

    def incomplete_error(self) -> IncompleteStream:
        """The error of a call that ended without a final chunk."""
        return IncompleteStream(
            f"the stream ended after {self.timing.num_responses} responses, before its final one",
            request_id=self.request_id,
        )

    @property
    def finished(self) -> bool:
        """Whether the final chunk was read."""
        return bool(self._chunks) and self._chunks[-1].final

    def left_error(self) -> IncompleteStream:
        """The error of reading from a stream that was left, was closed or has failed."""
        count = self.timing.num_responses
        return IncompleteStream(
            f"the stream was left or has failed after {count} response{'' if count == 1 else 's'}, "
            "before its final one, and cannot be read again: send the request again",
            request_id=self.request_id,
        )

    def _late(self) -> TotalTimeout:
        return TotalTimeout(
            f"the answer was not complete in {self.timeouts.total:g} s", request_id=self.request_id
        )

    @property
    def completion(self) -> Completion:
        """Raises `IncompleteStream` before the final chunk."""
        if not self.finished:
            raise self.incomplete_error()
        last = self._chunks[-1]
        return Completion(
            "".join([chunk.text for chunk in self._chunks]),
            last.finish_reason,
            last.stop_reason,
            last.num_input_tokens,
            self.timing.num_output_tokens,
            tuple(token for chunk in self._chunks for token in chunk.token_ids),
            self.request_id,
            self.timing,
        )
