"""A worker's part of one round of load: sends what is due, reads the answers, counts them.

The open loop never waits for an answer: each arrival is a task, and its latency counts from the
time at which it was due, however late it was sent.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any, cast

from figures.record import DRAINED, MEASURED, NORMAL, WARMUP, RequestRecord
from figures.results import RunResults
from traffic.arrivals import RateCurve, Schedule, unit_arrivals
from traffic.faults import journeys_of, parse_faults
from traffic.workloads import Conversation, Turn

from sending import sdk
from sending.client_health import HealthSampler
from sending.messages import Report, RoundPlan
from sending.request import UNFINISHED, Clock, LoadRequest, history_with
from sending.source import LoadSource

LONGEST_SLEEP_S = 0.25  # so that a change of the rate takes effect
TOLD_LATE_S = 0.1  # a later begin of a closed loop is noted
REFUSED_S = 0.05  # until a closed loop's user asks again after --max-in-flight refused it
ANSWER_LIMIT = "ClientLimit"
NEVER_SENT = "the client had not sent it when the drain ended"


class LoadRound:
    """One round; `run()` returns when every sent request has ended."""

    def __init__(self, plan: RoundPlan, source: LoadSource, client: sdk.Client) -> None:
        self.plan = plan
        self.clock = Clock(plan.started_unix)
        self.curve = RateCurve(plan.rate)
        self.end_s = plan.options.load_s
        self.health = HealthSampler(plan.name, self.clock, plan.options.warmup_s)
        self._source = source
        self._client = client
        self._delta = RunResults(dict(plan.header))
        self._lines: list[str] = []
        self._events: list[dict[str, Any]] = []
        self._tasks: set[asyncio.Task[None]] = set()  # conversations
        self._users: set[asyncio.Task[None]] = set()
        self._most_users = 0
        self._running: dict[str, LoadRequest] = {}
        self._closed_number = plan.index
        self._leaving = False
        self._slos = self._delta.slos
        if plan.options.closed_loop and (late_s := self.clock.now()) > 0:
            # Nothing was due yet, so a plan that a busy machine delivered late costs no load.
            self.clock.zero += late_s
            if late_s > TOLD_LATE_S:
                self._delta.note(f"worker {plan.name} began its load {late_s:.1f} s late")

    async def run(self) -> None:
        """Wait for the start, load, drain."""
        gc.collect()
        gc.freeze()  # full collections then skip the prompts and the libraries
        sampler = asyncio.create_task(self.health.run())
        try:
            if not self.plan.options.closed_loop:
                await self._open_loop()
            await self._wait_until(lambda: self.end_s)
            self.health.stop()
            await self._drain()
            self._count_unsent()
        finally:
            for task in (sampler, *self._tasks, *self._users):
                task.cancel()

    def stop(self, drain: bool = True) -> None:
        """Send nothing more; without `drain`, abandon what is in flight too."""
        self.end_s = min(self.end_s, max(self.clock.now(), 0.0))
        if not drain:
            self._leaving = True
            for task in self._tasks:
                task.cancel()

    def set_users(self, users: int) -> None:
        """Set a closed loop's number of users; superfluous ones leave after their answers."""
        self._most_users = users
        while self.plan.options.closed_loop and len(self._users) < users:
            self._spawn(self._users, self._user())

    def collect(self) -> Report:
        """The results since the last call."""
        report = Report(self._delta, self._lines, self._events, self.gauges())
        self._delta, self._lines, self._events = RunResults(dict(self.plan.header)), [], []
        report.results.workers[self.plan.name] = self.health.collect()
        return report

    def gauges(self) -> dict[str, Any]:
        """in_flight; overdue, by SLO on ttft: normal requests whose first token is already late."""
        now = self.clock.now()
        waiting = [
            each
            for each in self._running.values()
            if each.first_at is None
            and each.journey.name == NORMAL
            and each.scheduled_at >= self.plan.options.warmup_s
        ]
        overdue = {
            slo.text: sum(
                slo.concerns(each.workload) and now - each.scheduled_at > slo.limit_s
                for each in waiting
            )
            for slo in self._slos
            if slo.metric == "ttft"
        }
        return {"in_flight": len(self._running), "overdue": overdue}

    async def _user(self) -> None:
        """One user of a closed loop: asks again as soon as it is answered."""
        await self._wait_until(lambda: 0.0)
        while (now := self.clock.now()) < self.end_s:
            if len(self._users) > self._most_users:
                self._users.discard(cast("asyncio.Task[None]", asyncio.current_task()))
                return
            number, self._closed_number = self._closed_number, self._closed_number + self.plan.count
            tasks = self._arrival(number, now, self._source.mix.conversation(number))
            await (asyncio.wait(tasks) if tasks else asyncio.sleep(REFUSED_S))

    async def _open_loop(self) -> None:
        units = self._source.units(self.plan.rate) or unit_arrivals(
            self.plan.options.arrivals, self.plan.options.seed, self.plan.options.burstiness
        )
        for number, unit in Schedule(units, self.plan.index, self.plan.count).arrivals():
            conversation = self._source.mix.conversation(number)  # before it is due
            due = self.curve.seconds(unit)
            if due >= self.end_s:
                return
            await self._wait_until(lambda unit=unit: self.curve.seconds(unit))  # type: ignore[misc]
            due = self.curve.seconds(unit)
            if due >= self.end_s or self._leaving:
                return
            self._arrival(number, due, conversation)

    async def _wait_until(self, due: Callable[[], float]) -> None:
        """Wait until `due()`, which may change meanwhile, or until the load ends."""
        await asyncio.sleep(0)  # lets spawned tasks send, even if the client is late
        while (left := min(due(), self.end_s) - self.clock.now()) > 0:
            await asyncio.sleep(min(left, LONGEST_SLEEP_S))

    def _spawn(
        self, tasks: set[asyncio.Task[None]], work: Coroutine[Any, Any, None]
    ) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task

    def _arrival(
        self, number: int, due: float, conversation: Conversation
    ) -> list[asyncio.Task[None]]:
        options = self.plan.options
        shares = parse_faults(options.faults)
        spawned = []
        for part, journey in enumerate(journeys_of(number, options.seed, shares)):
            request_id = f"{options.seed}-{self.plan.number}-{number}-{part}"
            turns = self._source.turns(number, conversation, journey)
            request = LoadRequest(f"{request_id}-0", turns[0], journey, due, conversation.workload)
            if len(self._running) >= options.max_in_flight:
                request.error_class = ANSWER_LIMIT
                request.error = f"{options.max_in_flight} requests were in flight already"
                self._over(request, "", 0)
                continue
            self._running[request.request_id] = request  # here, because its task may never start
            work = self._converse(request_id, request, turns, conversation)
            spawned.append(self._spawn(self._tasks, work))
        return spawned

    async def _converse(
        self,
        request_id: str,
        request: LoadRequest,
        turns: tuple[Turn, ...],
        conversation: Conversation,
    ) -> None:
        """Send turn after turn; a later one is due after the user's think time."""
        history: list[dict[str, str]] = []
        for place, turn in enumerate(turns):
            if place:
                due = self.clock.now() + turn.think_s
                await self._wait_until(lambda due=due: due)  # type: ignore[misc]
                if due >= self.end_s:
                    return
                request = LoadRequest(
                    f"{request_id}-{place}", turn, request.journey, due, conversation.workload
                )
                self._running[request.request_id] = request
            messages = history_with(history, turn, conversation.chat)
            try:
                await request.perform(self._client, self.clock, messages)
            finally:
                del self._running[request.request_id]
                self._over(request, self._reference(turn), place)
            if request.error_class or request.left:
                return
            history = [*messages, {"role": "assistant", "content": request.answer.text}]

    def _reference(self, turn: Turn) -> str | None:
        """The `reference` that `check_answer.wrong` takes."""
        checked = self.plan.options.text_check
        return self.plan.references.get(turn.key, "") if checked else None

    def _over(self, request: LoadRequest, reference: str | None, turn: int) -> None:
        ended = self.clock.now()
        if self._leaving and request.error_class == UNFINISHED:
            # The run was interrupted: not a failure.
            request.error_class, request.error, request.left = "", "", True
        record = request.record(
            ended_at=ended,
            phase=self._phase(request.scheduled_at, ended),
            worker=self.plan.name,
            reference=reference,
            turn=turn,
        )
        self._delta.add(record)
        self.health.tokens += record.num_output_tokens
        if self.plan.options.records:
            self._lines.append(record.to_json())
        self._events.append(_event(record))

    def _phase(self, scheduled_at: float, ended_at: float) -> str:
        if scheduled_at < self.plan.options.warmup_s:
            return WARMUP
        return DRAINED if ended_at >= self.end_s else MEASURED

    async def _drain(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self.plan.options.drain_s)
        left = [*self._tasks, *self._users]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _count_unsent(self) -> None:
        """Count requests whose tasks were cancelled before they started."""
        for request_id in list(self._running):
            request = self._running.pop(request_id)
            request.error_class, request.error = UNFINISHED, NEVER_SENT
            self._over(request, "", 0)


def _event(record: RequestRecord) -> dict[str, Any]:
    """Locust's event of one request, for Locust's own statistics."""
    problem = record.error_class or ("Incorrect" if record.correct is False else "")
    return {
        "request_type": "gRPC",
        "name": record.workload if record.journey == NORMAL else record.journey,
        "response_time": (record.elapsed or 0.0) * 1e3,
        "response_length": record.num_output_tokens,
        "exception": f"{problem}: {record.error}" if problem else "",
    }
