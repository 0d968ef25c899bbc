"""A mix of workloads, once it has run: figures, reports and comparisons of each workload."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from compare import failing, load, parse_conditions, ratios, table
from figures.record import RequestRecord
from figures.results import RunResults
from output.read_run import read_run
from output.web_tab import rows
from report import write_report

from tests.support.paths import ROOT
from tests.support.run_folders import HEADER, made_up, write_run


def mixed_records(count: int = 150) -> list[RequestRecord]:
    generator = random.Random(3)
    return [
        dataclasses.replace(record, workload=generator.choice(["chat", "128/128", "chat"]))
        for record in made_up(count, failed=2)
    ]


def test_merged_workloads_equal_those_of_one_worker() -> None:
    header = {**HEADER, "workloads": {"chat": 0.6, "128/128": 0.4}, "slos": ["chat:ttft<100ms"]}
    one, parts = RunResults(header), [RunResults(header) for _ in range(3)]
    for number, record in enumerate(mixed_records()):
        one.add(record)
        parts[number % 3].add(record)
    merged = RunResults()
    for part in parts:
        merged.merge(RunResults.decode(part.encode()))
    told = merged.summary()
    assert told == one.summary()
    assert told["workloads"]["chat"]["metrics"] != told["workloads"]["128/128"]["metrics"]
    (slo,) = told["slos"]
    assert slo["value_s"] == told["workloads"]["chat"]["metrics"]["ttft"]["p99"]


@pytest.mark.parametrize("header", [True, False])
def test_a_killed_mix_is_read_by_workload(tmp_path: Path, header: bool) -> None:
    made = mixed_records()
    folder = write_run(tmp_path / "run", made, finished=False)
    if header:
        document = {**HEADER, "workload": "chat=2,128/128", "workloads": {"chat": 2, "128/128": 1}}
        (folder / "header.json").write_text(json.dumps(document), encoding="utf-8")
    told = read_run(folder).summary
    for name in ("chat", "128/128"):
        ours = [each for each in made if each.workload == name and each.phase != "warmup"]
        assert told["workloads"][name]["counts"]["scheduled"] == len(ours)
        assert told["workloads"][name]["counts"]["warmup"] > 0
    page = write_report(folder).read_text(encoding="utf-8")
    assert "By workload" in page
    p99 = told["workloads"]["chat"]["metrics"]["ttft"]["p99"]
    assert f"{p99 * 1e3:,.1f}" in page
    table = {row["metric"]: row for row in rows(told)}
    assert table["chat: ttft"]["p99"] == f"{p99 * 1e3:,.1f}"
    assert table["128/128: requests"]["value"].startswith(
        f"{told['workloads']['128/128']['counts']['scheduled']:,}, "
    )


@pytest.mark.parametrize("with_records", [True, False])
def test_mixes_are_compared_workload_by_workload(tmp_path: Path, with_records: bool) -> None:
    made = mixed_records(400)
    slower = [
        dataclasses.replace(each, first_token_at=2 * each.first_token_at - each.scheduled_at)
        if each.workload == "chat" and each.first_token_at is not None
        else each
        for each in made
    ]
    paths = [
        write_run(tmp_path / name, records_, workloads={"chat": 2 / 3, "128/128": 1 / 3})
        for name, records_ in (("a", made), ("b", slower))
    ]
    first, second = (load(path if with_records else path / "summary.json") for path in paths)
    found = {(each.workload, each.metric, each.statistic): each for each in ratios(first, second)}
    of_chat, of_other = found["chat", "ttft", "p90"], found["128/128", "ttft", "p90"]
    assert of_chat.ratio == pytest.approx(2.0, rel=0.002)
    assert of_other.ratio == 1.0
    assert 1.0 < found["", "ttft", "p50"].ratio < 2.0
    assert of_chat.changed == with_records
    assert not of_other.changed
    assert "chat: ttft" in table(list(found.values()))
    conditions = parse_conditions("chat:ttft:p90>1.5, 128/128:ttft:p90>1.5, ttft:p90>3")
    assert failing(conditions, list(found.values())) == [
        f"FAILED chat:ttft:p90>1.5: the ratio is {of_chat.ratio:.3f}"
    ]


def test_a_condition_on_an_unknown_workload_is_refused(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a", made_up(60))
    script = [sys.executable, str(ROOT / "loadtest" / "compare.py"), str(path), str(path)]
    done = subprocess.run([*script, "--fail-if", "chat:ttft:p99>2"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "--fail-if must name a workload of both runs (none is), not 'chat'" in done.stderr


def test_plots_of_all_requests_omit_one_workloads_limit(tmp_path: Path) -> None:
    workloads = {"chat": 2.0, "128/128": 1.0}
    slos = ["ttft:p99<150ms", "chat:ttft:p99<160ms"]
    write_run(tmp_path / "run", mixed_records(), workloads=workloads, slos=slos)
    page = write_report(tmp_path / "run").read_text(encoding="utf-8")
    figures = "".join(re.findall(r"<svg.*?</svg>", page, re.S))
    assert "ttft:p99&lt;150ms" in figures
    assert "chat:ttft" not in figures
    assert "chat:ttft:p99&lt;160ms" in page


def test_a_single_workload_has_no_separate_figures(tmp_path: Path) -> None:
    run_ = read_run(write_run(tmp_path / "run", made_up(60), workloads={"128/128": 1.0}))
    assert run_.summary["workloads"] == {}
    assert "By workload" not in write_report(tmp_path / "run").read_text(encoding="utf-8")
