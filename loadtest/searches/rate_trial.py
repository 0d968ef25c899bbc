"""What a round at one arrival rate shows: that the SLOs hold, that they break, or nothing."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from command_line.options import RunOptions
from figures.histogram import Histogram
from figures.record import NORMAL
from figures.results import RunResults
from figures.slo import Slo, parse_slos
from traffic.arrivals import unit_arrivals
from traffic.faults import journeys_of, parse_faults
from traffic.mix import chosen

LONGEST_S = 600.0  # a step is lengthened up to this for its percentiles; -t may ask for more
MOST_NEEDED = 10_000  # requests of a step: p99.99
KEPT_UP = 0.95  # share of the arrivals that must be completed in the same seconds
SHORT, LONG = 5.0, 20.0  # in a window of fewer e2e no queue shows, in one of more all is completed
GROWTH = 0.05  # s of e2e per second: above it the queue grows, and the server does not keep up
SURE = 2.0  # standard errors
LEAST = 10  # requests, for a mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A round at one rate."""

    rate: float  # offered requests/s
    held: bool
    decided: bool = True  # False: too few requests to say; `why` then says how many are needed
    why: str = ""
    late: bool = False  # any request above any limit
    valid: bool = True  # False: the client was the bottleneck
    stopped_early: bool = False
    requests: int = 0  # measured
    e2e_s: float = 0.0  # mean
    requests_per_s: float = 0.0
    output_tokens_per_s: float = 0.0
    goodput_share: float = 0.0
    values: tuple[tuple[str, float | None], ...] = ()  # SLO and its percentile in seconds

    @classmethod
    def of(
        cls, rate: float, results: RunResults, planned: int = 0, stopped_early: bool = False
    ) -> Trial:
        """Judge a round by its results. With a failed or wrong answer the SLOs do not hold.

        `planned`: the arrivals that belong to the rate, 0 if unknown.
        """
        summary = results.summary()
        counts, rates = summary["counts"], summary["rates"]
        wrong = counts["failed"] + counts["incorrect"]
        kept_up, behind = (True, "") if stopped_early else keeps_up(results)
        lacking = [slo for slo in results.slos if _values(slo, results) < needed(slo)]
        broken = bool(wrong or stopped_early or kept_up is False) or any(
            _breaks(slo, results) for slo in results.slos
        )
        held = not broken and not lacking and bool(kept_up) and counts["scheduled"] > 0
        if counts["scheduled"] < KEPT_UP * planned:
            held = False  # the rate was not offered, whatever the reason
        few = f"{counts['scheduled']:,} requests at {rate:.3g}/s decide nothing"
        few += f", {lacking[0].text} needs {needed(lacking[0]):,}" if lacking else ""
        few += f", {behind}" if kept_up is None and not lacking else ""
        return cls(
            rate=rate,
            held=held,
            decided=held or broken,
            why=few if not held and not broken else behind if kept_up is False else "",
            e2e_s=summary["metrics"]["e2e"]["mean"] or 0.0,
            late=any(_late(slo, results) for slo in results.slos),
            valid=summary["validity"]["valid"],
            stopped_early=stopped_early,
            requests=counts["scheduled"],
            requests_per_s=rates["requests_per_s"] or 0.0,
            output_tokens_per_s=rates["output_tokens_per_s"] or 0.0,
            goodput_share=rates["goodput_share"] or 0.0,
            values=tuple((slo["slo"], slo["value_s"]) for slo in summary["slos"]),
        )

    @classmethod
    def too_long(cls, rate: float, needed_s: float) -> Trial:
        """A round that was not run, because its requests would take hours."""
        needs = f"needs a run of {needed_s:,.0f} s (-t) for its percentiles"
        return cls(rate=rate, held=False, decided=False, why=f"{rate:.3g} requests/s {needs}")

    @property
    def outcome(self) -> str:
        """The outcome for a table."""
        if not self.valid:
            return "INVALID"
        if not self.decided:
            return "too few requests"
        outcome = "held" if self.held else "broken"
        outcome += ", stopped early" if self.stopped_early else ""
        return f"{outcome}: {self.why}" if self.why else outcome


def needed(slo: Slo) -> int:
    """How many requests a percentile needs to depend on more than one: 100 for p99."""
    share = 1 - slo.percent / 100
    return min(math.ceil(round(1 / share, 6)), MOST_NEEDED) if share > 0 else 100


def allowed_late(slo: Slo, requests: int) -> int:
    """How many requests may be late without breaking the (nearest-rank) percentile."""
    return requests - math.ceil(round(requests * slo.percent / 100, 6))


def step_seconds(options: RunOptions, rate: float) -> float:
    """How long a step at `rate` must last until every SLO has the requests that it needs.

    At least the run time; inf if a workload never comes.
    """
    lacking = {slo: needed(slo) for slo in parse_slos(options.slos, options.shares())}
    shares, faults = options.shares(), parse_faults(options.faults)
    unit = 0.0
    for number, unit in enumerate(
        unit_arrivals(options.arrivals, options.seed, options.burstiness)
    ):
        if not lacking or unit / rate > 100 * max(LONGEST_S, options.load_s):
            break
        if unit / rate < options.warmup_s or (
            faults and journeys_of(number, options.seed, faults)[0].name != NORMAL
        ):
            continue
        workload = chosen(number, options.seed, shares)
        lacking = {
            slo: count - slo.concerns(workload)
            for slo, count in lacking.items()
            if count - slo.concerns(workload)
        }
    return max(unit / rate, options.load_s) if not lacking else math.inf


def lengthened(options: RunOptions, rate: float, e2e_s: float = 0.0) -> tuple[RunOptions, float]:
    """The options of a step that decides, at most `LONGEST_S` or -t, and the seconds it needs.

    `e2e_s`: how long a request takes, as far as known.
    """
    needed_s = max(step_seconds(options, rate), options.warmup_s + LONG * e2e_s)
    load_s = max(options.load_s, min(needed_s, LONGEST_S))
    return dataclasses.replace(options, load_s=load_s), needed_s


def keeps_up(results: RunResults) -> tuple[bool | None, str]:
    """Whether the server completes what is offered (None: cannot tell), and why not.

    In a growing queue each request waits longer than the one before. No percentile shows that while
    the waits stay below the SLO. The queue grows only once all of the server's slots are taken,
    which takes as long as one request.
    """
    counts = results.journey().counts
    if counts["in_window"] >= KEPT_UP * counts["scheduled"]:
        return True, ""
    start, end = results.window
    timeline = results.timeline
    numbers = [n for n in sorted(timeline.buckets) if start <= n * timeline.width_s < end]
    halves = numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :]
    (first, first_error), (second, second_error) = (
        _mean([timeline.buckets[number].histograms.get("e2e") for number in half])
        for half in halves
    )
    apart_s = (end - start) / 2
    growth = (second - first) / apart_s if apart_s else math.nan
    error = math.hypot(first_error, second_error) / apart_s if apart_s else math.nan
    if growth - SURE * error > GROWTH:  # NaN, if it cannot be told, fails both comparisons
        return False, f"e2e grows by {growth:.2g} s a second: less is completed than is offered"
    e2e_s = results.journey().histograms["e2e"].mean
    if end - start >= SHORT * e2e_s and growth + SURE * error < GROWTH:
        return True, ""
    if end - start >= LONG * e2e_s:
        completed = counts["in_window"] / (end - start)
        return False, f"{completed:.3g}/s are completed, less than is offered"
    return None, f"{end - start:.0f} s are short beside an e2e of {e2e_s:.2g} s"


def _mean(histograms: list[Histogram | None]) -> tuple[float, float]:
    """The mean and its standard error; NaN for too few values."""
    values = [each for histogram in histograms if histogram for each in histogram.values()]
    count = sum(number for _, number in values)
    if count < LEAST:
        return math.nan, math.nan
    mean = sum(value * number for value, number in values) / count
    spread = sum((value - mean) ** 2 * number for value, number in values) / (count - 1)
    return mean, math.sqrt(spread / count)


def _values(slo: Slo, results: RunResults) -> int:
    """How many requests the percentile covers; `itl` is pooled: one request has many gaps."""
    traffic = results.normal(slo.workload)
    pooled = slo.metric == "itl"
    return traffic.counts["completed"] if pooled else traffic.histograms[slo.metric].count


def _late(slo: Slo, results: RunResults) -> int:
    return results.normal(slo.workload).histograms[slo.metric].count_above(slo.limit_s)


def _breaks(slo: Slo, results: RunResults) -> bool:
    """Whether the SLO is broken, even if all missing requests were in time."""
    if _values(slo, results) >= needed(slo):
        return not slo.held_in(results.normal(slo.workload).histograms[slo.metric])
    return slo.metric != "itl" and _late(slo, results) > allowed_late(slo, needed(slo))
