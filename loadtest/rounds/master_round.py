"""Watches one round for the master: collects reports, shows progress, notices dead workers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import gevent
from command_line.options import RunOptions
from figures.results import RunResults
from output.terminal import say
from output.terminal_table import progress_line
from searches.rate_trial import allowed_late, needed
from traffic.arrivals import RateCurve, count_before, unit_arrivals
from traffic.mix import chosen

from rounds.worker import STOP
from rounds.workers import Workers

POLL_S = 0.2
PROGRESS_S = 5.0
GRACE_S = 20.0  # after load and drain, before silent workers are given up


class RoundWatch:
    """One round; `wait()` returns when every worker is done, dead or given up."""

    def __init__(
        self,
        runner: Any,
        results: RunResults,
        options: RunOptions,
        number: int,
        running: Iterable[str],
        started_unix: float,
        rate: float,
        until_broken: bool,
        workers: Workers,
    ) -> None:
        self.number = number
        self.options = options
        self.started_unix = started_unix
        self.rate = rate
        self.until_broken = until_broken
        self.broken = ""  # the sentence on an SLO that can no longer hold
        self._runner = runner
        self._workers = workers
        self._results = results
        self._running = set(running)
        self._gauges: dict[str, Mapping[str, Any]] = {}
        self._stopped_at: float | None = None
        self._planned = self._planned_requests(rate) if until_broken else {}

    def report(self, data: Mapping[str, Any]) -> None:
        """A worker's results since its last report."""
        results = data["results"]
        self._results.merge(
            results if isinstance(results, RunResults) else RunResults.decode(results)
        )
        self._gauges[data["id"]] = data["gauges"]

    def done(self, worker: str, problem: str) -> None:
        """A worker has nothing in flight any more, or could not go on (`problem`)."""
        self._running.discard(worker)
        if problem:
            self._miss(worker, problem)

    def stop(self, drain: bool) -> None:
        """Send nothing more; without `drain`, abandon what is in flight."""
        now = self.now()
        if self._stopped_at is None and now < self.options.load_s:
            self._stopped_at = max(now, 0.0)
            measured = max(self._stopped_at - self.options.warmup_s, 0.0)
            self._results.header["duration_s"] = measured
            self._results.note(f"the load was ended at {self._stopped_at:.0f} s")
        self._runner.send_message(STOP, {"drain": drain})

    def phase(self) -> str:
        """For people: where the round is."""
        now, options = self.now(), self.options
        if self._stopped_at is not None or now >= options.load_s:
            return "drain: waiting for the requests in flight"
        if now < options.warmup_s:
            return f"warm-up: {max(now, 0):.0f} of {options.warmup_s:g} s"
        measured = options.load_s - options.warmup_s
        return f"load: {now - options.warmup_s:.0f} of {measured:.0f} s"

    @property
    def planned(self) -> int:
        """Arrivals of normal requests in the measured window, 0 if unknown."""
        return 0 if self.options.faults else self._planned.get("", 0)

    def measured_s(self) -> float:
        """How much of the measured window is over."""
        return max(self.now() - self.options.warmup_s, 0.0)

    def wait(self) -> None:
        """Until the round is over."""
        told = time.monotonic()
        while self._running:
            gevent.sleep(POLL_S)
            self._miss_dead()
            if time.monotonic() - told >= PROGRESS_S:
                told = time.monotonic()
                self._tell()
            if self.until_broken and not self.broken:
                self.broken = self._hopeless()
                if self.broken:
                    self._results.note(self.broken)
                    self.stop(drain=False)
            if self.now() > self.options.load_s + self.options.drain_s + GRACE_S:
                self._results.note("a worker did not end with its load", voids=True)
                return

    def now(self) -> float:
        """Seconds since the round's start."""
        return time.time() - self.started_unix

    def _tell(self) -> None:
        in_flight = sum(each["in_flight"] for each in self._gauges.values())
        say(progress_line(self._results, self.now(), in_flight))

    def _miss_dead(self) -> None:
        for worker in sorted(self._running - set(self._workers.alive())):
            self._running.discard(worker)
            self._miss(worker)

    def _miss(self, worker: str, why: str = "") -> None:
        because = f", {why}" if why else ""
        name = self._workers.index(worker)
        self._results.note(
            f"worker {name} died at {self.now():.0f} s{because}: its part of the load is missing",
            voids=True,
        )

    def _planned_requests(self, rate: float) -> dict[str, int]:
        """Arrivals of the measured window by workload ("": all), where they are known.

        A chat's requests are not: how often its user asks depends on the answers.
        """
        options, shares = self.options, self.options.shares()
        if options.closed_loop or options.arrivals == "trace":
            return {}
        warm, all_of_them = (
            count_before(
                unit_arrivals(options.arrivals, options.seed, options.burstiness),
                RateCurve(rate),
                end,
            )
            for end in (options.warmup_s, options.load_s)
        )
        planned = {} if "chat" in shares else {"": all_of_them - warm}
        if any(slo.workload for slo in self._results.slos):
            planned |= Counter(
                chosen(number, options.seed, shares) for number in range(warm, all_of_them)
            )
        planned.pop("chat", None)
        return planned

    def _hopeless(self) -> str:
        """The sentence on an SLO that can no longer hold: too many requests are late already.

        A request that has waited longer than the limit for its first token counts as late.
        """
        for slo in self._results.slos:
            planned = self._planned.get(slo.workload)
            # itl is pooled over responses, whose number is unknown.
            if not planned or slo.metric == "itl":
                continue
            if self.options.find_max_rate:  # with fewer, one late request would end a rate
                planned = max(planned, needed(slo))
            allowed = allowed_late(slo, planned)
            histogram = self._results.normal(slo.workload).histograms[slo.metric]
            late = histogram.count_above(slo.limit_s)
            late += sum(each["overdue"].get(slo.text, 0) for each in self._gauges.values())
            if late > allowed:
                return (
                    f"stopped early: {late} requests are late for {slo.text}, which must be at "
                    f"most {allowed}"
                )
        return ""
