"""One request from its scheduled time to its record."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from figures.record import RequestRecord
from traffic.faults import Journey
from traffic.workloads import Turn

from sending import sdk
from sending.check_answer import Answer, wrong

UNFINISHED = "Unfinished"
MOST_TOLD = 1000  # characters of an error: some list every option before the wrong one


class Clock:
    """Seconds since the run's start, by this process's monotonic clock."""

    def __init__(self, started_unix: float) -> None:
        self.zero = time.perf_counter() + (started_unix - time.time())

    def now(self) -> float:
        """Negative before the start."""
        return time.perf_counter() - self.zero


@dataclass(slots=True)
class LoadRequest:
    """A request in flight; `record()` when it has ended."""

    request_id: str
    turn: Turn
    journey: Journey
    scheduled_at: float
    workload: str = ""
    sent_at: float | None = None
    first_at: float | None = None
    last_at: float | None = None
    gaps: list[tuple[float, int]] = field(default_factory=list)
    answer: Answer = field(default_factory=Answer)
    texts: list[str] = field(default_factory=list)
    error_class: str = ""
    error: str = ""
    left: bool = False

    async def perform(self, client: sdk.Client, clock: Clock, history: sdk.Messages) -> None:
        """Send it and read the answer; errors are recorded, only cancellation is raised."""
        try:
            self.sent_at = clock.now()
            async with sdk.open_stream(client, self.turn, history, self.request_id) as chunks:
                await self._read(chunks, clock.zero)
        except Exception as error:
            self._failed(error)
        except BaseException:  # the task is cancelled: the request outlived the drain
            self.error_class = UNFINISHED
            self.error = "the answer was not whole when the drain ended"
            raise
        finally:
            self.answer.text = "".join(self.texts)

    async def _read(self, chunks: Any, zero: float) -> None:
        """Read the responses. This is the hot loop: one clock read per response with tokens."""
        answer, journey, clock = self.answer, self.journey, time.perf_counter
        if journey.leave_after == 0:
            await asyncio.sleep(0)  # gRPC sends it meanwhile
            self.left = True
            return
        async for chunk in chunks:
            tokens = chunk.num_output_tokens
            if tokens:
                now = clock() - zero
                if self.last_at is None:
                    self.first_at = now
                else:
                    self.gaps.append((now - self.last_at, tokens))
                self.last_at = now
                answer.num_output_tokens += tokens
            self.texts.append(chunk.text)
            answer.after_final += answer.finals > 0
            if chunk.final:
                answer.finals += 1
                answer.finish_reason = chunk.finish_reason
                answer.num_input_tokens = chunk.num_input_tokens
            elif (
                journey.leave_after is not None and answer.num_output_tokens >= journey.leave_after
            ):
                self.left = True
                return
            if journey.pause_s:
                await asyncio.sleep(journey.pause_s)

    def _failed(self, error: Exception) -> None:
        if self.journey.refusal and sdk.is_refusal(error):
            self.answer.finish_reason = "refused"
            return
        self.error_class, self.error = sdk.error_class(error), str(error)[:MOST_TOLD]

    def record(
        self, *, ended_at: float, phase: str, worker: str, reference: str | None, turn: int
    ) -> RequestRecord:
        """The record; `reference` is the one that `check_answer.wrong` takes."""
        correct, why = self._correct(reference)
        return RequestRecord(
            request_id=self.request_id,
            workload=self.workload,
            journey=self.journey.name,
            phase=phase,
            worker=worker,
            turn=turn,
            scheduled_at=self.scheduled_at,
            sent_at=self.sent_at,
            first_token_at=self.first_at,
            last_token_at=self.last_at,
            ended_at=ended_at,
            gaps=tuple(self.gaps),
            num_input_tokens=self.answer.num_input_tokens,
            num_output_tokens=self.answer.num_output_tokens,
            finish_reason=self.answer.finish_reason,
            error_class=self.error_class,
            error=self.error or why,
            correct=correct,
            cancelled=self.left,
        )

    def _correct(self, reference: str | None) -> tuple[bool | None, str]:
        if self.error_class or self.left:
            return None, ""
        if self.journey.refusal:
            refused = self.answer.finish_reason == "refused"
            return refused, "" if refused else "the over-long prompt was answered"
        why = wrong(self.answer, self.turn.max_tokens, self.turn.options, reference)
        return not why, why


def history_with(history: list[dict[str, str]], turn: Turn, chat: bool) -> list[dict[str, str]]:
    """The messages to send for a turn; empty for a raw prompt."""
    if turn.messages:
        return [dict(message) for message in turn.messages]
    return [*history, {"role": "user", "content": turn.prompt}] if chat else []
