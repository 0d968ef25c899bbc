"""The load test's report: what it shows for which run, and that it is self-contained."""

from __future__ import annotations

import itertools
import json
import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest
from figures.histogram import Histogram
from figures.results import RunResults
from figures.server_samples import ServerSampler
from output.plots import log_bins
from output.read_run import RunFilesError, read_run
from output.svg import Line, Mark, even_ticks, line_plot, log_ticks, short
from output.terminal_table import run_table
from output.web_tab import COLUMNS, rows
from output.write_run import write_whole

from tests.support.colour_vision import VISION, contrast, difference
from tests.support.paths import LOADTEST
from tests.support.run_folders import HEADER, made_up, write_run

REPORT = LOADTEST / "report.py"
STYLE = (LOADTEST / "output" / "report.html.j2").read_text(encoding="utf-8").split("style>")[1]


def report(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *flags, str(REPORT), str(folder)], capture_output=True, text=True
    )


def page_of(folder: Path) -> str:
    done = report(folder)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return (folder / "report.html").read_text(encoding="utf-8")


def figures(page: str) -> list[ElementTree.Element]:
    """Every SVG is well-formed, or this raises."""
    return [ElementTree.fromstring(text) for text in re.findall(r"<svg.*?</svg>", page, re.S)]


def test_a_report_is_self_contained(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "run", made_up(120, failed=3)))
    assert not re.search(r"<script|<link|<img|@import|url\(|(src|href)=", page)
    assert len(figures(page)) >= 6
    parser = HTMLParser()
    parser.feed(page)
    parser.close()


def test_a_report_has_the_summarys_numbers(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", made_up(120, failed=3))
    page = page_of(folder)
    summary = json.loads((folder / "summary.json").read_text())
    assert f"{summary['metrics']['ttft']['p99'] * 1e3:,.1f}" in page
    assert "normal/UNAVAILABLE" in page
    assert "the queue is &lt;full&gt;" in page, "messages of a server are no HTML"
    assert "INVALID" not in page


def test_a_reports_header_names_the_engine(tmp_path: Path) -> None:
    served = {"runtime": "openvino", "model": "demo", "checkpoint_sha256": "c33fc1d4" * 8,
              "precision": "f32", "server": "triton 2.51.0"}  # fmt: skip
    page = page_of(write_run(tmp_path / "run", made_up(120), served=served))
    head = page.partition("Objectives")[0]
    told = "ensemble at 127.0.0.1:8001 · runtime openvino · checkpoint demo (sha256 c33fc1d4c33f)"
    assert f"{told} · precision f32 · triton 2.51.0" in head
    table = run_table(read_run(tmp_path / "run").summary)
    assert "runtime openvino, checkpoint demo (sha256 c33fc1d4c33f), precision f32" in table


def test_verdicts_come_first_and_options_are_collapsed(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "run", made_up(120)))
    order = ["ttft:p99&lt;2000ms", 'class="cards"', "<svg", "<details><summary>Options"]
    places = [page.index(each) for each in order]
    assert places == sorted(places)
    assert "<code>arrivals</code>" in page.partition("<details>")[2].partition("</details>")[0]
    assert "<details open" not in page


@pytest.mark.parametrize("dark", [False, True])
def test_colours_can_be_told_apart(dark: bool) -> None:
    light_rules, _, dark_rules = STYLE.partition("prefers-color-scheme:dark")
    rules = dark_rules if dark else light_rules
    ground = re.search(r"--bg:(#[0-9a-f]{6})", rules)
    colours = re.findall(r"--c\d:(#[0-9a-f]{6})", rules)
    assert ground is not None
    assert len(colours) == 7
    for colour in colours:
        assert contrast(colour, ground[1]) >= 3
    for vision in VISION:
        for one, other in itertools.combinations(colours, 2):
            assert difference(one, other, vision) > 18, (vision, one, other)


def test_lines_of_one_plot_differ_in_their_dashes_too(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "run", made_up(120, failed=3)))
    dashes = dict(re.findall(r"\.line\.(s\d)\{stroke-dasharray:([^;}]+)", page))
    plots = re.findall(r"<figure>.*?</figure>", page, re.S)
    assert plots
    for plot in plots:
        drawn = re.findall(r'class="line (s\d)"', plot.partition("<figcaption>")[0])
        patterns = [dashes.get(each, "solid") for each in drawn]
        assert len(set(patterns)) == len(patterns), drawn
        legend = re.findall(r'class="line (s\d)"', plot.partition("<figcaption>")[2])
        assert legend == drawn, "the legend shows the line as it is drawn"


def test_two_plots_stand_side_by_side_at_1100_pixels() -> None:
    (padding,) = re.findall(r"padding:20px (\d+)px", STYLE)
    for name in ("plots", "two"):
        gap, least = re.findall(rf"\.{name}{{[^}}]*gap:(?:0 )?(\d+)px[^}}]*min\((\d+)px", STYLE)[0]
        assert 2 * int(least) + int(gap) <= 1100 - 2 * int(padding)


def test_each_model_of_the_server_is_reported(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", made_up(120))
    summary = json.loads((folder / "summary.json").read_text())
    times = {"request": 0.0123, "queue": 0.0456, "input": 1e-4, "infer": 0.0112, "output": 3e-4}
    model = {"model": "preprocessing", "requests": 1234, "executions": 617}
    model |= {f"{part}_s": seconds for part, seconds in times.items()}
    summary["server"] = {"models": [model], "models_s": 10.0}
    (folder / "summary.json").write_text(json.dumps(summary))
    row = "<td class=n>".join(
        f"{each}</td>" for each in ("1,234", "617", "12.3", "45.6", "0.100", "11.2", "0.300")
    )
    assert f"<b>preprocessing</b></td><td class=n>{row}" in page_of(folder)
    told = next(line for line in run_table(summary).splitlines() if "preprocessing" in line)
    assert told.split() == [
        "preprocessing",
        "1,234",
        "617",
        "12.3",
        "45.6",
        "0.100",
        "11.2",
        "0.300",
    ]
    tab = {row["metric"]: row["mean"] for row in rows(summary)}
    assert tab["server: preprocessing queue"] == "45.6"
    assert tab["server: preprocessing compute"] == "11.6"


def test_an_invalid_run_says_so_at_the_top(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "run", made_up(120), cpu=0.99))
    assert page.index("INVALID") < page.index("Objectives")
    assert "used 99% of its core" in page


@pytest.mark.parametrize("count", [0, 1])
def test_runs_with_nothing_or_one_request_have_a_report(tmp_path: Path, count: int) -> None:
    records = made_up(21)[20 : 20 + count]
    page = page_of(write_run(tmp_path / "run", records))
    figures(page)
    assert ("no request was measured" in page.lower()) == (count == 0)
    assert "nan" not in page.lower()


def test_a_killed_run_has_a_report_from_its_records(tmp_path: Path) -> None:
    whole = made_up(100)
    folder = write_run(tmp_path / "run", whole, finished=False)
    cut = (folder / "records.jsonl").read_text()[:-40]
    (folder / "records.jsonl").write_text(cut)
    run = read_run(folder)
    assert run.summary["counts"]["scheduled"] == 79  # 100, 20 of the warm-up, and the cut one
    (folder / "header.json").write_text(json.dumps({**HEADER, "duration_s": 600.0}))
    rates = read_run(folder).summary["rates"]
    assert 9 < rates["requests_per_s"] < 11, "of the time that it ran, not of the planned one"
    page = page_of(folder)
    assert "records.jsonl was cut off" in page
    assert "did not end by itself" in page
    assert json.loads((folder / "so-far.json").read_text())["counts"]["scheduled"] == 79


def test_a_search_plots_latency_against_rate(tmp_path: Path) -> None:
    folder = tmp_path / "search"
    folder.mkdir()
    for rate in (2.0, 4.0, 8.0):
        run = write_run(tmp_path / f"{rate}", made_up(120, ttft_s=0.05 * rate), rate=rate)
        (run / "summary.json").rename(folder / f"summary-{rate:.3g}.json")
    assert "TTFT against the offered rate" in page_of(folder)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("records.jsonl", '{"request_id": "1"}\n', "line 1"),
        ("records.jsonl", "not json\n" + made_up(1)[0].to_json() + "\n", "line 1"),
        ("summary.json", "{", "cannot be read as JSON"),
        ("summary.json", "[1, 2]", "is not a summary of a load test"),
        ("summary.json", '{"hello": 1}', "it has no 'header'"),
        ("other.txt", "hello", "holds neither records.jsonl nor summary.json"),
    ],
)
def test_wrong_files_get_one_sentence(tmp_path: Path, name: str, text: str, sentence: str) -> None:
    (tmp_path / name).write_text(text)
    done = report(tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "report.html").exists()


def test_a_search_shows_the_highest_rate_within_the_objectives(tmp_path: Path) -> None:
    folder = tmp_path / "search"
    folder.mkdir()
    for rate, held in ((4.0, True), (8.0, True), (16.0, False)):
        run = write_run(tmp_path / f"{rate}", made_up(120, seed=int(rate)), rate=rate)
        summary = json.loads((run / "summary.json").read_text()) | {"held": held}
        (folder / f"summary-{rate:.3g}.json").write_text(json.dumps(summary))
        (run / "records.jsonl").rename(folder / f"records-{rate:.3g}.jsonl")
    told = read_run(folder)
    assert told.summary["header"]["rate"] == 8
    assert told.results is not None
    assert told.results.summary()["metrics"] == told.summary["metrics"]
    page = page_of(folder)
    assert "are of 8 requests/s, the highest that held the SLOs" in page
    assert "ITL: how many took how long" in page


def test_only_the_page_needs_a_package(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", made_up(1))
    assert report(folder, "-S").stderr.count("\n") == 1
    assert "has no package 'jinja2': `make loadtest` installs" in report(folder, "-S").stderr
    assert not (folder / "report.html").exists()
    done = subprocess.run([sys.executable, "-S", str(REPORT), "--csv", str(folder)])
    assert done.returncode == 0
    assert (folder / "records.csv").is_file()


def test_a_missing_folder_gets_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunFilesError, match="does not exist"):
        read_run(tmp_path / "nowhere")


def test_a_page_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "page.html"
    write_whole(target, "first")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(target, "second")
    assert target.read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_every_value_is_in_one_bin() -> None:
    histogram = Histogram()
    values = [0.0, 0.0003, 0.02, 0.02, 0.5, 3.0]
    for value in values:
        histogram.add(value)
    bins = log_bins(histogram)
    assert sum(count for _, _, count in bins) == len(values)
    assert all(math.isclose(a[1], b[0]) for a, b in itertools.pairwise(bins))
    (low, high, _) = next(each for each in bins if each[2] == 2)
    assert low <= 20 <= high


def test_lines_are_thinned_without_losing_a_spike() -> None:
    points = [(float(at), 1000.0 if at == 777 else 1.0) for at in range(5000)]
    figure = line_plot([Line("p99", points, 0)], "x", "y", [Mark(900, "limit", 5, across=True)])
    assert len(figure) < 10_000
    svg, *_ = figures(figure)  # and those of the legend
    path = next(each for each in svg.iter() if each.get("class") == "line s0")
    heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", path.get("d", ""))]
    assert min(heights) < 40 < 200 < max(heights)


def test_ticks_are_round_and_inside() -> None:
    assert even_ticks(0, 7.3) == [0, 2, 4, 6]
    assert even_ticks(0, 0.004) == [0, 0.001, 0.002, 0.003, 0.004]
    assert log_ticks(3, 60) == [5, 10, 20, 50]
    assert [short(each) for each in (0, 0.25, 1234, 56_000, 3e6)] == [
        "0",
        "0.25",
        "1,234",
        "56k",
        "3M",
    ]


def test_unreadable_metrics_are_reported_with_the_option() -> None:
    sampler = ServerSampler("http://127.0.0.1:1/metrics")
    sampler.sample()
    summary = {**RunResults(HEADER).summary(), "server": sampler.summary(None, None)}
    told = "the server's metrics at http://127.0.0.1:1/metrics could not be read: "
    (line,) = [line for line in run_table(summary).splitlines() if line.startswith(told)]
    assert line.endswith("name them with --metrics-url")
    assert line in {row["value"] for row in rows(summary)}


def test_the_web_tab_has_the_summarys_rows(tmp_path: Path) -> None:
    summary = read_run(write_run(tmp_path / "run", made_up(120, failed=3), cpu=0.99)).summary
    table = {row["metric"]: row for row in rows(summary)}
    assert all(set(row) == {*COLUMNS, "safe_name"} for row in table.values())
    assert table["ttft"]["p99"] == f"{summary['metrics']['ttft']['p99'] * 1e3:,.1f}"
    assert table["SLO ttft:p99<2000ms"]["value"] == "held"
    assert table["SLO ttft:p99<2000ms"]["p99"] == table["ttft"]["p99"]
    assert list(table)[:2] == ["INVALID", "SLO ttft:p99<2000ms"], "verdicts come first"
    assert table["failed: normal/UNAVAILABLE"]["value"] == "3"
    assert "used 99% of its core" in table["INVALID"]["value"]
    nothing = {row["metric"]: row for row in rows(RunResults(HEADER).summary())}
    assert nothing["SLO ttft:p99<2000ms"]["value"] == "no value"
