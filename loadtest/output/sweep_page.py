"""A sweep as a table on the terminal, and as one HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from searches.sweep_steps import RATES, Sweep

from output.formats import described, milliseconds, number, share, when
from output.page import page_of_steps
from output.plots import load_curves

TIMES = (("ttft", "p50"), ("ttft", "p99"), ("itl", "p50"), ("itl", "p99"))


def sweep_table(sweep: Sweep) -> str:
    """Rows of all steps that are done, times in milliseconds."""
    rows = [_head(sweep), *(_row(each) for each in sweep.steps())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def sweep_page(sweep: Sweep) -> str:
    """The page; each step's row links to its own report."""
    steps = sweep.steps()
    header = steps[0]["header"] if steps else {}
    served = described(header.get("served") or {})
    users = None if sweep.by == RATES else [float(each["value"]) for each in steps]
    return page_of_steps(
        f"Load test: {header.get('workload', '')}, a sweep of {sweep.by}",
        [
            " · ".join([f"{header.get('model')} at {header.get('url')}", *served]),
            f"{len(steps)} steps of {header.get('duration_s', 0):.0f} s after "
            f"{header.get('warmup_s', 0):.3g} s of warm-up · {when(header)}",
            f"client's machine: {header.get('machine', 'not recorded')}",
        ],
        load_curves(steps, users),
        _head(sweep),
        [(each["folder"], _row(each)) for each in steps],
        " ".join(sweep.arguments),
    )


def _head(sweep: Sweep) -> list[str]:
    asked = "rate/s" if sweep.by == RATES else "users"
    times = (f"{name} {percentile} ms" for name, percentile in TIMES)
    return [asked, "offered/s", "completed/s", "tokens/s", *times, "goodput/s", "good", "SLOs"]


def _row(step: Mapping[str, Any]) -> list[str]:
    rates, metrics = step["rates"], step["metrics"]
    return [
        f"{step['value']:g}",
        number(rates["offered_per_s"]),
        number(rates["requests_per_s"]),
        number(rates["output_tokens_per_s"], 1),
        *(milliseconds(metrics[name].get(percentile)) for name, percentile in TIMES),
        number(rates["goodput_per_s"]),
        share(rates["goodput_share"]),
        _verdict(step),
    ]


def _verdict(step: Mapping[str, Any]) -> str:
    if not step["validity"]["valid"]:
        return "INVALID"
    broken: Sequence[str] = [each["slo"] for each in step["slos"] if not each["held"]]
    failed = step["counts"]["failed"] + step["counts"]["incorrect"]
    verdicts = [f"BROKEN {', '.join(broken)}"] if broken else ["held"]
    return ", ".join([*verdicts, *([f"{failed:,} failed"] if failed else [])])
