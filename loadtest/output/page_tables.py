"""The tables of a report, as HTML, from a run's summary."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from figures.traffic import OF_A_WORKLOAD
from figures.ttft_split import REMAINDER, WIDE_REMAINDER

from output.svg import GREY

METRICS = {
    "ttft": "first token minus scheduled arrival",
    "ttft_from_send": "first token minus actual send",
    "itl": "gap between responses, per token",
    "tpot": "(last - first token) / (n - 1)",
    "e2e": "final response minus scheduled arrival",
    "send_lag": "actual send minus scheduled arrival",
}
TIMES = ("mean", "p50", "p90", "p95", "p99", "p99.9", "max")
PARTS = {
    "client": "sent late by the client",
    "queue": "waiting in Triton and for the engine",
    "tokenize": "preprocessing",
    "prefill": "first forward pass",
    "detokenize": "postprocessing of one response",
    "other": "the rest: network, gRPC, hand-over between the steps",
    "engine_and_other": "the rest: the engine, network, hand-over (this server tells no more)",
}
PARTS_OF_A_MODEL = {
    "request": "whole request",
    "queue": "queue",
    "input": "compute input",
    "infer": "compute infer",
    "output": "compute output",
}
ABOUT_MODELS = (
    "From the end of the warm-up to that of the drain. tensorrt_llm is done, for Triton, as soon "
    "as its engine has the request; postprocessing has one request a response; compute of the "
    "ensemble is the sum over its models."
)
# Of the header; everything else in it is an option of the run.
KNOWN = {
    "started_unix",
    "machine",
    "served",
    "workers",
    "workloads",
    "slos",
    "duration_s",
    "load_s",
}


def milliseconds(seconds: float | None) -> str:
    """`1,234.5`, more digits where it is small, `-` where there is no value.

    >>> milliseconds(1.2345), milliseconds(0.009876), milliseconds(0.0001234), milliseconds(None)
    ('1,234.5', '9.88', '0.123', '-')
    """
    if seconds is None:
        return "-"
    digits = 1 if abs(seconds) >= 0.01 else 2 if abs(seconds) >= 0.001 else 3
    return f"{seconds * 1e3:,.{digits}f}"


def duration(seconds: float | None) -> str:
    """With its unit: `12.3 ms`, `2.79 s`, or `-`."""
    if seconds is None:
        return "-"
    return f"{seconds:,.2f} s" if seconds >= 1 else f"{milliseconds(seconds)} ms"


def number(value: float | None, digits: int = 2) -> str:
    """`1,234.50`, or `-`."""
    return "-" if value is None else f"{value:,.{digits}f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """Cells are HTML; the first `words` columns are text, the others numbers."""

    def cells(row: Sequence[str], kind: str) -> str:
        return "".join(
            f"<{kind}{'' if place < words else ' class=n'}>{cell}</{kind}>"
            for place, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{cells(head, "th")}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def metrics_table(summary: Mapping[str, Any]) -> str:
    """Every metric of the measured normal requests."""
    rows = []
    for name, meaning in METRICS.items():
        metric = summary["metrics"].get(name) or {"count": 0}
        title = f'<b>{name}</b> <span class="dim">{escape(meaning)}</span>'
        rows.append([title, *_times(metric)])
    return table(["ms", "count", *TIMES], rows)


def workloads_table(summary: Mapping[str, Any]) -> str:
    """What each workload of a mix has of the normal traffic; "" without a mix."""
    workloads = summary.get("workloads") or {}
    counts = ("scheduled", "completed", "failed", "incorrect")
    rates = {"completed/s": "requests_per_s", "output tokens/s": "output_tokens_per_s",
             "goodput/s": "goodput_per_s"}  # fmt: skip
    rows, times = [], []
    for name, each in workloads.items():
        share = each["rates"]["goodput_share"]
        rows.append(
            [
                f"<b>{escape(name)}</b>",
                *(f"{each['counts'][count]:,}" for count in counts),
                *(number(each["rates"][rate]) for rate in rates.values()),
                "-" if share is None else f"{share:.1%}",
            ]
        )
        times += [
            [escape(name), f"<b>{metric}</b>", *_times(each["metrics"][metric])]
            for metric in OF_A_WORKLOAD
        ]
    if not rows:
        return ""
    head = ["workload", *counts, *rates, "kept every SLO"]
    return table(head, rows) + table(["workload", "ms", "count", *TIMES], times, 2)


def _times(metric: Mapping[str, Any]) -> list[str]:
    return [f"{metric['count']:,}", *(milliseconds(metric.get(each)) for each in TIMES)]


def rates_table(summary: Mapping[str, Any]) -> str:
    """Rates, and goodput."""
    rates, counts = summary["rates"], summary["counts"]
    share = rates.get("goodput_share")
    good = "-" if share is None else f"{share:.1%} of the requests kept every SLO"
    rows = [
        ["offered", f"{number(rates['offered_per_s'])} requests/s",
         f"{counts['scheduled']:,} requests"],
        ["completed", f"{number(rates['requests_per_s'])} requests/s",
         f"{counts['completed']:,} requests"],
        ["output", f"{number(rates['output_tokens_per_s'], 1)} tokens/s",
         f"{counts['output_tokens']:,} tokens"],
        ["goodput", f"{number(rates['goodput_per_s'])} requests/s", good],
        ["failed", "", f"{counts['failed']:,} requests, {counts['incorrect']:,} incorrect"],
        ["drained", "", f"{counts['drained']:,} ended after the load"],
        ["warm-up", "", f"{counts['warmup']:,} left out"],
    ]  # fmt: skip
    return table(["", "rate", ""], rows, 3)


def verdict(held: bool) -> str:
    """Of an objective."""
    return "held" if held else "BROKEN"


def slos_table(summary: Mapping[str, Any]) -> str:
    """What was to hold, and whether it did."""
    if not summary["slos"]:
        return "<p>No objectives were set.</p>"
    rows = [
        [
            f"<code>{escape(slo['slo'])}</code>",
            f'<b class="{"good" if slo["held"] else "bad"}">{verdict(slo["held"])}</b>',
            duration(slo["value_s"]),
            duration(slo["limit_s"]),
        ]
        for slo in summary["slos"]
    ]
    return table(["objective", "verdict", "value", "limit"], rows, 2)


def failures_table(summary: Mapping[str, Any]) -> str:
    """By journey and class, with one message of each."""
    failures = summary.get("failures") or {}
    if not failures:
        return "<p>None.</p>"
    rows = [
        [escape(kind), escape(each["example"] or "-"), f"{each['count']:,}"]
        for kind, each in failures.items()
    ]
    return table(["journey / class", "for example", "count"], rows, 2)


def journeys_table(summary: Mapping[str, Any]) -> str:
    """Fault journeys, whose requests are in no other figure; "" without any."""
    journeys = summary.get("journeys") or {}
    names = ("scheduled", "completed", "cancelled", "failed", "incorrect")
    rows = [
        [escape(name), *(f"{each['counts'][count]:,}" for count in names)]
        for name, each in journeys.items()
        if name != "normal"
    ]
    return table(["journey", *names], rows) if rows else ""


def split_table(summary: Mapping[str, Any]) -> str:
    """Where the mean TTFT was spent, as a bar and a table."""
    server = summary.get("server")
    if not server:
        return "<p>The server's metrics were not sampled.</p>"
    split = server.get("split")
    if not split:
        return f"<p>There is no split: {escape(server.get('split_problem') or 'unknown')}.</p>"
    parts = split["parts"]
    whole = sum(max(each["seconds"], 0) for each in parts) or 1
    colours = [
        GREY if each["part"] in (REMAINDER, WIDE_REMAINDER) else index
        for index, each in enumerate(parts)
    ]
    bar = "".join(
        f'<i class="b{colour}" style="width:{max(each["seconds"], 0) / whole:.3%}" '
        f'title="{each["part"]}"></i>'
        for colour, each in zip(colours, parts, strict=True)
    )
    rows = [
        [
            f'<i class="key b{colour}"></i><b>{each["part"]}</b> '
            f'<span class="dim">{PARTS.get(each["part"], "")}</span>',
            milliseconds(each["seconds"]),
            f"{each['share']:.1%}",
        ]
        for colour, each in zip(colours, parts, strict=True)
    ]
    rows.append(["<b>mean ttft</b>", f"<b>{milliseconds(split['ttft_s'])}</b>", ""])
    note = f"Server parts: means of the {split['requests']:,} requests that it ended."
    return (
        f'<div class="stack">{bar}</div>{table(["part", "ms", "share"], rows)}'
        f'<p class="dim">{note}</p>'
    )


def models_table(summary: Mapping[str, Any]) -> str:
    """What each of the server's models took a request; "" where its counters were not read."""
    server = summary.get("server") or {}
    rows = [
        [
            f"<b>{escape(each['model'])}</b>",
            *(f"{each[name]:,}" for name in ("requests", "executions")),
            *(milliseconds(each[f"{part}_s"]) for part in PARTS_OF_A_MODEL),
        ]
        for each in server.get("models") or []
    ]
    if not rows:
        return ""
    head = ["ms, mean of a request", "requests", "executions", *PARTS_OF_A_MODEL.values()]
    return table(head, rows) + f'<p class="dim">{ABOUT_MODELS}</p>'


def workers_table(summary: Mapping[str, Any]) -> str:
    """The client's own health."""
    rows = [
        [
            escape(name),
            f"{each['cpu']:.0%}",
            f"{each['cpu_max']:.0%}",
            number(each["tokens_per_s_max"], 0),
            milliseconds(each["loop_lag"]["p99"]),
        ]
        for name, each in (summary.get("workers") or {}).items()
    ]
    if not rows:
        return "<p>Not known.</p>"
    return table(["worker", "CPU", "CPU max", "tokens/s max", "loop lag p99, ms"], rows)


def options_table(header: Mapping[str, Any]) -> str:
    """Every option of the run, its seed among them."""
    rows = [
        [f"<code>{escape(name)}</code>", escape(str(value))]
        for name, value in sorted(header.items())
        if name not in KNOWN and value not in ("", None)
    ]
    return table(["option", "value"], rows, 2)


def when(header: Mapping[str, Any]) -> str:
    """The run's start, UTC."""
    started = header.get("started_unix")
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(started)) if started else "unknown"


def described(served: Mapping[str, str]) -> list[str]:
    """For people: ["runtime openvino", "checkpoint demo (sha256 c33fc1d48829)", "triton 2.51.0"].

    Whatever else the engine tells of itself comes between, as "precision f32".
    """
    rest = dict(served)
    checkpoint = rest.pop("model", "")
    if digest := rest.pop("checkpoint_sha256", ""):
        checkpoint = f"{checkpoint} (sha256 {digest[:12]})".strip()
    server, runtime = rest.pop("server", ""), rest.pop("runtime", "")
    return [
        *([f"runtime {runtime}"] if runtime else []),
        *([f"checkpoint {checkpoint}"] if checkpoint else []),
        *(f"{name.replace('_', ' ')} {value}" for name, value in rest.items()),
        *([server] if server else []),
    ]
