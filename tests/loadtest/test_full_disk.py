"""A disk that fills up during a run, imitated by RLIMIT_FSIZE, which needs no mount.

A file then grows to the limit, perhaps by a part of a write, as on a full disk. Python ignores the
signal, so the write fails with EFBIG.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from compare import load
from figures.results import RunResults
from figures.slo import EXIT_BROKEN, EXIT_INVALID, EXIT_OK, exit_code
from output.read_run import read_records, read_run
from output.write_run import RunOutput, write_whole
from serving.child_server import ServerProcess

from tests.support.load_runs import FREE, command, summary
from tests.support.paths import ROOT
from tests.support.run_folders import HEADER, made_up, write_run

LIMITED = (
    "import os, resource, sys; size = int(sys.argv[1]); "
    "resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)); os.execv(sys.argv[2], sys.argv[2:])"
)
LOAD = ("-t", "3s", "--rate", "60", "--workload", "32/6=2,16/4", "--warmup", "0.5", *FREE)
REASON = "File too large"
# The most bytes of a file, and the options besides the load's.
RUNS: dict[str, tuple[int, tuple[str, ...]]] = {
    "records": (32_000, ()),  # less than them, more than a summary
    "two processes": (32_000, ("--processes", "2")),
    "everything": (6_000, ()),
    "nothing": (2_000, ()),
    "search": (6_000, ("--find-max-rate", "--slo", "e2e:p50<1us")),
}
Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def runs(
    replay_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[tuple[Done, Path]]]]:
    url, folder = replay_server.ports.url("grpc"), tmp_path_factory.mktemp("full")

    def limited(place: Path, size: int, arguments: tuple[str, ...]) -> tuple[Done, Path]:
        asked = command(url, place, *LOAD, *arguments)
        line = [sys.executable, "-c", LIMITED, str(size), *asked]
        return subprocess.run(line, capture_output=True, text=True), place

    with ThreadPoolExecutor(3) as pool:
        yield {
            name: pool.submit(limited, folder / name.replace(" ", "-"), *run)
            for name, run in RUNS.items()
        }


def report(folder: Path) -> str:
    """The report, as a person makes it when there is space again."""
    script = [sys.executable, str(ROOT / "loadtest" / "report.py"), str(folder)]
    done = subprocess.run(script, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return (folder / "report.html").read_text(encoding="utf-8")


def errors(done: Done) -> list[str]:
    assert "Traceback" not in done.stdout + done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith("error: ")]


@pytest.mark.parametrize("name", ["records", "two processes"])
def test_a_run_continues_without_its_records(
    runs: dict[str, Future[tuple[Done, Path]]], name: str
) -> None:
    done, folder = runs[name].result()
    (sentence,) = errors(done)
    path = folder / "records.jsonl"
    assert sentence == f"error: {path} cannot be written: {REASON}; the run goes on in memory"
    assert done.returncode == EXIT_BROKEN
    assert "held    ttft:p99<1000s" in done.stdout
    assert "(not whole: records.jsonl" in done.stdout
    assert path.stat().st_size == RUNS[name][0], "up to the last byte that there was space for"
    told = summary(folder)
    counts = told["counts"]
    kept = len(list(read_records(path, lambda _: None)))
    assert 20 < kept < counts["scheduled"] + counts["warmup"]
    assert counts["completed"] == counts["scheduled"] > 100, "the figures are of all"
    assert f"{counts['scheduled']:,} requests: " in done.stdout
    assert not list(folder.glob("*.partial*"))
    assert f"records.jsonl holds {kept} of the run" in report(folder)
    assert load(folder).values is None, "no intervals from some of the requests"


def test_a_run_that_can_write_no_file_prints_its_table(
    runs: dict[str, Future[tuple[Done, Path]]],
) -> None:
    done, folder = runs["everything"].result()
    (sentence,) = errors(done)
    assert "records.jsonl cannot be written" in sentence
    assert done.returncode == EXIT_BROKEN
    assert "held    ttft:p99<1000s" in done.stdout
    assert "(not whole: records.jsonl, " in done.stdout
    assert "summary.json" in done.stdout.splitlines()[-1]
    assert {path.name for path in folder.iterdir()} == {
        *("header.json", "records.jsonl", "server.jsonl", "summary.csv"),
    }, "one row is small enough"
    page = report(folder)
    assert "the run did not end by itself, or could not write it" in page
    assert "records.jsonl was cut off" in page
    so_far = json.loads((folder / "so-far.json").read_text(encoding="utf-8"))
    kept = len(list(read_records(folder / "records.jsonl", lambda _: None)))
    assert so_far["counts"]["scheduled"] + so_far["counts"]["warmup"] == kept > 0


def test_a_full_disk_is_reported_before_the_load(
    runs: dict[str, Future[tuple[Done, Path]]],
) -> None:
    done, folder = runs["nothing"].result()
    assert errors(done) == [f"error: --output {folder} cannot be written: {REASON}"]
    assert done.returncode == 2
    assert not list(folder.iterdir())


def test_a_search_completes_on_a_full_disk(runs: dict[str, Future[tuple[Done, Path]]]) -> None:
    done, folder = runs["search"].result()
    (sentence,) = errors(done)
    assert "records-60.jsonl cannot be written" in sentence
    assert "no rate held the SLOs: not even" in done.stdout
    assert "(not whole: records-60.jsonl, " in done.stdout
    assert done.returncode == EXIT_BROKEN
    assert not list(folder.glob("summary*.json"))
    assert "could not write it" in report(folder)


def test_a_rate_without_its_summary_is_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", made_up(60), rate=8.0)
    (folder / "summary.json").rename(folder / "summary-8.json")
    (folder / "records.jsonl").rename(folder / "records-8.jsonl")
    (folder / "records-16.jsonl").write_text("", encoding="utf-8")
    (folder / "server-16.jsonl").write_text("", encoding="utf-8")
    (note,) = (note for note in read_run(folder).notes if "no summary" in note)
    assert note.startswith("there is no summary of the rate 16: ")


@pytest.mark.parametrize("both", [False, True])
def test_a_run_survives_a_log_on_a_full_disk(
    replay_server: ServerProcess, tmp_path: Path, both: bool
) -> None:
    asked = command(replay_server.ports.url("grpc"), tmp_path / "run", *LOAD)
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            asked, stdout=full, stderr=full if both else subprocess.PIPE, text=True
        )
    assert done.returncode == EXIT_OK
    assert summary(tmp_path / "run")["counts"]["completed"] > 0
    if not both:
        sentence = "error: standard output cannot be written: No space left on device; "
        assert done.stderr.count(sentence) == 1
        assert done.stderr.count("held    ttft:p99<1000s") == 1
        assert "Traceback" not in done.stderr


def test_exit_code_of_a_missing_file() -> None:
    results = RunResults(HEADER)
    for record in made_up(60):
        results.add(record)
    assert exit_code(results.summary()) == EXIT_OK
    assert exit_code(results.summary(), whole=False) == EXIT_BROKEN
    results.note("worker 0 died at 3 s", voids=True)
    assert exit_code(results.summary(), whole=False) == EXIT_INVALID


def test_nothing_is_written_after_a_cut_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if there is space again: a line within another would spoil the file."""
    said: list[str] = []
    output = RunOutput(str(tmp_path), records=True, tell=said.append)
    output.begin("")
    output.write_records("one")
    written = (tmp_path / "records.jsonl").read_text()
    lines = output._records
    assert lines is not None
    lines.file.close()
    with Path("/dev/full").open("wb") as no_space:
        output._records = dataclasses.replace(lines, file=no_space)
        output.write_records("two")
        output.write_records("three")

    def full(_: Path, __: str) -> None:
        raise OSError(28, "No space left on device")

    write_whole(tmp_path / "header.json", "of the rate before")
    monkeypatch.setattr("output.write_run.write_whole", full)
    output.write_json("header.json", {})
    output.close()
    assert (tmp_path / "records.jsonl").read_text() == written == "one\n"
    assert output.not_whole == ["records.jsonl", "header.json"]
    assert len(said) == 1
    assert not (tmp_path / "header.json").exists(), "another round's would be taken for this one's"
