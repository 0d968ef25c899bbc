"""A run, or a sweep of runs, as one HTML page: report.html.j2, filled in."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from figures.server_metrics import MODEL_PARTS
from figures.traffic import OF_A_WORKLOAD
from figures.ttft_split import REMAINDER, WIDE_REMAINDER

from output.formats import described, duration, milliseconds, number, share, verdict, when
from output.plots import load_curves, plots
from output.read_run import RunFiles
from output.svg import GREY

TEMPLATE = "report.html.j2"
METRICS = {
    "ttft": "first token minus scheduled arrival",
    "ttft_from_send": "first token minus actual send",
    "itl": "gap between responses, per token",
    "tpot": "(last - first token) / (n - 1)",
    "e2e": "final response minus scheduled arrival",
    "send_lag": "actual send minus scheduled arrival",
}
TTFT_PARTS = {
    "client": "sent late by the client",
    "queue": "waiting in Triton and for the engine",
    "tokenize": "preprocessing",
    "prefill": "first forward pass",
    "detokenize": "postprocessing of one response",
    "other": "the rest: network, gRPC, hand-over between the steps",
    "engine_and_other": "the rest: the engine, network, hand-over (this server says no more)",
}
NO_OPTIONS = {  # of the header; everything else in it is an option of the run
    "started_unix", "machine", "served", "workers", "workloads", "slos", "duration_s", "load_s",
}  # fmt: skip
FILTERS = {
    "ms": milliseconds,
    "duration": duration,
    "number": number,
    "share": share,
    "thousands": "{:,}".format,
    "verdict": verdict,
}
NAMES = {
    "METRICS": METRICS,
    "OF_A_WORKLOAD": OF_A_WORKLOAD,
    "MODEL_PARTS": MODEL_PARTS,
    "TIMES": ["mean", "p50", "p90", "p95", "p99", "p99.9", "max"],
    "COUNTS": ["scheduled", "completed", "failed", "incorrect"],
    "FAULT_COUNTS": ["scheduled", "completed", "cancelled", "failed", "incorrect"],
}


def report_page(run: RunFiles, refresh_s: int = 0) -> str:
    """The whole page; `refresh_s` above 0 has the browser load it again, for a running test."""
    summary = run.summary
    header = summary["header"]
    return _render(
        f"Load test: {header.get('workload', 'unknown workload')}",
        _subtitle(header),
        [*load_curves(run.trials), *plots(summary, run.results)],
        sorted(
            (name, value)
            for name, value in header.items()
            if name not in NO_OPTIONS and value not in ("", None)
        ),
        refresh_s=refresh_s,
        summary=summary,
        banners=_banners(run),
        cards=_cards(summary),
        workloads=summary.get("workloads") or {},
        server=summary.get("server") or {},
        split=_split(summary),
        rates=_rates(summary),
        faults={
            name: each for name, each in (summary.get("journeys") or {}).items() if name != "normal"
        },
    )


def page_of_steps(
    title: str,
    subtitle: Sequence[str],
    figures: Sequence[tuple[str, str]],
    head: Sequence[str],
    rows: Sequence[tuple[str, Sequence[str]]],
    arguments: str,
) -> str:
    """A sweep's page. `rows`: each step's folder, where its own report is, and its cells."""
    return _render(title, subtitle, figures, arguments, steps=(head, rows))


def _render(
    title: str,
    subtitle: Sequence[str],
    figures: Sequence[tuple[str, str]],
    options: str | Sequence[tuple[str, Any]],
    *,
    refresh_s: int = 0,
    summary: Mapping[str, Any] | None = None,
    steps: Any = None,
    **more: Any,
) -> str:
    page: str = _template().render(
        title=title,
        subtitle=subtitle,
        plots=figures,
        options=options,
        refresh_s=refresh_s,
        summary=summary,
        steps=steps,
        **more,
    )
    return page


@functools.cache
def _template() -> Any:
    import jinja2  # not for --help, which any Python can print

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    environment.globals |= NAMES
    return environment.get_template(TEMPLATE)


def _subtitle(header: Mapping[str, Any]) -> list[str]:
    rate = header.get("rate")
    asked = f"closed loop of {header.get('users', '?')} user(s)"
    if not header.get("closed_loop"):
        asked = f"{header.get('arrivals', 'unknown')} arrivals"
        asked += f" at {rate:.4g} requests/s" if rate else ""
    served = [
        f"{header.get('model', 'unknown model')} at {header.get('url', 'an unknown address')}",
        *described(header.get("served") or {}),
    ]
    parts = [
        asked,
        f"{header.get('duration_s') or 0:.0f} s measured after "
        f"{header.get('warmup_s') or 0:.3g} s of warm-up",
        f"seed {header.get('seed', 'unknown')}",
        when(header),
    ]
    machine = header.get("machine", "not recorded")
    return [" · ".join(served), " · ".join(parts), f"client's machine: {machine}"]


def _banners(run: RunFiles) -> list[dict[str, Any]]:
    summary = run.summary
    reasons = summary["validity"]["reasons"]
    notes = [] if summary["counts"]["scheduled"] else ["no request was measured"]
    notes += [*run.notes, *(each for each in summary.get("incidents", []) if each not in reasons)]
    notes += summary["validity"].get("doubts", [])
    if problem := (summary.get("server") or {}).get("problem"):
        notes.append(problem)
    invalid = [] if summary["validity"]["valid"] else [("INVALID", "", reasons)]
    return [
        {"word": word, "kind": kind, "sentences": [_sentence(each) for each in sentences]}
        for word, kind, sentences in (*invalid, ("", "note", notes))
        if word or sentences
    ]


def _sentence(text: str) -> str:
    """With a capital, unless it begins with a file's name."""
    return text if "." in text.split(" ")[0] else text[:1].upper() + text[1:]


def _cards(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    rates, metrics = summary["rates"], summary["metrics"]
    failed = summary["counts"]["failed"] + summary["counts"]["incorrect"]
    return [
        *(
            (f"{name} {percentile}", duration(metrics[name][percentile]))
            for name in ("ttft", "itl")
            for percentile in ("p50", "p99")
        ),
        ("output tokens/s", number(rates["output_tokens_per_s"], 0)),
        ("requests/s", number(rates["requests_per_s"])),
        ("kept every SLO", share(rates.get("goodput_share"))),
        ("failed or incorrect", f"{failed:,}"),
    ]


def _rates(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    rates, counts = summary["rates"], summary["counts"]
    good = share(rates.get("goodput_share"))
    return [
        ("offered", f"{number(rates['offered_per_s'])} requests/s",
         f"{counts['scheduled']:,} requests"),
        ("completed", f"{number(rates['requests_per_s'])} requests/s",
         f"{counts['completed']:,} requests"),
        ("output", f"{number(rates['output_tokens_per_s'], 1)} tokens/s",
         f"{counts['output_tokens']:,} tokens"),
        ("goodput", f"{number(rates['goodput_per_s'])} requests/s",
         good if good == "-" else f"{good} of the requests kept every SLO"),
        ("failed", "", f"{counts['failed']:,} requests, {counts['incorrect']:,} incorrect"),
        ("drained", "", f"{counts['drained']:,} ended after the load"),
        ("warm-up", "", f"{counts['warmup']:,} left out"),
    ]  # fmt: skip


def _split(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    parts = ((summary.get("server") or {}).get("split") or {}).get("parts", [])
    whole = sum(max(each["seconds"], 0) for each in parts) or 1
    return [
        {
            "name": each["part"],
            "meaning": TTFT_PARTS.get(each["part"], ""),
            "seconds": each["seconds"],
            "share": each["share"],
            "width": f"{max(each['seconds'], 0) / whole:.3%}",
            "colour": GREY if each["part"] in (REMAINDER, WIDE_REMAINDER) else index,
        }
        for index, each in enumerate(parts)
    ]
