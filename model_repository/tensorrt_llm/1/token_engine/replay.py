"""A runtime without a model: it plays a request's own prompt back, cyclically, at a set pace.

It is for tests of everything but the model, and to measure what a token costs outside the forward
pass. Requests are batched in flight, as in a real engine: one step advances `max_batch_size`
requests by one token each, and the others wait in the queue. Sampling parameters are ignored, and
parameters that need a model are refused. The playback skips the prompt's end ids, so that a chat
prompt too is played to `max_tokens`, and past any `min_tokens`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from engine_config import EngineConfig, EngineConfigError, parse_section

from token_engine.interface import (
    EngineStats,
    GenerationRequest,
    TokenDelta,
    TokenEngine,
    UnsupportedParameter,
    lacks,
)

# What happens to each field of a request; shown in model_repository/TENSORS.md. "refused" or
# "no effect" at the beginning means every value but the default.
HONOURS = {
    "greedy": "no effect",
    "temperature": "no effect",
    "top_k": "no effect",
    "top_p": "no effect",
    "min_p": "no effect",
    "seed": "no effect",
    "repetition_penalty": "no effect",
    "presence_penalty": "no effect",
    "frequency_penalty": "no effect",
    "max_tokens": "the length of the playback",
    "end_ids": "left out of the playback; it ends at once if nothing is left",
    "min_tokens": "no effect: no end id is played",
    "bad_words": "refused: without a model",
    "token_bias": "refused: without a model",
    "logprobs": "refused: without a model",
    "guide": "refused: without a model",
    "priority": "the order of its queue",
}


@dataclass(frozen=True)
class ReplayOptions:
    """`runtime_options` of a replay engine."""

    step_seconds: float = 0.0  # pace: the duration of one step; 0 is as fast as it can

    def __post_init__(self) -> None:
        if not 0 <= self.step_seconds < float("inf"):
            raise EngineConfigError(f"step_seconds is {self.step_seconds!r} and must be 0 or more")


class ReplayEngine(TokenEngine):
    """See the module's docstring."""

    def __init__(self, config: EngineConfig) -> None:
        options: dict[str, Any] = config.runtime_options
        self._options = parse_section(ReplayOptions, options, "runtime_options")
        self._max_batch_size = config.limits.max_batch_size
        self._waiting: dict[int, GenerationRequest] = {}  # in order of arrival
        self._running: dict[int, _Playback] = {}
        self._next_step = 0.0  # time.monotonic() at which the next step may end

    @property
    def has_work(self) -> bool:
        return bool(self._running or self._waiting)

    def submit(self, request: GenerationRequest) -> None:
        wanted = [
            ("logprobs", request.logprobs is not None),
            ("bad_words", bool(request.bad_words)),
            ("embedding_bias", bool(request.token_bias)),
            ("guided_decoding_guide_type", request.guide is not None),
        ]
        for name, given in wanted:
            if given:
                raise UnsupportedParameter(lacks("replay", name, "given", "none"))
        self._waiting[request.key] = request

    def cancel(self, key: int) -> None:
        self._waiting.pop(key, None)
        self._running.pop(key, None)

    def step(self) -> list[TokenDelta]:
        self._admit()
        self._keep_pace()
        deltas = [playback.advance() for playback in self._running.values()]
        for delta in deltas:
            if delta.finish_reason:
                del self._running[delta.key]
        return deltas

    def _admit(self) -> None:
        now = time.time_ns()
        while self._waiting and len(self._running) < self._max_batch_size:
            request = min(self._waiting.values(), key=lambda waiting: waiting.priority)
            del self._waiting[request.key]
            ends = set(request.end_ids)
            tokens = tuple(token for token in request.prompt_ids if token not in ends)
            playback = _Playback(request.key, tokens, request.max_tokens, now)
            self._running[request.key] = playback

    def _keep_pace(self) -> None:
        pace = self._options.step_seconds
        if pace:
            now = time.monotonic()
            # A delay of less than one step is made up for; after idle time the pace starts anew.
            start = self._next_step if now - self._next_step < pace else now
            self._next_step = start + pace
            time.sleep(max(0.0, self._next_step - now))

    def stats(self) -> EngineStats:
        return EngineStats(active_requests=len(self._running), queued_requests=len(self._waiting))

    def shutdown(self) -> None:
        self._waiting.clear()
        self._running.clear()


@dataclass(slots=True)
class _Playback:
    key: int
    tokens: tuple[int, ...]
    max_tokens: int
    first_scheduled_ns: int
    position: int = 0

    def advance(self) -> TokenDelta:
        if not self.tokens:
            return TokenDelta(self.key, (), "stop", first_scheduled_ns=self.first_scheduled_ns)
        token = self.tokens[self.position % len(self.tokens)]
        self.position += 1
        if self.position < self.max_tokens:
            return TokenDelta(self.key, (token,))
        return TokenDelta(self.key, (token,), "length", first_scheduled_ns=self.first_scheduled_ns)
