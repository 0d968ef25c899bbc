"""A tab in Locust's web UI with the LLM metrics of the running test, and its report, live.

The tab's table is filled by the answer that the UI asks for anyway, every two seconds
(`extended_stats` in /stats/requests). Its links lead to /llama/report, the report of the run so
far, which loads itself anew, and to /llama/summary.json. On a master all workers are in them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from flask import Blueprint, Response, request
from report_page import report_page
from report_tables import METRICS, milliseconds, number
from results import RunResults
from run_files import RunFiles

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


def rows(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """The tab's table: times, then rates, counts, objectives, failures and the TTFT's parts."""
    filled = [_times(name, summary["metrics"][name]) for name in METRICS]
    rates, counts = summary["rates"], summary["counts"]
    share = rates["goodput_share"]
    filled += [
        _value("requests/s", number(rates["requests_per_s"])),
        _value("output tokens/s", number(rates["output_tokens_per_s"], 1)),
        _value("kept every SLO", "-" if share is None else f"{share:.1%}"),
        _value("requests", f"{counts['scheduled']:,}, {counts['completed']:,} completed"),
    ]
    filled += [
        _value(f"SLO {slo['slo']}", "held" if slo["held"] else "BROKEN") for slo in summary["slos"]
    ]
    filled += [
        _value(f"failed: {kind}", f"{each['count']:,}")
        for kind, each in summary["failures"].items()
    ]
    server = summary.get("server") or {}
    if server.get("samples"):
        last = server["samples"][-1]
        for name in ("active_requests", "queued_requests"):
            if name in last:
                filled.append(_value(f"server: {name.replace('_', ' ')}", f"{last[name]:.0f}"))
    for part in (server.get("split") or {}).get("parts", []):
        filled.append(_times(f"ttft spent in {part['part']}", {"mean": part["seconds"]}))
    filled += [_value("INVALID", reason) for reason in summary["validity"]["reasons"]]
    return filled


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


def _page(summary: dict[str, Any], results: RunResults) -> str:
    notes = ["this is the run so far; the page loads itself anew"]
    return report_page(RunFiles("", summary, results, notes=notes), REFRESH_S)


def _extended(response: Response, summary: Summary) -> Response:
    """The answer with our rows; any other answer as it is."""
    if not request.path.endswith(STATS_PATH) or response.status_code != 200 or not response.is_json:
        return response
    document = {**response.get_json(), "extended_stats": [{"key": KEY, "data": rows(summary())}]}
    response.set_data(json.dumps(document))
    return response
