"""A tab in Locust's web UI with the LLM metrics of the running test, and its report, live.

The UI polls /stats/requests every two seconds; `extended_stats` in that answer fills the tab's
table. Its links lead to /llama/report, the report of the run so far, which reloads itself, and to
/llama/summary.json. On a master they include all workers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from figures.results import RunResults
from figures.traffic import METRICS, OF_A_WORKLOAD
from flask import Blueprint, Response, request

from output.formats import milliseconds, number, share, verdict
from output.page import report_page
from output.read_run import RunFiles

KEY = "llm-metrics"
STATS_PATH = "/stats/requests"
REFRESH_S = 3
COLUMNS = {
    "metric": "LLM metric",
    "value": "Value",
    **{f"{each}": f"{each} (ms)" for each in ("mean", "p50", "p90", "p99", "max")},
}
Summary = Callable[[], dict[str, Any]]


def attach(environment: Any, summary: Summary, results: Callable[[], RunResults]) -> None:
    """Add the tab; does nothing without a web UI (headless, or a worker)."""
    ui = environment.web_ui
    if ui is None:
        return
    ui.template_args.update(
        extended_tabs=[{"title": "LLM metrics", "key": KEY}],
        extended_tables=[
            {
                "key": KEY,
                "structure": [{"key": key, "title": title} for key, title in COLUMNS.items()],
            }
        ],
        extended_csv_files=[
            {"href": "llama/report", "title": "LLM report of the run so far (live)"},
            {"href": "llama/summary.json", "title": "LLM metrics as JSON"},
        ],
    )
    guarded = ui.auth_required_if_enabled
    pages = Blueprint("llama", __name__)
    pages.route("/llama/report")(guarded(lambda: Response(_page(summary(), results()))))
    pages.route("/llama/summary.json", endpoint="summary")(
        guarded(lambda: Response(json.dumps(summary()), mimetype="application/json"))
    )
    ui.app.register_blueprint(pages)
    ui.app.after_request(lambda response: _extended(response, summary))


def _page(summary: dict[str, Any], results: RunResults) -> str:
    notes = ["this is the run so far; the page reloads itself"]
    return report_page(RunFiles("", summary, results, notes=notes), REFRESH_S)


def _extended(response: Response, summary: Summary) -> Response:
    """Add our rows to the answer that the UI polls."""
    if not request.path.endswith(STATS_PATH) or response.status_code != 200 or not response.is_json:
        return response
    document = {**response.get_json(), "extended_stats": [{"key": KEY, "data": rows(summary())}]}
    response.set_data(json.dumps(document))
    return response


def rows(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """The tab's table: verdicts, times, rates, counts, failures, and the server's part in them.

    In a mix the times, rates and counts of each workload come after those of all.
    """
    filled = [_value("phase", summary["phase"])] if "phase" in summary else []
    filled += [_value("INVALID", reason) for reason in summary["validity"]["reasons"]]
    filled += [_slo(slo) for slo in summary["slos"]]
    filled += _traffic("", summary, METRICS)
    for name, workload in (summary.get("workloads") or {}).items():
        filled += _traffic(f"{name}: ", workload, OF_A_WORKLOAD)
    filled += [
        _value(f"failed: {kind}", f"{each['count']:,}")
        for kind, each in summary["failures"].items()
    ]
    server = summary.get("server") or {}
    if problem := server.get("problem"):
        filled.append(_value("server", problem))
    if server.get("samples"):
        last = server["samples"][-1]
        for name in ("active_requests", "queued_requests"):
            if name in last:
                filled.append(_value(f"server: {name.replace('_', ' ')}", f"{last[name]:.0f}"))
    for part in (server.get("split") or {}).get("parts", []):
        filled.append(_times(f"ttft spent in {part['part']}", {"mean": part["seconds"]}))
    for each in server.get("models") or []:
        for part in ("queue", "compute"):
            filled.append(_times(f"server: {each['model']} {part}", {"mean": _seconds(each, part)}))
    return filled


def _slo(slo: Mapping[str, Any]) -> dict[str, str]:
    """Its verdict, and its value in that percentile's column, if there is one."""
    row = _value(
        f"SLO {slo['slo']}", "no value" if slo["value_s"] is None else verdict(slo["held"])
    )
    column = f"p{slo['percent']:g}"
    return row | ({column: milliseconds(slo["value_s"])} if column in row else {})


def _seconds(model: Mapping[str, Any], part: str) -> float:
    parts = ("input", "infer", "output") if part == "compute" else (part,)
    return sum(float(model[f"{name}_s"]) for name in parts)


def _traffic(of: str, traffic: Mapping[str, Any], metrics: Iterable[str]) -> list[dict[str, str]]:
    rates, counts = traffic["rates"], traffic["counts"]
    return [
        *(_times(of + name, traffic["metrics"][name]) for name in metrics),
        _value(f"{of}requests/s", number(rates["requests_per_s"])),
        _value(f"{of}output tokens/s", number(rates["output_tokens_per_s"], 1)),
        _value(f"{of}kept every SLO", share(rates["goodput_share"])),
        _value(f"{of}requests", f"{counts['scheduled']:,}, {counts['completed']:,} completed"),
    ]


def _times(name: str, metric: Mapping[str, Any]) -> dict[str, str]:
    times = {
        each: milliseconds(metric[each]) if each in metric else ""
        for each in ("mean", "p50", "p90", "p99", "max")
    }
    count = metric.get("count")
    value = "" if count is None else f"{count:,} values"
    return {"metric": name, "safe_name": name, "value": value, **times}


def _value(name: str, value: str) -> dict[str, str]:
    blank = dict.fromkeys(COLUMNS, "")
    return {**blank, "metric": name, "safe_name": name, "value": value}
