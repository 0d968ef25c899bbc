"""A worker's part of one round of load: sends what is due, reads what comes, counts it.

The open loop never waits for an answer: each arrival is a greenlet of its own, and its latency
counts from the time at which it was due, however late it was sent.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gevent
from figures.record import DRAINED, MEASURED, NORMAL, WARMUP, RequestRecord
from figures.results import RunResults
from gevent.pool import Pool
from traffic.arrivals import RateCurve, Schedule, unit_arrivals
from traffic.faults import journeys_of, parse_faults
from traffic.workloads import Conversation, Turn

from rounds import sdk
from rounds.client_health import HealthSampler
from rounds.options import RunOptions
from rounds.request import UNFINISHED, Clock, Exchange, history_with
from rounds.source import LoadSource

LONGEST_SLEEP_S = 0.25  # a change of the rate is heard of at least as often
ANSWER_LIMIT = "ClientLimit"
NEVER_SENT = "the client had not come to send it when the drain ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundPlan:
    """What the master tells a worker of a round."""

    number: int
    options: RunOptions
    header: dict[str, Any]
    started_unix: float
    index: int  # this worker's
    count: int  # of workers
    name: str  # this worker's
    rate: float
    references: dict[str, str] = field(default_factory=dict)  # turn key -> digest


class LoadRound:
    """`run()` returns when everything that was sent is over."""

    def __init__(
        self,
        plan: RoundPlan,
        source: LoadSource,
        client: sdk.Client,
        fire: Callable[[RequestRecord], None],
    ) -> None:
        self.plan = plan
        self.clock = Clock(plan.started_unix)
        self.curve = RateCurve(plan.rate)
        self.end_s = plan.options.load_s
        self.health = HealthSampler(plan.name, self.clock, plan.options.warmup_s)
        self._source = source
        self._client = client
        self._fire = fire
        self._delta = RunResults(dict(plan.header))
        self._lines: list[str] = []
        self._pool = Pool()
        self._running: dict[str, Exchange] = {}
        self._closed_number = plan.index
        self._leaving = False
        self._slos = self._delta.slos

    def run(self) -> None:
        """The whole round: wait for the start, load, drain."""
        gc.collect()
        gc.freeze()  # the prompts and the libraries: no full collection goes through them
        sampler = gevent.spawn(self.health.run)
        try:
            if self.plan.options.closed_loop:
                self._wait_until(lambda: self.end_s)
            else:
                self._open_loop()
                self._wait_until(lambda: self.end_s)
            self.health.stop()
            self._drain()
            self._count_unsent()
        finally:
            sampler.kill()

    def stop(self, drain: bool = True) -> None:
        """Send nothing more; without `drain` what runs is left too."""
        self.end_s = min(self.end_s, max(self.clock.now(), 0.0))
        if not drain:
            self._leaving = True
            self._pool.kill(block=False)

    def closed_request(self) -> bool:
        """A closed loop's user: ask, and return after the answer; False outside the load."""
        now = self.clock.now()
        if not 0 <= now < self.end_s:
            return False
        number, self._closed_number = self._closed_number, self._closed_number + self.plan.count
        # A greenlet of its own: Locust ends users, and their requests are not to end with them.
        greenlets = self._arrival(number, now, self._source.mix.conversation(number))
        gevent.joinall(greenlets)
        return True

    def take(self) -> tuple[RunResults, list[str]]:
        """Results and records' lines since the last call."""
        delta, self._delta = self._delta, RunResults(dict(self.plan.header))
        lines, self._lines = self._lines, []
        delta.workers[self.plan.name] = self.health.take()
        return delta, lines

    def gauges(self) -> dict[str, Any]:
        """in_flight; overdue, by SLO on ttft: normal requests whose first token is already too
        late for it."""
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

    def _open_loop(self) -> None:
        units = self._source.units(self.plan.rate) or unit_arrivals(
            self.plan.options.arrivals, self.plan.options.seed, self.plan.options.burstiness
        )
        for number, unit in Schedule(units, self.plan.index, self.plan.count).arrivals():
            conversation = self._source.mix.conversation(number)  # before it is due
            due = self.curve.seconds(unit)
            if due >= self.end_s:
                return
            self._wait_until(lambda unit=unit: self.curve.seconds(unit))  # type: ignore[misc]
            due = self.curve.seconds(unit)
            if due >= self.end_s or self._leaving:
                return
            self._arrival(number, due, conversation)

    def _wait_until(self, due: Callable[[], float]) -> None:
        """Until `due()`, which may change meanwhile, or the load's end."""
        gevent.sleep(0)  # of a client that is late too, what was spawned is sent meanwhile
        while (left := min(due(), self.end_s) - self.clock.now()) > 0:
            gevent.sleep(min(left, LONGEST_SLEEP_S))

    def _arrival(self, number: int, due: float, conversation: Conversation) -> list[Any]:
        options = self.plan.options
        shares = parse_faults(options.faults)
        spawned = []
        for part, journey in enumerate(journeys_of(number, options.seed, shares)):
            request_id = f"{options.seed}-{self.plan.number}-{number}-{part}"
            turns = self._source.turns(number, conversation, journey)
            exchange = Exchange(f"{request_id}-0", turns[0], journey, due, conversation.workload)
            if len(self._running) >= options.max_in_flight:
                exchange.error_class = ANSWER_LIMIT
                exchange.error = f"{options.max_in_flight} requests were in flight already"
                self._over(exchange, "", 0)
                continue
            self._running[exchange.request_id] = exchange  # now: its greenlet may never begin
            spawned.append(
                self._pool.spawn(self._converse, request_id, exchange, turns, conversation)
            )
        return spawned

    def _converse(
        self,
        request_id: str,
        exchange: Exchange,
        turns: tuple[Turn, ...],
        conversation: Conversation,
    ) -> None:
        """Turn after turn; a later one is due when its user has thought about the answer."""
        history: list[dict[str, str]] = []
        for place, turn in enumerate(turns):
            if place:
                due = self.clock.now() + turn.think_s
                self._wait_until(lambda due=due: due)  # type: ignore[misc]
                if due >= self.end_s:
                    return
                exchange = Exchange(
                    f"{request_id}-{place}", turn, exchange.journey, due, conversation.workload
                )
                self._running[exchange.request_id] = exchange
            messages = history_with(history, turn, conversation.chat)
            try:
                exchange.perform(self._client, self.clock, messages, gevent.sleep)
            finally:
                del self._running[exchange.request_id]
                self._over(exchange, self._reference(turn), place)
            if exchange.error_class or exchange.left:
                return
            history = [*messages, {"role": "assistant", "content": exchange.answer.text}]

    def _reference(self, turn: Turn) -> str | None:
        """As `checks.wrong` takes it."""
        checked = self.plan.options.text_check
        return self.plan.references.get(turn.key, "") if checked else None

    def _over(self, exchange: Exchange, reference: str | None, turn: int) -> None:
        ended = self.clock.now()
        if self._leaving and exchange.error_class == UNFINISHED:
            # Left because the run was interrupted: nobody's failure.
            exchange.error_class, exchange.error, exchange.left = "", "", True
        record = exchange.record(
            ended_at=ended,
            phase=self._phase(exchange.scheduled_at, ended),
            worker=self.plan.name,
            reference=reference,
            turn=turn,
        )
        self._delta.add(record)
        self.health.tokens += record.num_output_tokens
        if self.plan.options.records:
            self._lines.append(record.to_json())
        self._fire(record)

    def _phase(self, scheduled_at: float, ended_at: float) -> str:
        if scheduled_at < self.plan.options.warmup_s:
            return WARMUP
        return DRAINED if ended_at >= self.end_s else MEASURED

    def _drain(self) -> None:
        if not self._pool.join(timeout=self.plan.options.drain_s):
            self._pool.kill()

    def _count_unsent(self) -> None:
        """Requests whose greenlets were ended before they had begun."""
        for request_id in list(self._running):
            exchange = self._running.pop(request_id)
            exchange.error_class, exchange.error = UNFINISHED, NEVER_SENT
            self._over(exchange, "", 0)
