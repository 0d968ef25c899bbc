"""One request of a load test, and the metrics that follow from it.

All times are seconds since the run's start (`started_unix` in the run's header), by the worker's
monotonic clock: `scheduled_at` is the request's place in the schedule.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

WARMUP, MEASURED, DRAINED = "warmup", "measured", "drained"
PHASES = (WARMUP, MEASURED, DRAINED)
NORMAL = "normal"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One request. A metric without the times it needs is None."""

    request_id: str
    workload: str
    journey: str = NORMAL  # or cancel_storm, slow_reader, over_long, ...
    phase: str = MEASURED  # warmup; measured; drained: scheduled in the window, ended after it
    worker: str = ""
    turn: int = 0  # of a chat; a later turn is due after the earlier answer
    scheduled_at: float
    sent_at: float | None = None
    first_token_at: float | None = None
    last_token_at: float | None = None
    ended_at: float | None = None  # final response, error or cancellation
    # Between consecutive responses that brought tokens: seconds, and tokens of the later one.
    gaps: tuple[tuple[float, int], ...] = ()
    num_input_tokens: int = 0  # the server's own number
    num_output_tokens: int = 0  # the server's own number, summed over the responses
    finish_reason: str = ""
    error_class: str = ""  # "" where nothing failed
    error: str = ""
    correct: bool | None = None  # None: not checked
    cancelled: bool = False  # by the journey, on purpose

    def __post_init__(self) -> None:
        if self.phase not in PHASES:
            raise ValueError(f"phase must be one of {', '.join(PHASES)}, not {self.phase!r}")

    @property
    def ok(self) -> bool:
        """Answered completely, and not wrong."""
        return not self.error_class and not self.cancelled and self.correct is not False

    @property
    def ttft(self) -> float | None:
        """First token minus scheduled arrival."""
        return _difference(self.first_token_at, self.scheduled_at)

    @property
    def ttft_from_send(self) -> float | None:
        """First token minus actual send."""
        return _difference(self.first_token_at, self.sent_at)

    @property
    def itl(self) -> tuple[float, ...]:
        """Every gap between consecutive responses, divided by the tokens in the later one."""
        return tuple(seconds / tokens for seconds, tokens in self.gaps)

    @property
    def tpot(self) -> float | None:
        """(last - first token) / (n - 1); None below two tokens."""
        span = _difference(self.last_token_at, self.first_token_at)
        return (
            None
            if span is None or self.num_output_tokens < 2
            else span / (self.num_output_tokens - 1)
        )

    @property
    def e2e(self) -> float | None:
        """Final response minus scheduled arrival; None without a complete answer."""
        return None if self.error_class or self.cancelled else self.elapsed

    @property
    def elapsed(self) -> float | None:
        """End, of whatever kind, minus scheduled arrival."""
        return _difference(self.ended_at, self.scheduled_at)

    @property
    def send_lag(self) -> float | None:
        """Actual send minus scheduled arrival: the client's own delay."""
        return _difference(self.sent_at, self.scheduled_at)

    def token_times(self) -> list[tuple[float, int]]:
        """(time, number) of the tokens that arrived."""
        if self.first_token_at is None:
            return []
        at = self.first_token_at
        times = [(at, max(self.num_output_tokens - sum(tokens for _, tokens in self.gaps), 0))]
        for seconds, tokens in self.gaps:
            at += seconds
            times.append((at, tokens))
        return times

    def tokens_between(self, start: float, end: float) -> int:
        """Output tokens that arrived from `start` until before `end`."""
        return sum(tokens for at, tokens in self.token_times() if start <= at < end)

    def to_json(self) -> str:
        """One line of JSON, the fields by name."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> RequestRecord:
        """The inverse of `to_json`; raises ValueError that names what is wrong."""
        try:
            document = json.loads(line)
        except ValueError as error:
            raise ValueError(f"a line of the records is not JSON: {error}") from error
        if not isinstance(document, Mapping):
            raise ValueError(f"a line of the records must be an object, not {document!r}")
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(document) - known):
            raise ValueError(f"a record has no field {unknown[0]!r}")
        values: dict[str, Any] = dict(document)
        values["gaps"] = tuple((each[0], each[1]) for each in document.get("gaps", ()))
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"a record lacks a field: {error}") from error


def _difference(later: float | None, earlier: float | None) -> float | None:
    return None if later is None or earlier is None else later - earlier
