"""A runtime without a model: it plays a request's own prompt back, cyclically, at a set pace.

For tests of everything but the model, and for measuring the serving path: what is left of a
token's cost when the forward pass costs nothing. Requests are batched in flight as a real
engine batches them: one step advances the first `max_batch_size` requests by one token each,
the others wait in the queue. It samples nothing: the sampling parameters are ignored. The
prompt's end ids are left out of the playback, so that a chat prompt plays to `max_tokens` too.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from engine_config import EngineConfig, EngineConfigError, parse_section

from token_engine.interface import EngineStats, GenerationRequest, TokenDelta, TokenEngine


@dataclass(frozen=True)
class ReplayOptions:
    """`runtime_options` of a replay engine."""

    step_seconds: float = 0.0  # pace: the duration of one step; 0 is as fast as it can

    def __post_init__(self) -> None:
        if not 0 <= self.step_seconds < float("inf"):
            raise EngineConfigError(f"step_seconds is {self.step_seconds!r}, allowed is 0 or more")


class ReplayEngine(TokenEngine):
    """See the module's docstring."""

    def __init__(self, config: EngineConfig) -> None:
        options: dict[str, Any] = config.runtime_options
        self._options = parse_section(ReplayOptions, options, "runtime_options")
        self._max_batch_size = config.limits.max_batch_size
        self._requests: dict[int, _Playback] = {}  # in order of arrival
        self._next_step = 0.0  # time.monotonic() at which the next step may end

    @property
    def has_work(self) -> bool:
        return bool(self._requests)

    def submit(self, request: GenerationRequest) -> None:
        ends = set(request.end_ids)
        tokens = tuple(token for token in request.prompt_ids if token not in ends)
        self._requests[request.key] = _Playback(request.key, tokens, request.max_tokens)

    def cancel(self, key: int) -> None:
        self._requests.pop(key, None)

    def step(self) -> list[TokenDelta]:
        self._keep_pace()
        batch = list(self._requests.values())[: self._max_batch_size]
        deltas = [playback.advance() for playback in batch]
        for delta in deltas:
            if delta.finish_reason:
                del self._requests[delta.key]
        return deltas

    def _keep_pace(self) -> None:
        pace = self._options.step_seconds
        if pace:
            now = time.monotonic()
            # Late by less than one step is caught up; after an idle time the pace starts anew.
            start = self._next_step if now - self._next_step < pace else now
            self._next_step = start + pace
            time.sleep(max(0.0, self._next_step - now))

    def stats(self) -> EngineStats:
        running = min(len(self._requests), self._max_batch_size)
        return EngineStats(active_requests=running, queued_requests=len(self._requests) - running)

    def shutdown(self) -> None:
        self._requests.clear()


@dataclass(slots=True)
class _Playback:
    key: int
    tokens: tuple[int, ...]
    max_tokens: int
    position: int = 0

    def advance(self) -> TokenDelta:
        if not self.tokens:
            return TokenDelta(self.key, (), "stop")
        token = self.tokens[self.position % len(self.tokens)]
        self.position += 1
        return TokenDelta(
            self.key, (token,), "length" if self.position == self.max_tokens else None
        )
