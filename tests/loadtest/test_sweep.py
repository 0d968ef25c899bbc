"""One command for a load test at each of several rates or concurrencies."""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from output.sweep_page import sweep_page, sweep_table
from searches.sweep_steps import CONCURRENCIES, RATES, Step, Sweep, SweepError, parse_steps
from serving.child_server import ServerProcess
from sweep import parse, run

from tests.support.load_runs import FREE
from tests.support.paths import DEMO_CHECKPOINT, ROOT
from tests.support.run_folders import made_up, write_run

SCRIPT = ROOT / "loadtest" / "sweep.py"
RATE_1, RATE_8 = Step(RATES, 1.0), Step(RATES, 8.0)
# What is asked for, and what is wrong with it.
WRONG = {
    "1,2,fast": "--rates must be numbers above 0, as 1,2,4,8, not 'fast'",
    "0": "--rates must be numbers above 0, as 1,2,4,8, not '0'",
    "inf": "--rates must be numbers above 0, as 1,2,4,8, not 'inf'",
    "nan": "--rates must be numbers above 0, as 1,2,4,8, not 'nan'",
    "1,,2": "--rates must be numbers above 0, as 1,2,4,8, not ''",
    "8:1": "--rates must be 1 to 200 steps, not '8:1'",
    "1:1000000": "--rates must be 1 to 200 steps, not '1:1000000'",
    "1:2:3:4": "--rates must be as 1:8 or 1:8:2, not '1:2:3:4'",
}


def sweep_of(folder: Path, by: str, values: list[float], **header: Any) -> Sweep:
    """With made-up runs, the slower the higher."""
    folder.mkdir()
    sweep = Sweep.at(folder, by, ["-t", "12s"])
    for value in values:
        step = Step(by, value)
        records = made_up(120, ttft_s=0.05 * value)
        write_run(folder / step.folder, records, rate=value, **header)
        sweep.keep(step, 0)
    return sweep


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,2,4", [1, 2, 4]),
        ("0.5, 8,2", [0.5, 8, 2]),
        ("1:4", [1, 2, 3, 4]),
        ("0.1:0.3:0.1", [0.1, 0.2, 0.3]),
        ("1:8:3,20,20", [1, 4, 7, 20]),
    ],
)
def test_requested_steps_are_parsed(text: str, values: list[float]) -> None:
    assert [step.value for step in parse_steps(RATES, text)] == values


@pytest.mark.parametrize("text", WRONG)
def test_wrong_steps_get_one_sentence(text: str) -> None:
    with pytest.raises(SweepError) as refused:
        parse_steps(RATES, text)
    assert str(refused.value).startswith(WRONG[text])


def test_users_must_be_whole_numbers() -> None:
    with pytest.raises(SweepError, match=r"--concurrencies must be whole numbers.*, not '1\.5'"):
        parse_steps(CONCURRENCIES, "1,1.5")
    (step,) = parse_steps(CONCURRENCIES, "8")
    assert step.arguments == ("--closed-loop", "-u", "8")
    assert (step.folder, str(step)) == ("users-8", "8 users")
    assert RATE_8.arguments == ("--rate", "8")


@pytest.mark.parametrize("name", ["--rate", "--rate=4", "-u", "--find-max-rate", "--csv=all"])
def test_a_sweep_refuses_options_that_its_steps_set(name: str) -> None:
    with pytest.raises(SweepError, match=f"^{name} is not an option of a sweep"):
        parse(["--rates", "1,2", "-t", "10s", name])


def test_other_options_go_to_the_load_test() -> None:
    options = parse(["-t", "10s", "--rates", "1", "-H", "a:1", "--slo", "ttft<1s"])
    assert (options.by, options.steps) == ("rates", "1")
    assert options.load_test == ["-t", "10s", "-H", "a:1", "--slo", "ttft<1s"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "error: one of the arguments --rates --concurrencies is required"),
        (["--rates", "1", "--concurrencies", "2"], "not allowed with"),
        (["--rates", "1", "--output", "/dev/null/x"], "error: /dev/null/x cannot be written"),
        (["--rates", "1", "--rte", "4"], "error: there is no option --rte; did you mean --rate?"),
    ],
)
def test_bad_input_gets_one_sentence(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    output = [] if "--output" in arguments or not arguments else ["--output", str(tmp_path)]
    command = [sys.executable, str(SCRIPT), *arguments, *output]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_another_sweeps_folder_is_refused(tmp_path: Path) -> None:
    sweep_of(tmp_path / "sweep", RATES, [1.0])
    for by, arguments in ((RATES, ["-t", "13s"]), (CONCURRENCIES, ["-t", "12s"])):
        with pytest.raises(SweepError, match=r"holds a sweep of --rates .* \(-t 12s\)"):
            Sweep.at(tmp_path / "sweep", by, arguments)
    again = Sweep.at(tmp_path / "sweep", RATES, ["-t", "12s"])
    assert again.is_done(RATE_1)
    assert not again.is_done(RATE_8)
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    with pytest.raises(SweepError, match="cannot be read as a sweep"):
        Sweep.at(tmp_path / "sweep", RATES, [])


@pytest.mark.parametrize("by", [RATES, CONCURRENCIES])
def test_the_table_and_the_page_show_the_steps(tmp_path: Path, by: str) -> None:
    sweep = sweep_of(tmp_path / "sweep", by, [8.0, 1.0, 2.0], slos=["ttft:p99<500ms"])
    head, *rows = (line.split() for line in sweep_table(sweep).splitlines())
    assert head[0] == ("rate/s" if by == RATES else "users")
    assert [row[0] for row in rows] == ["1", "2", "8"]
    for row, step in zip(rows, sweep.steps(), strict=True):
        summary = json.loads((sweep.folder / step["folder"] / "summary.json").read_text())
        times = [summary["metrics"][n][p] for n in ("ttft", "itl") for p in ("p50", "p99")]
        told = [float(cell.replace(",", "")) / 1e3 for cell in row[4:8]]
        assert told == pytest.approx(times, rel=0.01)
        rate = summary["rates"]["output_tokens_per_s"]
        assert float(row[3].replace(",", "")) == pytest.approx(rate, rel=0.01)
    assert rows[0][-1] == "held"
    assert rows[2][-2:] == ["BROKEN", "ttft:p99<500ms"]
    page = sweep_page(sweep)
    assert not re.search(r"<script|<link|<img|@import|url\(|src=|https?://", page)
    assert re.findall(r'href="([^"]+)"', page) == [
        f"{step['folder']}/report.html" for step in sweep.steps()
    ]
    assert "TTFT against throughput" in page
    assert ("TTFT against the offered rate" in page) == (by == RATES)
    plots = [ElementTree.fromstring(text) for text in re.findall(r"<svg.*?</svg>", page, re.S)]
    dots = [each for each in plots[0].iter() if each.tag.endswith("circle")]
    assert len(dots) == 2 * len(rows), "p50 and p99 of each step"
    labels = [each.text for each in plots[0].iter() if each.get("class") == "mid name"]
    assert {"1", "2", "8"} <= set(labels), "the load stands at its point"


def start(url: str, folder: Path) -> subprocess.Popen[str]:
    load = ("-t", "2s", "--warmup", "0.2", "--workload", "32/6", "--no-text-check", *FREE)
    tokenizer = str(DEMO_CHECKPOINT / "tokenizer.json")
    command = [sys.executable, str(SCRIPT), "--rates", "20,40", "--output", str(folder), "-H", url]
    return subprocess.Popen(
        [*command, "--tokenizer", tokenizer, *load],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_an_interrupted_sweep_continues(replay_server: ServerProcess, tmp_path: Path) -> None:
    url, folder = replay_server.ports.url("grpc"), tmp_path / "sweep"
    with start(url, folder) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("step 2 of 2"):
                process.send_signal(signal.SIGINT)
    text = "".join(lines)
    assert process.wait() == 130, text
    assert "1 of 2 steps are left" in text
    assert "Traceback" not in text
    first = folder / "rate-20" / "summary.json"
    written = first.stat().st_mtime_ns

    process = start(url, folder)
    text, _ = process.communicate()
    assert process.returncode == 0, text
    assert "step 1 of 2, 20 requests/s: done before" in text
    assert first.stat().st_mtime_ns == written
    with (folder / "sweep.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["rate"]) for row in rows] == [20, 40]
    steps = json.loads((folder / "sweep.json").read_text())["steps"]
    for row, step in zip(rows, steps, strict=True):
        summary = json.loads((folder / step["folder"] / "summary.json").read_text())
        assert row["ttft_p99_s"] == str(summary["metrics"]["ttft"]["p99"])
        assert step["metrics"] == summary["metrics"]
        assert summary["counts"]["completed"] > 0
        assert (folder / step["folder"] / "report.html").is_file()
    assert 'href="rate-40/report.html"' in (folder / "sweep.html").read_text()


def test_a_finished_sweep_sends_no_requests(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its server may be gone: the table and the page are made from what is there."""
    sweep = sweep_of(tmp_path / "sweep", RATES, [1.0, 8.0])
    options = parse(["--rates", "1,8", "-t", "12s", "--output", str(sweep.folder)])
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        assert run(options) == 0
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert sweep_table(sweep) in capsys.readouterr().out
