"""The plots of a report: distributions from a run's histograms, the others from its summary."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from figures.histogram import Histogram
from figures.results import RunResults

from output.svg import GREY, RED, Line, Mark, bar_plot, line_plot

MS = 1e3
PERCENTILES = {"p50": 1, "p90": 2, "p99": 3}  # with their colours
# `max` shows a stall that hits too few gaps for the second's p99. In a second of few requests the
# lines coincide: `max`, drawn last and dotted, lets the others show.
OVER_TIME = {**dict(reversed(PERCENTILES.items())), "max": 4}
BINS = 60
QUEUES = {"active_requests": ("in the engine", 0), "queued_requests": ("waiting for it", 3)}


def plots(summary: Mapping[str, Any], results: RunResults | None) -> list[tuple[str, str]]:
    """(title, SVG) of each plot; the SVG is "" if there is nothing to show."""
    drawn = []
    for name in ("ttft", "itl"):
        if results is not None:
            figure = distribution(results.journey().histograms[name], name)
            drawn.append((f"{name.upper()}: how many took how long", figure))
        drawn.append((f"{name.upper()} over the run", over_time(summary, name)))
    drawn.append(("Output tokens/s", tokens(summary)))
    drawn.append(("Requests/s", requests(summary)))
    if any(sample_values(summary, name) for name in ("pending", *QUEUES)):
        drawn.append(("Queue on the server", server_queue(summary)))
    return drawn


def distribution(histogram: Histogram, name: str) -> str:
    """A histogram over a logarithmic axis, from the smallest to the largest value."""
    if not histogram.count:
        return ""
    bins = log_bins(histogram)
    marks = []
    for percentile, colour in PERCENTILES.items():
        at = histogram.percentile(float(percentile[1:])) * MS
        marks.append(Mark(at, f"{percentile} {at:,.4g} ms", colour))
    what = "requests" if name == "ttft" else "gaps"
    return bar_plot(bins, f"{name}, ms", what, marks)


def log_bins(histogram: Histogram, count: int = BINS) -> list[tuple[float, float, int]]:
    """(from, to, number of values), in milliseconds; every value is in exactly one bin."""
    middles = [(value * MS, number) for value, number in histogram.values()]
    low = max(min(value for value, _ in middles), 1e-3)
    high = max(max(value for value, _ in middles), low)
    if high / low < 1.5:  # one request, or an engine with a fixed pace: keep the bar narrow
        low, high = low / 1.3, high * 1.3
    low, high = low / 1.01, high * 1.01
    step = math.log(high / low) / count
    counts = [0] * count
    for value, number in middles:
        place = int(math.log(max(value, low) / low) / step)
        counts[min(max(place, 0), count - 1)] += number
    edges = [low * math.exp(step * place) for place in range(count + 1)]
    return [(edges[place], edges[place + 1], counts[place]) for place in range(count)]


def over_time(summary: Mapping[str, Any], name: str) -> str:
    """Percentiles and maximum of each second, by scheduled arrival, with the SLO's limit."""
    lines = [
        Line(
            percentile,
            [
                (start, None if value is None else value * MS)
                for start, bucket in seconds(summary)
                for value in [bucket["metrics"].get(name, {}).get(percentile)]
            ],
            colour,
        )
        for percentile, colour in OVER_TIME.items()
    ]
    marks = [*_limits(summary, name), *_warm(summary)]
    return line_plot(lines, "seconds since the start", f"{name}, ms", marks, log=True)


def tokens(summary: Mapping[str, Any]) -> str:
    """Output tokens/s, by arrival."""
    points = [(at, rate) for at, rate in _rates(summary, "output_tokens")]
    lines = [Line("output tokens/s", points, 0, mean=True)]
    return line_plot(lines, "seconds since the start", "tokens/s", _warm(summary))


def requests(summary: Mapping[str, Any]) -> str:
    """Requests/s that were offered, completed, good and failed."""
    lines = [
        Line(title, _rates(summary, name), colour, mean=True)
        for name, title, colour in (
            ("scheduled", "offered", 0),
            ("completed", "completed", 2),
            ("good", "every SLO held", 3),
            ("failed", "failed", RED),
        )
        if name != "failed" or any(value for _, value in _rates(summary, name))
    ]
    return line_plot(lines, "seconds since the start", "requests/s", _warm(summary))


def server_queue(summary: Mapping[str, Any]) -> str:
    """Requests in the engine, waiting for it and waiting in Triton, once a second."""
    lines = [
        Line(title, points, colour, step=True)
        for name, (title, colour) in QUEUES.items()
        if (points := sample_values(summary, name))
    ]
    if pending := sample_values(summary, "pending"):
        lines.append(Line("waiting in Triton", pending, 2, step=True))
    return line_plot(lines, "seconds since the start", "requests", _warm(summary), least=5)


def _limits(summary: Mapping[str, Any], name: str) -> list[Mark]:
    """The SLOs' limits on a metric, without those of a single workload: the lines show all."""
    return [
        Mark(slo["limit_s"] * MS, slo["slo"], RED, across=True)
        for slo in summary["slos"]
        if slo["metric"] == name and not slo.get("workload")
    ]


def load_curves(
    trials: Sequence[Mapping[str, Any]], users: Sequence[float] | None = None
) -> list[tuple[str, str]]:
    """Latency against throughput, and both against the load; [] for fewer than two `trials`.

    `trials` has each round's summary, by rising load. The load is the rate, or `users` if given.
    """
    if len(trials) < 2:
        return []
    loads = users or [float(trial["header"]["rate"]) for trial in trials]
    load, axis = ("users", "users") if users else ("offered rate", "offered requests/s")
    drawn = [
        (f"{name.upper()} against throughput", latency(trials, loads, name))
        for name in ("ttft", "itl")
    ]
    for name in ("ttft", "tpot"):
        lines = [
            Line(percentile, _over(trials, loads, name, percentile), colour, dots=True)
            for percentile, colour in PERCENTILES.items()
        ]
        figure = line_plot(lines, axis, f"{name}, ms", _limits(trials[0], name), log=True)
        drawn.append((f"{name.upper()} against the {load}", figure))
    rates = [
        Line(
            title,
            [(x, trial["rates"][rate]) for x, trial in zip(loads, trials, strict=True)],
            colour,
            dots=True,
        )
        for rate, title, colour in (
            ("requests_per_s", "completed", 2),
            ("goodput_per_s", "every SLO held", 3),
        )
    ]
    return [*drawn, (f"Throughput against the {load}", line_plot(rates, axis, "requests/s"))]


def latency(trials: Sequence[Mapping[str, Any]], loads: Sequence[float], name: str) -> str:
    """Percentiles over output tokens/s; the points are joined by rising load, which labels them."""
    throughput = [trial["rates"]["output_tokens_per_s"] or 0.0 for trial in trials]
    labels = tuple(f"{load:.3g}" for load in loads)
    lines = [
        Line(
            percentile,
            _over(trials, throughput, name, percentile),
            PERCENTILES[percentile],
            dots=True,
            labels=labels if percentile == "p50" else (),
        )
        for percentile in ("p50", "p99")
    ]
    limits = _limits(trials[0], name)
    return line_plot(lines, "output tokens/s", f"{name}, ms", limits, log=True)


def _over(
    trials: Sequence[Mapping[str, Any]], at: Sequence[float], name: str, percentile: str
) -> list[tuple[float, float | None]]:
    """(x, milliseconds) for each trial; None without a value."""
    values = [trial["metrics"][name].get(percentile) for trial in trials]
    return [(x, None if v is None else v * MS) for x, v in zip(at, values, strict=True)]


def seconds(summary: Mapping[str, Any]) -> list[tuple[float, Mapping[str, Any]]]:
    """(start, bucket) along the timeline; times without a bucket get an empty one."""
    timeline = summary["timeline"]
    buckets = {int(each["start_s"]): each for each in timeline["buckets"]}
    if not buckets:
        return []
    empty: dict[str, Any] = {"counts": {}, "metrics": {}}
    span = range(min(buckets), max(buckets) + 1, timeline["width_s"])
    return [(float(start), buckets.get(start, empty)) for start in span]


def sample_values(summary: Mapping[str, Any], name: str) -> list[tuple[float, float | None]]:
    """(second, value) of a gauge's samples; `pending` is summed over the ensemble's models."""
    samples = (summary.get("server") or {}).get("samples", [])
    if name == "pending":
        return [
            (each["at_s"], float(sum(n for m, n in each[name].items() if m != "ensemble")))
            for each in samples
            if name in each
        ]
    return [(each["at_s"], float(each[name])) for each in samples if name in each]


def _rates(summary: Mapping[str, Any], name: str) -> list[tuple[float, float | None]]:
    width = summary["timeline"]["width_s"]
    return [(start, each["counts"].get(name, 0) / width) for start, each in seconds(summary)]


def _warm(summary: Mapping[str, Any]) -> list[Mark]:
    """Where the warm-up and the load ended."""
    start = float(summary["header"].get("warmup_s") or 0)
    end = start + float(summary["header"].get("duration_s") or 0)
    starts = [at for at, _ in seconds(summary)] or [0.0]
    return [Mark(at, "measured window", GREY) for at in (start, end) if starts[0] < at < starts[-1]]
