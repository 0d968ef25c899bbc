"""A run on the terminal: what was asked, what came, whether it counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from figures.results import RunResults
from figures.server_metrics import MODEL_PARTS
from figures.traffic import METRICS, OF_A_WORKLOAD

from output.formats import described, milliseconds

TIMES = ("p50", "p90", "p99", "p99.9", "max")
MODEL_COLUMNS = ("requests", "executions", "total", "queue", "input", "infer", "output")


def run_table(summary: Mapping[str, Any]) -> str:
    """The whole table of `RunResults.summary()`."""
    header, rates, counts = summary["header"], summary["rates"], summary["counts"]
    loop = f"{header.get('arrivals')} arrivals"
    if header.get("closed_loop"):
        loop = f"closed loop of {header.get('users', '?')} user(s)"
    lines = [
        "",
        f"{header.get('workload')}, {loop}, {header.get('duration_s', 0):.0f} s measured after "
        f"{header.get('warmup_s', 0):g} s of warm-up, seed {header.get('seed')}, "
        f"{header.get('workers')} worker(s)",
        *([", ".join(told)] if (told := described(header.get("served") or {})) else []),
        *_rates(rates, counts),
        "",
        *_times(summary["metrics"], METRICS),
    ]
    for name, workload in summary["workloads"].items():
        lines += ["", f"Of them {name}:", *_rates(workload["rates"], workload["counts"])]
        lines += _times(workload["metrics"], OF_A_WORKLOAD)
    lines += [*_server(summary.get("server") or {})]
    lines += ["", *_slos(summary["slos"]), *_journeys(summary["journeys"])]
    lines += _failures(summary["failures"])
    lines += _validity(summary)
    return "\n".join(lines)


def progress_line(results: RunResults, now_s: float, in_flight: float) -> str:
    """The run so far, one line; the rates are of the last whole seconds.

    Not from `summary()`, whose every percentile would hold up a process that is sending too.
    """
    timeline, journey = results.timeline, results.journey()
    width = timeline.width_s
    first, last = int((now_s - 6) // width), int((now_s - 2) // width)
    numbers = range(max(first, 0), max(last, 1))
    buckets = [timeline.buckets[number] for number in numbers if number in timeline.buckets]

    def rate(name: str) -> float:
        return sum(bucket.counts[name] for bucket in buckets) / (len(numbers) * width)

    def times(name: str) -> str:
        histogram = journey.histograms[name]
        p50, p99 = (
            milliseconds(histogram.percentile(each) if histogram.count else None)
            for each in (50.0, 99.0)
        )
        return f"{name} p50 {p50} p99 {p99} ms"

    failed = journey.counts["failed"] + journey.counts["incorrect"]
    return (
        f"{now_s:4.0f} s: {rate('completed'):,.1f} requests/s, "
        f"{rate('output_tokens'):,.0f} tokens/s, {times('ttft')}, {times('itl')}, "
        f"in flight {in_flight:,.0f}, failed {failed}"
    )


def _rates(rates: Mapping[str, Any], counts: Mapping[str, int]) -> list[str]:
    def number(name: str) -> str:
        return "-" if rates[name] is None else f"{rates[name]:,.2f}"

    share = rates["goodput_share"]
    return [
        f"offered {number('offered_per_s')}/s, completed {number('requests_per_s')}/s, "
        f"{number('output_tokens_per_s')} output tokens/s",
        f"goodput {number('goodput_per_s')}/s"
        + ("" if share is None else f" ({share:.1%} of the requests kept every SLO)"),
        f"{counts['scheduled']:,} requests: {counts['completed']:,} completed, "
        f"{counts['failed']:,} failed, {counts['incorrect']:,} incorrect, {counts['drained']:,} "
        f"of them drained after the load; {counts['warmup']:,} of the warm-up left out",
    ]


def _times(metrics: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    rows = [_row("ms", ["count", "mean", *TIMES])]
    for name in names:
        times = [milliseconds(metrics[name][each]) for each in ("mean", *TIMES)]
        rows.append(_row(name, [f"{metrics[name]['count']:,}", *times]))
    return rows


def _server(server: Mapping[str, Any]) -> list[str]:
    """What each model took a request, by Triton's statistics; where the mean TTFT was spent; or why
    its metrics tell nothing."""
    lines: list[str] = ["", problem] if (problem := server.get("problem")) else []
    if models := server.get("models"):
        lines += [
            "",
            f"Server, {server['models_s']:.0f} s, means of a request by Triton's counters:",
        ]
        lines.append(_row("ms", list(MODEL_COLUMNS)))
        for each in models:
            counts = [f"{each[name]:,}" for name in ("requests", "executions")]
            times = [milliseconds(each[f"{part}_s"]) for part in MODEL_PARTS]
            lines.append(_row(each["model"], [*counts, *times]))
    if split := server.get("split"):
        parts = (f"{each['part']} {milliseconds(each['seconds'])}" for each in split["parts"])
        lines += ["", f"mean ttft {milliseconds(split['ttft_s'])} ms: {', '.join(parts)}"]
    return lines


def _slos(slos: list[Mapping[str, Any]]) -> list[str]:
    def told(slo: Mapping[str, Any]) -> str:
        if slo["value_s"] is None:
            return "no measured request has a value"
        return f"p{slo['percent']:g} is {milliseconds(slo['value_s'])} ms"

    return [f"{'held  ' if slo['held'] else 'BROKEN'}  {slo['slo']}: {told(slo)}" for slo in slos]


def _journeys(journeys: Mapping[str, Any]) -> list[str]:
    faults = {name: each for name, each in journeys.items() if name != "normal"}
    if not faults:
        return []
    lines = ["", "Beside it, and in no figure above:"]
    for name, journey in faults.items():
        counts = journey["counts"]
        lines.append(
            f"{name}: {counts['scheduled']:,} requests, {counts['completed']:,} answered or "
            f"rightly refused, {counts['cancelled']:,} left, {counts['failed']:,} failed, "
            f"{counts['incorrect']:,} incorrect"
        )
    return lines


def _failures(failures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if not failures:
        return []
    return ["", "Failures:"] + [
        f"{each['count']:6,}  {kind}: {each['example']}" for kind, each in failures.items()
    ]


def _validity(summary: Mapping[str, Any]) -> list[str]:
    lines = [""]
    for name, worker in summary["workers"].items():
        lag = worker["loop_lag"]
        lines.append(
            f"worker {name}: {worker['cpu']:.0%} of a core (at most {worker['cpu_max']:.0%}), "
            f"event loop late by p99 {milliseconds(lag['p99'])} ms"
        )
    lines += [
        sentence
        for sentence in summary["incidents"]
        if sentence not in summary["validity"]["reasons"]
    ]
    lines += summary["validity"].get("doubts", [])
    for reason in summary["validity"]["reasons"]:
        lines.append(f"INVALID: {reason}")
    return lines


def _row(name: str, cells: list[str]) -> str:
    return f"{name:<15}" + "".join(f"{cell:>11}" for cell in cells)
