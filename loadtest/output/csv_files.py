"""A run as CSV (RFC 4180), for a spreadsheet: one row for each run, or for each request.

Columns have the names and values of summary.json and records.jsonl; times are in seconds. All runs
have the same columns, so that files can be appended.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from figures.histogram import PERCENTILES, percentile_name
from figures.record import RequestRecord
from figures.server_metrics import STEPS
from figures.traffic import COUNTS, METRICS
from figures.ttft_split import PARTS, WIDE_REMAINDER

SUMMARY_CSV, RECORDS_CSV = "summary.csv", "records.csv"
STATISTICS = ("mean", "min", *map(percentile_name, PERCENTILES), "max")
OF_THE_RUN = (
    "started_unix", "url", "model", "workload", "arrivals", "closed_loop", "rate", "users",
    "duration_s", "warmup_s", "seed", "workers",
)  # fmt: skip
OF_THE_SERVER = ("runtime", "checkpoint_sha256", "server")
RATES = ("offered_per_s", "requests_per_s", "output_tokens_per_s", "goodput_per_s", "goodput_share")
COMPUTE = ("input_s", "infer_s", "output_s")
METRICS_OF_A_REQUEST = ("ttft", "ttft_from_send", "tpot", "e2e", "send_lag")
Cell = str | int | float | bool | None


def summary_csv(summaries: Iterable[Mapping[str, Any]]) -> str:
    """The header, a row for each `RunResults.summary()`, and after a mix one for each workload.

    The column `part` has the workload's name, or "all" for the whole run.
    """
    rows = []
    for summary in summaries:
        rows.append(_of_run(summary) | {"part": "all"} | _of_traffic(summary) | _of_server(summary))
        for name, workload in (summary.get("workloads") or {}).items():
            rows.append(_of_run(summary) | {"part": name} | _of_traffic(workload))
    columns = [*_of_run(None), "part", *_of_traffic(None), *_of_server(None)]
    text = io.StringIO()
    _write(text, columns, rows)
    return text.getvalue()


def write_records(records: Iterable[RequestRecord], file: TextIO) -> int:
    """Write a row for each request, in order; returns how many. `itl_mean_s` is its mean gap.

    `file` must be open with `newline=""`, which keeps line ends.
    """
    count = 0

    def rows() -> Iterable[dict[str, Cell]]:
        nonlocal count
        for record in records:
            count += 1
            yield _of_request(record)

    fields = [each.name for each in dataclasses.fields(RequestRecord) if each.name != "gaps"]
    _write(file, [*fields, *(f"{name}_s" for name in METRICS_OF_A_REQUEST), "itl_mean_s"], rows())
    return count


def _write(file: TextIO, columns: list[str], rows: Iterable[Mapping[str, Cell]]) -> None:
    writer = csv.DictWriter(file, columns, restval="", lineterminator="\r\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(value) for name, value in row.items()})


def _cell(value: Cell) -> str | int | float:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else value


def _of_run(summary: Mapping[str, Any] | None) -> dict[str, Cell]:
    header = (summary or {}).get("header", {})
    served = header.get("served") or {}
    slos = (summary or {}).get("slos", [])
    other = (
        ("arrivals", "rate") if header.get("closed_loop") else ("users",)
    )  # without meaning here
    return {
        **{name: None if name in other else header.get(name) for name in OF_THE_RUN},
        **{name: served.get(name) for name in OF_THE_SERVER},
        "slos": ",".join(each["slo"] for each in slos),
        "slos_held": all(each["held"] for each in slos),
        "valid": (summary or {}).get("validity", {}).get("valid"),
    }


def _of_traffic(traffic: Mapping[str, Any] | None) -> dict[str, Cell]:
    """None: the columns' names, without values."""
    figures = traffic or {}
    counts, rates, metrics = (figures.get(name, {}) for name in ("counts", "rates", "metrics"))
    row: dict[str, Cell] = {name: counts.get(name) for name in COUNTS}
    row |= {name: rates.get(name) for name in RATES}
    for name in METRICS:
        metric = metrics.get(name, {})
        row[f"{name}_count"] = metric.get("count")
        row |= {f"{name}_{each}_s": metric.get(each) for each in STATISTICS}
    return row


def _of_server(summary: Mapping[str, Any] | None) -> dict[str, Cell]:
    server = (summary or {}).get("server") or {}
    spent = {each["part"]: each["seconds"] for each in (server.get("split") or {}).get("parts", ())}
    row: dict[str, Cell] = {f"ttft_{n}_s": spent.get(n) for n in (*PARTS, WIDE_REMAINDER)}
    models = {each["model"]: each for each in server.get("models") or ()}
    for name in STEPS:
        model = models.get(name)
        row[f"{name}_queue_s"] = model and model["queue_s"]
        row[f"{name}_compute_s"] = model and sum(model[part] for part in COMPUTE)
    return row


def _of_request(record: RequestRecord) -> dict[str, Cell]:
    row = {name: getattr(record, name) for name in record.__slots__ if name != "gaps"}
    row |= {f"{name}_s": getattr(record, name) for name in METRICS_OF_A_REQUEST}
    gaps = record.itl
    return row | {"itl_mean_s": sum(gaps) / len(gaps) if gaps else None}
