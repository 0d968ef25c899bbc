"""The load test's CSV files, read by Python's csv module and compared with the JSON files."""

from __future__ import annotations

import csv
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from output.csv_files import summary_csv
from output.write_run import RunOutput
from report import write_report

from tests.support.paths import ROOT
from tests.support.run_folders import HEADER, made_up, write_run

REPORT = ROOT / "loadtest" / "report.py"


def make_csv(folder: Path) -> None:
    command = [sys.executable, str(REPORT), str(folder), "--csv"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("CSV: ")


def read(path: Path) -> list[dict[str, str]]:
    """Strictly: a stray quote is an error; every row has every column."""
    raw = path.read_bytes()
    assert raw.count(b"\n") >= raw.count(b"\r\n") > 0
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
    assert all(None not in row and None not in row.values() for row in rows)
    return rows


def made_csv(folder: Path) -> list[dict[str, str]]:
    make_csv(folder)
    return read(folder / "summary.csv")


def assert_same(row: dict[str, str], traffic: dict[str, Any]) -> None:
    for name, count in traffic["counts"].items():
        assert int(row[name]) == count
    for name, rate in traffic["rates"].items():
        assert row[name] == ("" if rate is None else str(rate))
    for name, metric in traffic["metrics"].items():
        assert int(row[f"{name}_count"]) == metric["count"]
        for statistic, value in metric.items():
            if statistic != "count":
                told = row[f"{name}_{statistic}_s"]
                assert told == ("" if value is None else str(value)), (name, statistic)


def test_summary_row_has_the_summarys_values(tmp_path: Path) -> None:
    served = {"runtime": "replay", "checkpoint_sha256": "c33f", "server": "triton 2.51.0"}
    folder = write_run(
        tmp_path / "run", made_up(120, failed=3), served=served, model='a "model", ours\nnew'
    )
    (row,) = made_csv(folder)
    summary = json.loads((folder / "summary.json").read_text())
    assert_same(row, summary)
    header = summary["header"]
    assert row["model"] == header["model"], "quotes, commas and ends of lines come back"
    for name in ("url", "workload", "arrivals", "rate", "seed", "started_unix", "duration_s"):
        assert row[name] == str(header[name])
    assert {name: row[name] for name in served} == served
    assert (row["slos"], row["slos_held"], row["valid"]) == ("ttft:p99<2000ms", "true", "true")


def test_a_closed_loop_has_users_and_no_rate(tmp_path: Path) -> None:
    (plain,) = made_csv(write_run(tmp_path / "open", made_up(60), users=1))
    assert (plain["closed_loop"], plain["rate"], plain["users"]) == ("", "10.0", "")
    (row,) = made_csv(write_run(tmp_path / "closed", made_up(60), closed_loop=True, users=3))
    assert (row["closed_loop"], row["rate"], row["arrivals"], row["users"]) == ("true", "", "", "3")


def test_a_run_without_a_request_has_empty_cells(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [])
    (row,) = made_csv(folder)
    assert (row["scheduled"], row["ttft_p99_s"], row["goodput_share"]) == ("0", "", "")
    assert read(folder / "records.csv") == []


def test_a_mix_has_a_row_for_each_workload(tmp_path: Path) -> None:
    records = [
        dataclasses.replace(each, workload="chat" if number % 3 else "128/128")
        for number, each in enumerate(made_up(120))
    ]
    shares = {"chat": 2.0, "128/128": 1.0}
    folder = write_run(tmp_path / "run", records, workload="chat=2,128/128=1", workloads=shares)
    whole, *parts = made_csv(folder)
    summary = json.loads((folder / "summary.json").read_text())
    assert whole["part"] == "all"
    assert_same(whole, summary)
    assert [part["part"] for part in parts] == list(shares)
    for part in parts:
        assert_same(part, summary["workloads"][part["part"]])
        assert part["rate"] == whole["rate"]


def test_row_has_the_servers_times(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", made_up(120))
    summary = json.loads((folder / "summary.json").read_text())
    times = {"request_s": 0.5, "queue_s": 0.25, "input_s": 0.125, "infer_s": 0.5, "output_s": 0.125}
    model = {"model": "preprocessing", "requests": 7, "executions": 7, **times}
    split = {"parts": [{"part": "queue", "seconds": 0.25}, {"part": "other", "seconds": -0.5}]}
    summary["server"] = {"models": [model], "split": split}
    (folder / "summary.json").write_text(json.dumps(summary))
    (row,) = made_csv(folder)
    assert (row["preprocessing_queue_s"], row["preprocessing_compute_s"]) == ("0.25", "0.75")
    assert (row["ttft_queue_s"], row["ttft_other_s"]) == ("0.25", "-0.5")
    assert row["tensorrt_llm_queue_s"] == ""


def test_a_search_has_a_row_for_each_rate(tmp_path: Path) -> None:
    folder = tmp_path / "search"
    folder.mkdir()
    for rate in (16.0, 4.0):
        run = write_run(tmp_path / f"{rate}", made_up(120), rate=rate)
        (run / "summary.json").rename(folder / f"summary-{rate:.3g}.json")
    write_report(folder)
    assert [row["rate"] for row in read(folder / "summary.csv")] == ["4.0", "16.0"]


@pytest.mark.parametrize("finished", [True, False])
def test_each_request_has_a_row(tmp_path: Path, finished: bool) -> None:
    records = made_up(60, failed=3)
    folder = write_run(tmp_path / "run", records, finished=finished)
    make_csv(folder)
    rows = read(folder / "records.csv")
    assert len(rows) == len(records)
    for row, record in zip(rows, records, strict=True):
        document = json.loads(record.to_json())
        del document["gaps"]
        for name, value in document.items():
            told = "" if value is None else value
            assert row[name] == (str(told).lower() if isinstance(told, bool) else str(told)), name
        for name in ("ttft", "ttft_from_send", "tpot", "e2e", "send_lag"):
            value = getattr(record, name)
            assert row[f"{name}_s"] == ("" if value is None else str(value)), name
        mean = sum(record.itl) / len(record.itl) if record.itl else None
        assert row["itl_mean_s"] == ("" if mean is None else str(mean))


def test_a_run_writes_csv_and_json(tmp_path: Path) -> None:
    summary = json.loads((write_run(tmp_path / "run", made_up(60)) / "summary.json").read_text())
    output = RunOutput(str(tmp_path / "out"), records=True)
    for suffix in ("", "-8"):
        output.write_summary(summary, suffix)
        kept = json.loads((output.folder / f"summary{suffix}.json").read_text())
        assert kept == summary
        assert_same(read(output.folder / f"summary{suffix}.csv")[0], summary)


def test_all_runs_have_the_same_columns(tmp_path: Path) -> None:
    plain = json.loads((write_run(tmp_path / "a", made_up(60)) / "summary.json").read_text())
    other = {**plain, "header": {**HEADER, "rate": 3, "more": 1}, "server": {"models": []}}
    heads = {summary_csv([each]).partition("\r\n")[0] for each in (plain, other)}
    assert heads == {summary_csv([]).rstrip("\r\n")}
