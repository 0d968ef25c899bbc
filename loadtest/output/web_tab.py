"""A tab in Locust's web UI with the LLM metrics of the running test, and its report, live.

The tab's table is filled by the answer that the UI asks for anyway, every two seconds
(`extended_stats` in /stats/requests). Its links lead to /llama/report, the report of the run so
far, which loads itself anew, and to /llama/summary.json. On a master all workers are in them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from figures.results import RunResults
from flask import Blueprint, Response, request

from output.page import report_page
from output.read_run import RunFiles
from output.web_rows import COLUMNS, rows

KEY = "llm-metrics"
STATS_PATH = "/stats/requests"
REFRESH_S = 3
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
    notes = ["this is the run so far; the page loads itself anew"]
    return report_page(RunFiles("", summary, results, notes=notes), REFRESH_S)


def _extended(response: Response, summary: Summary) -> Response:
    """The answer with our rows; any other answer as it is."""
    if not request.path.endswith(STATS_PATH) or response.status_code != 200 or not response.is_json:
        return response
    document = {**response.get_json(), "extended_stats": [{"key": KEY, "data": rows(summary())}]}
    response.set_data(json.dumps(document))
    return response
